//! Ways to reach a TPM.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest command that is sent.
pub const MAX_COMMAND_BYTES: usize = 4096;
/// Longest response that is read.
pub const MAX_RESPONSE_BYTES: usize = 4096;

/// Sends one command and returns its response; both whole, with their headers.
pub trait Transport {
    /// Does not look into the bytes beyond what it needs to know where the response ends.
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;
}

/// A character device of the kernel, `/dev/tpmrm0` or `/dev/tpm0`.
#[derive(Debug)]
pub struct Device {
    file: File,
}

/// A stream socket that carries raw commands, as `swtpm socket --server type=unixio` offers.
#[derive(Debug)]
pub struct UnixSocket {
    stream: UnixStream,
}

/// Any function that exchanges a command for a response.
pub struct Exchange<F>(pub F);

/// Why there is no way to a TPM.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Neither `device:PATH` nor `unix:PATH`.
    #[error("TPM access {0:?} is neither \"device:PATH\" nor \"unix:PATH\"")]
    Form(String),
    /// The path could not be opened.
    #[error("open TPM {}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Opens `device:PATH` or `unix:PATH`.
pub fn open(access: &str) -> Result<Box<dyn Transport + Send>, AccessError> {
    let (kind, path) = access.split_once(':').ok_or_else(|| AccessError::Form(access.to_owned()))?;
    let failed = |source| AccessError::Open { path: path.into(), source };
    match kind {
        "device" => Ok(Box::new(Device::open(path.as_ref()).map_err(failed)?)),
        "unix" => Ok(Box::new(UnixSocket::connect(path.as_ref()).map_err(failed)?)),
        _ => Err(AccessError::Form(access.to_owned())),
    }
}

impl Device {
    /// Opens the device; anything but a character device is refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if !file.metadata()?.file_type().is_char_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a character device"));
        }
        Ok(Self { file })
    }
}

impl Transport for Device {
    /// The kernel takes a command in one write and gives its response in one read; it has its own time limit per command.
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let written = self.file.write(command)?;
        if written != command.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the TPM device took only a part of the command"));
        }
        let mut response = vec![0; MAX_RESPONSE_BYTES];
        let read = self.file.read(&mut response)?;
        response.truncate(read);
        Ok(response)
    }
}

impl UnixSocket {
    /// Connects to `path`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::from_stream(UnixStream::connect(path)?)
    }

    /// Uses a connected stream.
    pub fn from_stream(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(SOCKET_LIMIT))?;
        stream.set_write_timeout(Some(SOCKET_LIMIT))?;
        Ok(Self { stream })
    }
}

impl Transport for UnixSocket {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.stream.write_all(command)?;
        let mut response = vec![0; HEADER_BYTES];
        self.stream.read_exact(&mut response)?;
        let size = u32::from_be_bytes([response[2], response[3], response[4], response[5]]);
        let size = usize::try_from(size).ok().filter(|size| (HEADER_BYTES..=MAX_RESPONSE_BYTES).contains(size));
        let size =
            size.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "response of the TPM has an impossible size"))?;
        response.resize(size, 0);
        self.stream.read_exact(&mut response[HEADER_BYTES..])?;
        Ok(response)
    }
}

impl<F: FnMut(&[u8]) -> io::Result<Vec<u8>>> Transport for Exchange<F> {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.0(command)
    }
}

impl<T: Transport + ?Sized> Transport for Box<T> {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        (**self).transact(command)
    }
}

impl<T: Transport + ?Sized> Transport for &mut T {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        (**self).transact(command)
    }
}

/// Tag, size, code.
const HEADER_BYTES: usize = 10;
/// Making an RSA key takes the slowest TPMs a minute.
const SOCKET_LIMIT: Duration = Duration::from_secs(120);
