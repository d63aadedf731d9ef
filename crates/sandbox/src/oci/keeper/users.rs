//! The user namespace of an instance, with a range of the host's ids that nobody else has.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use rustix::{
    process::{Signal, WaitOptions},
    thread::UnshareFlags,
};

use crate::{
    jail::{Attempt, Failure},
    oci::USERS,
    sys::{self, Fork},
};

/// Makes it: a child holds it until its map is written and a descriptor refers to it.
pub(super) fn make(first: u32) -> Result<OwnedFd, Failure> {
    let (mut ours, mut theirs) = UnixStream::pair().attempt("make a socket pair")?;
    match sys::fork().attempt("fork")? {
        Fork::Child => {
            drop(ours);
            let unshared = sys::unshare(UnshareFlags::NEWUSER).is_ok();
            let _ = theirs.write_all(&[u8::from(unshared)]);
            // Until the parent has what it wants, or is gone.
            let _ = theirs.read_exact(&mut [0]);
            std::process::exit(0)
        }
        Fork::Parent(child) => {
            drop(theirs);
            let made = named(&mut ours, child.as_raw_nonzero().get(), first);
            let _ = rustix::process::kill_process(child, Signal::KILL);
            let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
            made.attempt("make a user namespace")
        }
    }
}

fn named(child: &mut UnixStream, pid: i32, first: u32) -> io::Result<OwnedFd> {
    let mut unshared = [0];
    child.read_exact(&mut unshared)?;
    if unshared != [1] {
        return Err(io::Error::other("the kernel refuses one; hint: see user.max_user_namespaces"));
    }
    for map in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{pid}/{map}"), format!("0 {first} {USERS}"))?;
    }
    Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
}
