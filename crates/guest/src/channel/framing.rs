//! Messages on a stream: a 32-bit big-endian length, then protobuf.

use std::io;

use casemate_api::guest::MAX_MESSAGE;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use prost::Message;

/// The next message; `None` when the stream ended before one began.
pub(crate) async fn read<M: Message + Default>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > MAX_MESSAGE {
        return Err(io::Error::other(format!("message of {length} bytes, more than {MAX_MESSAGE}")));
    }
    let mut bytes = Vec::new();
    // Memory grows with what really came, not with what was announced.
    (&mut *stream).take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    M::decode(bytes.as_slice()).map(Some).map_err(io::Error::other)
}

/// Writes a message and sends it off.
pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &impl Message) -> io::Result<()> {
    let length = message.encoded_len();
    if length > MAX_MESSAGE {
        return Err(io::Error::other(format!("message of {length} bytes, more than {MAX_MESSAGE}")));
    }
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&u32::try_from(length).map_err(io::Error::other)?.to_be_bytes());
    message.encode(&mut bytes).map_err(io::Error::other)?;
    stream.write_all(&bytes).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use casemate_api::guest::{RecordsFrom, Stop};
    use futures::{executor::block_on, io::Cursor};

    use super::*;

    #[test]
    fn messages_round_trip_until_the_end_of_the_stream() {
        let mut bytes = Vec::new();
        block_on(write(&mut bytes, &RecordsFrom { next: 7 })).unwrap();
        block_on(write(&mut bytes, &RecordsFrom { next: 0 })).unwrap();
        let mut stream = Cursor::new(bytes);
        assert_eq!(block_on(read(&mut stream)).unwrap(), Some(RecordsFrom { next: 7 }));
        assert_eq!(block_on(read(&mut stream)).unwrap(), Some(RecordsFrom { next: 0 }));
        assert_eq!(block_on(read::<RecordsFrom>(&mut stream)).unwrap(), None);
    }

    #[test]
    fn refuses_long_and_truncated_messages() {
        let long = (MAX_MESSAGE as u32 + 1).to_be_bytes();
        assert!(block_on(read::<Stop>(&mut Cursor::new(long))).is_err());
        assert!(block_on(read::<Stop>(&mut Cursor::new([0, 0, 0, 9, 8]))).is_err());
        assert!(block_on(read::<Stop>(&mut Cursor::new([0, 0]))).is_err());
        assert!(block_on(read::<Stop>(&mut Cursor::new([0, 0, 0, 1, 0xff]))).is_err());
    }
}
