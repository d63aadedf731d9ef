//! The vTPM process, in a jail of its own beside the VMM's.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::Path,
    time::Duration,
};

use super::{Host, command, jails};
use crate::{
    DriverError,
    error::{Context, chain},
    jail,
    layout::Places,
    record::Record,
    socket,
};

/// Makes the directory of a fresh vTPM's state; swtpm makes a new TPM where it finds none.
pub(crate) fn create(places: &Places, user: u32) -> Result<(), DriverError> {
    let path = places.vtpm();
    fs::DirBuilder::new().mode(0o700).create(&path).context("create the vTPM's directory", &path)?;
    std::os::unix::fs::chown(&path, Some(user), Some(user)).context("give the directory to the vTPM", &path)
}

/// A started vTPM before the machine exists.
pub(crate) struct Session {
    data: UnixStream,
    control: UnixStream,
}

impl Session {
    /// Starts the vTPM's process and, by its flags, the TPM itself.
    pub(crate) fn start(host: &Host, places: &Places, record: &Record) -> Result<Self, DriverError> {
        let path = places.vtpm();
        let (control, their_control) = UnixStream::pair().context("make sockets for", &path)?;
        let (data, their_data) = UnixStream::pair().context("make sockets for", &path)?;
        for stream in [&control, &data] {
            stream.set_read_timeout(Some(ANSWER_LIMIT)).context("limit the wait for", &path)?;
        }
        let args = command::vtpm_provisioning(Path::new(command::inside::VTPM));
        spawn(host, places, record, args, &[their_control.into(), their_data.into()])?;
        Ok(Self { data, control })
    }

    /// Sends one TPM command and returns its response.
    pub(crate) fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.data.write_all(command)?;
        let mut response = vec![0_u8; HEADER];
        self.data.read_exact(&mut response)?;
        let size = u32::from_be_bytes([response[2], response[3], response[4], response[5]]);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if !(HEADER..=RESPONSE_LIMIT).contains(&size) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the vTPM announces {size} bytes")));
        }
        response.resize(size, 0);
        self.data.read_exact(&mut response[HEADER..])?;
        Ok(response)
    }

    /// Keeps the state of the running TPM (its PCRs) for the next process on the same directory, and ends this one.
    pub(crate) fn store_and_end(mut self) -> Result<(), DriverError> {
        for command in [STORE_VOLATILE, SHUTDOWN] {
            let outcome = self.control(command).map_err(|error| error.to_string());
            match outcome {
                Ok(0) => {}
                Ok(code) => return Err(failed(format!("control command {command} answered {code:#x}"))),
                Err(error) => return Err(failed(format!("control command {command}: {error}"))),
            }
        }
        // The state may be opened by the next process only once this one has ended: its end closes the connection.
        let _ = self.control.read(&mut [0_u8; 1]);
        Ok(())
    }

    fn control(&mut self, command: u32) -> io::Result<u32> {
        self.control.write_all(&command.to_be_bytes())?;
        let mut code = [0_u8; 4];
        self.control.read_exact(&mut code)?;
        Ok(u32::from_be_bytes(code))
    }
}

/// How a VMM reaches its vTPM.
pub(crate) enum Connection {
    /// It has the other end.
    Connected(OwnedFd),
    /// It connects by name.
    Listening(OwnedFd),
}

/// A socket of the vTPM to which its VMM alone can connect.
pub(crate) fn listen(places: &Places, vmm: u32) -> Result<Connection, DriverError> {
    let path = places.vtpm_socket();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let listener = socket::listen(&places.memory, name)?;
    std::os::unix::fs::chown(&path, Some(vmm), Some(vmm)).context("give the VMM", &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("close", &path)?;
    Ok(Connection::Listening(listener))
}

/// The control connection between vTPM and VMM: the vTPM's end, the VMM's end.
pub(crate) fn connection(places: &Places) -> Result<(OwnedFd, OwnedFd), DriverError> {
    let (vtpm, vmm) = UnixStream::pair().context("make sockets for", &places.vtpm())?;
    Ok((vtpm.into(), vmm.into()))
}

/// Starts the vTPM's process for the VMM. It ends with the VMM.
pub(crate) fn serve(host: &Host, places: &Places, record: &Record, connection: Connection) -> Result<(), DriverError> {
    let state = Path::new(command::inside::VTPM);
    match connection {
        Connection::Connected(socket) => spawn(host, places, record, command::vtpm(state), &[socket]),
        Connection::Listening(socket) => spawn(host, places, record, command::vtpm_listening(state), &[socket]),
    }
}

fn spawn(host: &Host, places: &Places, record: &Record, args: Vec<String>, sockets: &[OwnedFd]) -> Result<(), DriverError> {
    let path = places.state.join("vtpm.log");
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).context("open the log", &path)?;
    let program = host.swtpm.as_ref().ok_or_else(|| failed("this VMM has none".to_owned()))?;
    let spec = jails::vtpm(host, program, places, record, args);
    let descriptors: Vec<_> = std::iter::once(log.as_fd()).chain(sockets.iter().map(AsFd::as_fd)).collect();
    let join = |pid| record.group.join(pid);
    jail::launch(&host.jail_command, &spec, &descriptors, join)
        .map(|launched| host.children.adopt(launched.helper))
        .map_err(|error| failed(format!("{}{}", chain(&error), log_tail(&path))))
}

fn log_tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().last().map(|line| format!(" ({line})")).unwrap_or_default()
}

fn failed(detail: String) -> DriverError {
    DriverError::Process { program: "swtpm", detail }
}

/// Overwrites and removes every file of the state; the number of files and their bytes. `None` when there is no state.
pub(crate) fn wipe(places: &Places) -> Result<Option<(u64, u64)>, DriverError> {
    let path = places.vtpm();
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("read", &path),
    };
    let (mut files, mut bytes) = (0, 0);
    for entry in entries {
        let file = entry.context("read", &path)?.path();
        bytes += overwrite(&file).context("overwrite", &file)?;
        fs::remove_file(&file).context("remove", &file)?;
        files += 1;
    }
    fs::remove_dir(&path).context("remove", &path)?;
    Ok(Some((files, bytes)))
}

fn overwrite(path: &Path) -> io::Result<u64> {
    let file = File::options().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    let length = file.metadata()?.len();
    let zeros = vec![0_u8; usize::try_from(length.min(STATE_FILE_LIMIT)).unwrap_or_default()];
    file.write_all_at(&zeros, 0)?;
    Ok(length)
}

const STORE_VOLATILE: u32 = 10;
const SHUTDOWN: u32 = 3;

const HEADER: usize = 10;

/// Most bytes of a TPM response.
const RESPONSE_LIMIT: usize = 4096;

/// Making a primary RSA key takes a software TPM a second or two on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The tmpfs of the instance keeps it below that.
const STATE_FILE_LIMIT: u64 = 64 << 20;
