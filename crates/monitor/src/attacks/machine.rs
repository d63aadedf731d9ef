//! What stands for a machine: a process with guest memory, and one that it starts.

use std::{io::Write as _, os::fd::AsRawFd as _, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, memfd_create};

/// Makes its memory and says where; starts a child when it is told to.
pub(crate) fn run() -> Result<()> {
    let memory = memfd_create("ram", MemfdFlags::CLOEXEC).context("make guest memory")?;
    std::fs::File::from(memory.try_clone()?).write_all(&[0x5a; 4096]).context("write guest memory")?;
    println!("{}", memory.as_raw_fd());
    let mut lines = std::io::stdin().lines();
    lines.next().context("wait for the word")??;
    let child = Command::new("/proc/self/exe").arg("idle").spawn().context("start a child")?;
    println!("{}", child.id());
    idle()
}

/// Does nothing until it is ended.
pub(crate) fn idle() -> Result<()> {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
