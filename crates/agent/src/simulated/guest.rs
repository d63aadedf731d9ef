//! A played guest's end of the channel.

use std::{future::poll_fn, io};

use bytes::Bytes;
use casemate_api::guest::{FromGuest, MAX_MESSAGE, PREAMBLE, Record, RecordsFrom, ToGuest, from_guest};
use casemate_attester::sim::SoftTpm;
use casemate_sandbox::{ExitCause, fake::FakeMachine};
use futures::{SinkExt as _, StreamExt as _};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
    task::AbortHandle,
    time::sleep_until,
};
use tokio_util::{
    codec::{Framed, LengthDelimitedCodec},
    compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _},
};
use yamux::{Config, Connection, Mode, Stream};

use super::life::{Life, Process, Reaction};

type Framing = Framed<Compat<Stream>, LengthDelimitedCodec>;

/// From boot to the end of the machine.
pub(super) async fn play(mut machine: FakeMachine, tpm: SoftTpm) -> ExitCause {
    machine.print("CASEMATE-PHASE booted 0");
    let mut life = Life::new(tpm);
    loop {
        tokio::select! {
            connection = machine.accept() => {
                // Without more connections the machine can only be killed.
                let Some(io) = connection else { return std::future::pending().await };
                match session(io, &mut life).await {
                    Ok(cause) => {
                        if let ExitCause::Guest { check, detail } = &cause {
                            machine.print(&format!("CASEMATE-FATAL {check} {detail}"));
                        }
                        return cause;
                    }
                    Err(error) => machine.print(&format!("session ended: {error}")),
                }
            }
            () = ended(life.process.as_ref()) => life.end(),
        }
    }
}

/// One session; an error means that the host has gone and may come back.
async fn session(mut io: DuplexStream, life: &mut Life) -> io::Result<ExitCause> {
    preamble(&mut io).await?;
    let (mut streams, _driver) = accept_streams(io);
    let mut control = framed(next_stream(&mut streams).await?);
    say(&mut control, life.status()).await?;
    let mut records: Option<Framing> = None;
    let mut sent = None;
    loop {
        let reaction = tokio::select! {
            frame = control.next() => life.hear(hear(frame)?),
            stream = streams.recv(), if records.is_none() => {
                records = Some(framed(stream.ok_or_else(gone)?));
                Reaction::Nothing
            }
            next = records_from(records.as_mut()) => {
                let next = next?;
                life.acknowledged = next;
                sent.get_or_insert(next);
                Reaction::Nothing
            }
            () = ended(life.process.as_ref()) => {
                life.end();
                Reaction::Say(life.status())
            }
        };
        match reaction {
            Reaction::Nothing => {}
            Reaction::Say(message) => say(&mut control, message).await?,
            Reaction::Fatal(fatal) => return Ok(ExitCause::Guest { check: fatal.check, detail: fatal.detail }),
            Reaction::Panic => return Ok(ExitCause::Panic("Kernel panic - not syncing: played".into())),
        }
        if let (Some(records), Some(sent)) = (&mut records, &mut sent) {
            send_records(records, life, sent).await?;
        }
        if life.is_over() {
            return Ok(ExitCause::PoweredOff);
        }
    }
}

async fn preamble(io: &mut DuplexStream) -> io::Result<()> {
    let mut seen = [0; 24];
    while seen[..8] != PREAMBLE[..] {
        seen.rotate_left(1);
        seen[23] = io.read_u8().await?;
    }
    io.write_all(&seen).await
}

/// Moves the bytes of all streams until what is returned is dropped.
fn accept_streams(io: DuplexStream) -> (mpsc::Receiver<Stream>, AbortOnDrop) {
    let (sender, streams) = mpsc::channel(2);
    let task = tokio::spawn(async move {
        let mut connection = Connection::new(io.compat(), Config::default(), Mode::Server);
        while let Some(Ok(stream)) = poll_fn(|cx| connection.poll_next_inbound(cx)).await {
            // More streams than the protocol has are dropped.
            let _ = sender.try_send(stream);
        }
    });
    (streams, AbortOnDrop(task.abort_handle()))
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn next_stream(streams: &mut mpsc::Receiver<Stream>) -> io::Result<Stream> {
    streams.recv().await.ok_or_else(gone)
}

fn framed(stream: Stream) -> Framing {
    LengthDelimitedCodec::builder().max_frame_length(MAX_MESSAGE).new_framed(stream.compat())
}

fn hear(frame: Option<io::Result<bytes::BytesMut>>) -> io::Result<casemate_api::guest::to_guest::Message> {
    let message = ToGuest::decode(frame.ok_or_else(gone)??).map_err(io::Error::other)?;
    message.message.ok_or_else(|| io::Error::other("a message of no known kind"))
}

async fn say(control: &mut Framing, message: from_guest::Message) -> io::Result<()> {
    control.send(Bytes::from(FromGuest { message: Some(message) }.encode_to_vec())).await
}

async fn records_from(records: Option<&mut Framing>) -> io::Result<u64> {
    let Some(records) = records else { return std::future::pending().await };
    let frame = records.next().await.ok_or_else(gone)??;
    Ok(RecordsFrom::decode(frame).map_err(io::Error::other)?.next)
}

async fn send_records(records: &mut Framing, life: &Life, sent: &mut u64) -> io::Result<()> {
    let from = usize::try_from(*sent).unwrap_or(usize::MAX);
    for sealed in life.records.iter().skip(from) {
        let record = Record { seq: *sent, sealed: sealed.clone() };
        records.send(Bytes::from(record.encode_to_vec())).await?;
        *sent += 1;
    }
    Ok(())
}

async fn ended(process: Option<&Process>) {
    match process {
        Some(process) => sleep_until(process.until).await,
        None => std::future::pending().await,
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the host has gone")
}
