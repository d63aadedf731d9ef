//! Messages over TCP: each with its length before it. For answers that one datagram does not hold, and for who asks that way.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Client, PATIENCE, Remembered,
    message::{self, MAX_LONG_MESSAGE, MAX_QUESTION, Way},
};

/// Connections of one instance at the same time; more are closed at once.
const MAX_STREAMS: usize = 8;
/// Questions of one connection, one after the other.
const MAX_QUESTIONS: usize = 64;
/// After a connection that could not be taken, such as for want of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// Sends a question and takes the one answer.
pub(super) async fn ask(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write(&mut stream, question).await?;
    read(&mut stream, MAX_LONG_MESSAGE).await
}

/// Answers one instance, until it is dropped, and all its connections with it.
pub(super) async fn serve(listener: TcpListener, client: &Arc<Client>, remembered: &Arc<Remembered>) {
    let (room, mut open) = (Arc::new(Semaphore::new(MAX_STREAMS)), JoinSet::new());
    loop {
        while open.try_join_next().is_some() {}
        let Ok((stream, from)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        // As with datagrams: the packet filter has let nobody else through.
        if from.ip() != client.address {
            continue;
        }
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (client, remembered) = (Arc::clone(client), Arc::clone(remembered));
        open.spawn(async move {
            converse(stream, &client, &remembered).await;
            drop(permit);
        });
    }
}

/// Ends with the first message that is no question, and when nothing comes or goes for a while.
async fn converse(mut stream: TcpStream, client: &Client, remembered: &Remembered) {
    for _ in 0..MAX_QUESTIONS {
        let Ok(Ok(bytes)) = timeout(PATIENCE, read(&mut stream, MAX_QUESTION)).await else { return };
        let Some(question) = message::question(&bytes, Way::Stream) else { return };
        let answer = client.answer(&question, remembered).await;
        if !matches!(timeout(PATIENCE, write(&mut stream, &answer)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes, and {most} are the most")));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    // In one piece: some take a length that comes alone for the whole.
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lengths_are_believed_up_to_a_limit() {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        write(&mut ours, b"question").await.unwrap();
        assert_eq!(read(&mut theirs, 8).await.unwrap(), b"question");
        write(&mut ours, b"question").await.unwrap();
        assert_eq!(read(&mut theirs, 7).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn what_is_cut_off_is_no_message() {
        for cut in [&[][..], &[0], &[0, 4], &[0, 4, 1, 2, 3]] {
            let mut bytes = cut;
            assert_eq!(read(&mut bytes, 512).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{cut:?}");
        }
        assert_eq!(read(&mut &[0, 0][..], 512).await.unwrap(), b"");
    }
}
