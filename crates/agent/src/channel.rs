//! One session of the guest channel: preamble, yamux, two framed streams.
//!
//! The guest is not trusted: frames are bounded, windows are bounded, streams that it opens itself are dropped, and
//! whatever breaks the protocol ends the session.

use std::{future::poll_fn, io, time::Duration};

use bytes::Bytes;
use casemate_api::guest::{FromGuest, MAX_MESSAGE, PREAMBLE, Record, RecordsFrom, ToGuest, from_guest, to_guest};
use futures::{SinkExt as _, StreamExt as _};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::{
    codec::{Framed, LengthDelimitedCodec},
    compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _},
};
use yamux::{Config, Connection, Mode};

/// How long the guest may take to answer the preamble before the host tries a new connection.
pub(crate) const ECHO_WAIT: Duration = Duration::from_secs(10);
/// How long the guest may take from the preamble's echo to its first status.
pub(crate) const STATUS_WAIT: Duration = Duration::from_secs(20);
/// Bytes of noise (a cut frame of an earlier session) that are skipped before the echo.
const MAX_NOISE: usize = 16 << 20;
/// Streams of one session: ours, and room to see and drop the guest's.
const MAX_STREAMS: usize = 8;
/// Receive windows of all streams together.
const MAX_WINDOW: usize = 4 << 20;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The stream below.
    #[error("{0} on the guest channel")]
    Io(&'static str, #[source] io::Error),
    /// The multiplexer.
    #[error("multiplex the guest channel")]
    Yamux(#[from] yamux::ConnectionError),
    /// The guest took too long.
    #[error("the guest did not send {what} within {limit_s} s")]
    Timeout { what: &'static str, limit_s: u64 },
    /// The guest broke the protocol.
    #[error("the guest {0}")]
    Protocol(&'static str),
    /// A message did not decode.
    #[error("decode the guest's {0} message")]
    Decode(&'static str, #[source] prost::DecodeError),
    /// The guest, or the VMM, closed it.
    #[error("the guest channel was closed")]
    Closed,
}

/// The owner's ends of a session.
pub(crate) struct Wires {
    /// To the guest, after `Launch`.
    pub(crate) outgoing: mpsc::Receiver<to_guest::Message>,
    /// From the guest's control stream.
    pub(crate) control: mpsc::Sender<from_guest::Message>,
    /// From the guest's records stream.
    pub(crate) records: mpsc::Sender<Record>,
    /// Everything below is durable here.
    pub(crate) durable: watch::Receiver<u64>,
}

/// Runs one session over `io` until something ends it. `launch` is the encoded launch message, sent first.
pub(crate) async fn session<IO>(mut io: IO, random: [u8; 16], launch: &[u8], wires: Wires) -> Result<(), ChannelError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    preamble(&mut io, random).await?;
    let mut config = Config::default();
    config.set_max_num_streams(MAX_STREAMS).set_max_connection_receive_window(Some(MAX_WINDOW));
    let mut connection = Connection::new(io.compat(), config, Mode::Client);
    // Opening is lazy: a stream exists for the guest from its first bytes on.
    let control = poll_fn(|cx| connection.poll_new_outbound(cx)).await?;
    let records = poll_fn(|cx| connection.poll_new_outbound(cx)).await?;
    let talk = talk(framed(control), framed(records), launch, wires);
    tokio::select! {
        biased;
        ended = drive(connection) => ended,
        ended = talk => ended,
    }
}

/// Moves the bytes of all streams; a stream that the guest opens is dropped, which resets it.
async fn drive<IO>(mut connection: Connection<Compat<IO>>) -> Result<(), ChannelError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|cx| connection.poll_next_inbound(cx)).await {
            Some(Ok(stream)) => drop(stream),
            Some(Err(error)) => return Err(error.into()),
            None => return Err(ChannelError::Closed),
        }
    }
}

type Framing = Framed<Compat<yamux::Stream>, LengthDelimitedCodec>;

fn framed(stream: yamux::Stream) -> Framing {
    LengthDelimitedCodec::builder().max_frame_length(MAX_MESSAGE).new_framed(stream.compat())
}

async fn talk(mut control: Framing, records: Framing, launch: &[u8], wires: Wires) -> Result<(), ChannelError> {
    let Wires { mut outgoing, control: to_owner, records: to_spool, durable } = wires;
    control.send(Bytes::copy_from_slice(launch)).await.map_err(|error| ChannelError::Io("send the launch message", error))?;
    let limit_s = STATUS_WAIT.as_secs();
    let first = timeout(STATUS_WAIT, control.next());
    let first = first.await.map_err(|_| ChannelError::Timeout { what: "its status", limit_s })?;
    hand_on(first, &to_owner).await?;

    let (mut control_out, mut control_in) = control.split::<Bytes>();
    let send = async {
        while let Some(message) = outgoing.recv().await {
            let bytes = ToGuest { message: Some(message) }.encode_to_vec();
            control_out.send(Bytes::from(bytes)).await.map_err(|error| ChannelError::Io("send", error))?;
        }
        Err(ChannelError::Closed)
    };
    let receive = async {
        loop {
            hand_on(control_in.next().await, &to_owner).await?;
        }
    };
    tokio::select! {
        ended = send => ended,
        ended = receive => ended,
        ended = relay_records(records, to_spool, durable) => ended,
    }
}

async fn hand_on(frame: Option<io::Result<bytes::BytesMut>>, to: &mpsc::Sender<from_guest::Message>) -> Result<(), ChannelError> {
    let message: FromGuest = decode("control", frame)?;
    let message = message.message.ok_or(ChannelError::Protocol("sent a control message of no known kind"))?;
    to.send(message).await.map_err(|_| ChannelError::Closed)
}

/// Asks for records from the first one that is not durable here, and says after each sync how far it got.
async fn relay_records(
    records: Framing,
    to: mpsc::Sender<Record>,
    mut durable: watch::Receiver<u64>,
) -> Result<(), ChannelError> {
    let (mut out, mut incoming) = records.split::<Bytes>();
    let acknowledge = async {
        loop {
            let next = *durable.borrow_and_update();
            let bytes = RecordsFrom { next }.encode_to_vec();
            out.send(Bytes::from(bytes)).await.map_err(|error| ChannelError::Io("acknowledge records", error))?;
            durable.changed().await.map_err(|_| ChannelError::Closed)?;
        }
    };
    let receive = async {
        loop {
            let record: Record = decode("record", incoming.next().await)?;
            to.send(record).await.map_err(|_| ChannelError::Closed)?;
        }
    };
    tokio::select! {
        ended = acknowledge => ended,
        ended = receive => ended,
    }
}

fn decode<M: Message + Default>(what: &'static str, frame: Option<io::Result<bytes::BytesMut>>) -> Result<M, ChannelError> {
    let frame = frame.ok_or(ChannelError::Closed)?.map_err(|error| ChannelError::Io("receive", error))?;
    M::decode(frame).map_err(|error| ChannelError::Decode(what, error))
}

/// Sends the preamble and skips what comes until it comes back.
async fn preamble<IO: AsyncRead + AsyncWrite + Unpin>(io: &mut IO, random: [u8; 16]) -> Result<(), ChannelError> {
    let mut wanted = [0; 24];
    wanted[..8].copy_from_slice(PREAMBLE);
    wanted[8..].copy_from_slice(&random);
    let exchange = async {
        io.write_all(&wanted).await.map_err(|error| ChannelError::Io("send the preamble", error))?;
        io.flush().await.map_err(|error| ChannelError::Io("send the preamble", error))?;
        let mut seen = [0; 24];
        for _ in 0..MAX_NOISE {
            if seen == wanted {
                return Ok(());
            }
            // Byte by byte: what follows the echo belongs to yamux.
            seen.rotate_left(1);
            seen[23] = io.read_u8().await.map_err(|error| ChannelError::Io("read the preamble", error))?;
        }
        Err(ChannelError::Protocol("sent noise instead of the preamble"))
    };
    let limit_s = ECHO_WAIT.as_secs();
    timeout(ECHO_WAIT, exchange).await.map_err(|_| ChannelError::Timeout { what: "the preamble's echo", limit_s })?
}

#[cfg(test)]
mod tests;
