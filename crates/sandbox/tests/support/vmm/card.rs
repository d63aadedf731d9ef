//! The machine's network card, as both monitors open one, and a guest that sends frames by it.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
    sync::Mutex,
};

/// What frames begin with, once a monitor has said so: the header of virtio 1.
const HEADER: usize = 12;

/// The one card of this machine.
static CARD: Mutex<Option<File>> = Mutex::new(None);

/// Opens a card by its name. One that is missing would be made, if this process were allowed to.
pub(crate) fn open(name: &str) -> io::Result<()> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all-zero bytes are a valid `ifreq`, which has only numbers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).unwrap();
    // SAFETY: the descriptor is open for the whole call, and the kernel reads and writes one `ifreq`, which lives as long.
    let answer = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if answer == -1 {
        return Err(io::Error::last_os_error());
    }
    take(device.into())
}

/// Takes a card that somebody else has opened. Its namespace must be this process's: it is asked for the card's largest frame.
pub(crate) fn take(tap: OwnedFd) -> io::Result<()> {
    let size = libc::c_int::try_from(HEADER).unwrap();
    // SAFETY: the descriptor is open for the whole call, and the kernel reads one number, which lives as long.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above, of an `ifreq` that the kernel fills.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETIFF, &raw mut request) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None)?;
    // SAFETY: as above.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) } == -1 {
        return Err(io::Error::last_os_error());
    }
    *CARD.lock().unwrap() = Some(tap.into());
    Ok(())
}

/// Sends a frame, given in hexadecimal digits.
pub(crate) fn send(digits: &str) -> io::Result<()> {
    let frame = hex::decode(digits).map_err(io::Error::other)?;
    let card = CARD.lock().unwrap();
    let mut card = card.as_ref().ok_or(io::ErrorKind::NotConnected)?;
    card.write_all(&[vec![0; HEADER], frame].concat())
}
