//! One session: yamux, the control stream, the records stream.

use std::{future::poll_fn, io};

use casemate_api::guest::{FromGuest, Record, RecordsFrom, Status, ToGuest, from_guest};
use futures::{AsyncReadExt as _, io::ReadHalf, io::WriteHalf};
use tokio::sync::mpsc;
use yamux::{Config, Connection, Mode, Stream};

use super::{framing, port::SessionIo};
use crate::workload::spool::Spool;

/// What goes to the host.
pub(crate) struct Outgoing<'a> {
    pub(crate) messages: &'a mut mpsc::Receiver<FromGuest>,
    pub(crate) last_status: &'a mut Option<Status>,
}

/// Serves until the host is gone or breaks the protocol.
pub(crate) async fn run(
    io: SessionIo<'_>,
    to_life: &mpsc::Sender<ToGuest>,
    outgoing: Outgoing<'_>,
    spool: &Spool,
) -> io::Result<()> {
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS).set_max_connection_receive_window(Some(RECEIVE_WINDOW));
    let connection = Connection::new(io, config, Mode::Server);
    let (control_found, control) = mpsc::channel(1);
    let (records_found, records) = mpsc::channel(1);
    // The first of these to end is the end of the session.
    tokio::select! {
        ended = drive(connection, control_found, records_found) => ended,
        ended = serve_control(control, to_life, outgoing) => ended,
        ended = serve_records(records, spool) => ended,
    }
}

/// Moves the connection's bytes and hands out the host's two streams. Which is which is told by their numbers, because a
/// stream shows only with its first byte, whenever that comes.
async fn drive(
    mut connection: Connection<SessionIo<'_>>,
    control: mpsc::Sender<Stream>,
    records: mpsc::Sender<Stream>,
) -> io::Result<()> {
    loop {
        let stream = match poll_fn(|cx| connection.poll_next_inbound(cx)).await {
            None => return Ok(()),
            Some(Err(yamux::ConnectionError::Closed)) => return Ok(()),
            Some(Err(error)) => return Err(io::Error::other(error)),
            Some(Ok(stream)) => stream,
        };
        let to = match stream.id().val() {
            CONTROL => &control,
            RECORDS => &records,
            other => return Err(io::Error::other(format!("the host opened stream {other}"))),
        };
        to.try_send(stream).map_err(|_| io::Error::other("the host opened a stream twice"))?;
    }
}

async fn serve_control(
    mut found: mpsc::Receiver<Stream>,
    to_life: &mpsc::Sender<ToGuest>,
    outgoing: Outgoing<'_>,
) -> io::Result<()> {
    let (mut reader, writer) = split(&mut found).await;
    let receive = async {
        while let Some(message) = framing::read(&mut reader).await? {
            if to_life.send(message).await.is_err() {
                // The machine is about to end; only last words still go out.
                std::future::pending::<()>().await;
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = receive => ended,
        ended = send_control(writer, outgoing) => ended,
    }
}

async fn send_control(mut writer: WriteHalf<Stream>, outgoing: Outgoing<'_>) -> io::Result<()> {
    if let Some(status) = outgoing.last_status.clone() {
        framing::write(&mut writer, &FromGuest { message: Some(from_guest::Message::Status(status)) }).await?;
    }
    while let Some(message) = outgoing.messages.recv().await {
        if let Some(from_guest::Message::Status(status)) = &message.message {
            *outgoing.last_status = Some(status.clone());
        }
        framing::write(&mut writer, &message).await?;
    }
    Ok(())
}

async fn serve_records(mut found: mpsc::Receiver<Stream>, spool: &Spool) -> io::Result<()> {
    let (mut reader, writer) = split(&mut found).await;
    let Some(RecordsFrom { next }) = framing::read(&mut reader).await? else { return Ok(()) };
    spool.acknowledge(next).map_err(io::Error::other)?;
    let receive = async {
        while let Some(RecordsFrom { next }) = framing::read(&mut reader).await? {
            spool.acknowledge(next).map_err(io::Error::other)?;
        }
        Ok(())
    };
    tokio::select! {
        ended = receive => ended,
        ended = send_records(writer, spool, next) => ended,
    }
}

async fn send_records(mut writer: WriteHalf<Stream>, spool: &Spool, mut next: u64) -> io::Result<()> {
    loop {
        let (seq, sealed) = spool.record(next).await;
        framing::write(&mut writer, &Record { seq, sealed }).await?;
        next = seq + 1;
    }
}

async fn split(found: &mut mpsc::Receiver<Stream>) -> (ReadHalf<Stream>, WriteHalf<Stream>) {
    match found.recv().await {
        Some(stream) => stream.split(),
        // The driver is gone, and the session with it.
        None => std::future::pending().await,
    }
}

/// Numbers of the client's first and second stream.
const CONTROL: u32 = 1;
const RECORDS: u32 = 3;
const MAX_STREAMS: usize = 4;
const RECEIVE_WINDOW: usize = 4 << 20;
