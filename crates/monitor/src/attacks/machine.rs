//! What stands for a machine: a process with guest memory, and one that it starts.

use std::{
    io::Write as _,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::net::UnixStream,
    },
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::{node, sys};

/// Makes its memory and says where; starts a child when it is told to.
pub(crate) fn run() -> Result<()> {
    sys::enter(&std::fs::File::open(node::NETWORK).context("open the network that it has")?).context("enter its network")?;
    let memory = memfd_create("ram", MemfdFlags::CLOEXEC).context("make guest memory")?;
    std::fs::File::from(memory.try_clone()?).write_all(&[0x5a; 4096]).context("write guest memory")?;
    println!("{}", memory.as_raw_fd());
    let mut lines = std::io::stdin().lines();
    lines.next().context("wait for the word")??;
    // Its own, whoever else is in it.
    std::fs::File::open("/proc/self/ns/net").context("open its network once more")?;
    let child = Command::new("/proc/self/exe").arg("idle").spawn().context("start a child")?;
    println!("{}", child.id());
    let faults = sys::faults();
    // As a machine's processor does, even an idle one.
    loop {
        if let (Ok(faults), Ok(somebody)) = (&faults, UnixStream::connect(node::WANTED)) {
            let _ = sys::pass(&somebody, faults.as_fd());
        }
        std::thread::sleep(TICK);
    }
}

const TICK: Duration = Duration::from_millis(20);

/// Never rests, once it is let.
pub(crate) fn spin() -> Result<()> {
    rustix::process::setpriority_process(None, 0).context("be like others")?;
    std::io::stdin().lines().last();
    loop {
        std::hint::spin_loop();
    }
}

/// Does nothing until it is ended.
pub(crate) fn idle() -> Result<()> {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
