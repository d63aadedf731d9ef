//! A container on somebody's kernel: the image is the root already, ciphertext is in files, and what is decrypted lies on the instance's
//! scratch, which is memory.
//!
//! There is no verity root, no dm-crypt and no vTPM, and nothing here keeps the host's root from anything. The runtime has
//! mounted all that the workload sees; this process fills it, becomes the workload's user for the workload, and ends it.
//!
//! ```text
//! standard input        the host's channel, a connected socket
//! /casemate/disks/N     ciphertext, read-only
//! /casemate/shared/N    what is made here and the workload sees elsewhere
//! ```

use std::{
    cell::Cell,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use casemate_api::{
    guest,
    workload::{Asset, Isolation, Layer},
};
use casemate_evidence::Sha256Digest;
use casemate_seal::KeyRelease;
use rustix::{
    process::{DumpableBehavior, Pid, Signal, WaitOptions, kill_process, set_dumpable_behavior, wait},
    stdio::stdin,
};
use tokio::{
    io::AsyncReadExt as _,
    signal::unix::{SignalKind, signal},
    sync::Mutex,
    time::timeout,
};

use super::{Home, Running, Vouched};
use crate::{
    channel::port::Port,
    entropy,
    fatal::{Check, Fatal, OrFatal},
    observe, phase,
    storage::assets,
    sys,
    workload::{
        Bind, Plan, become_neighbour,
        process::{SETUP_FAILED, START_LIMIT, Streams, pipes},
        user::Identity,
    },
};

/// A container.
pub(crate) struct Container {
    level: Isolation,
}

impl Container {
    /// The level that the words of the command line name, if they name a container.
    pub(crate) fn asked(mut words: impl Iterator<Item = String>) -> Option<Result<Self, ExitCode>> {
        let level = match (words.next().as_deref(), words.next().as_deref(), words.next()) {
            (Some("--level"), Some("container"), None) => Isolation::Container,
            (Some("--level"), Some("sandbox"), None) => Isolation::Sandbox,
            (Some("--level"), ..) => return Some(Err(ExitCode::from(2))),
            _ => return None,
        };
        Some(Ok(Self { level }))
    }

    /// Makes sure that this is one, and closes what is this process's own to the workload.
    pub(crate) fn enter(self) -> Result<Self, Fatal> {
        phase::begin_here();
        let channel = File::from(stdin().try_clone_to_owned().or_fatal(Check::Container, "take the channel")?);
        let kind = channel.metadata().or_fatal(Check::Container, "look at the channel")?.file_type();
        if !kind.is_socket() {
            return Err(Fatal::new(Check::Container, "standard input is not a channel, so this is no container of an agent"));
        }
        // Its memory has the keys.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).or_fatal(Check::Container, "close the memory to others")?;
        let closed = fs::set_permissions(DIR, fs::Permissions::from_mode(0o700));
        closed.or_fatal(Check::Container, "close the folder of the ciphertext")?;
        entropy::wait_until_ready()?;
        Ok(self)
    }
}

impl Home for Container {
    type Process = Neighbour;

    fn level(&self) -> Isolation {
        self.level
    }

    fn open_port(&self) -> io::Result<Port> {
        Port::of_socket(File::from(stdin().try_clone_to_owned()?))
    }

    fn settle(&mut self) -> Result<(), Fatal> {
        Ok(())
    }

    /// There is nothing that could remember it; the launch names it.
    fn measure(&mut self, _: [u8; 32]) -> Result<(), Fatal> {
        Ok(())
    }

    /// Nobody here can vouch for anything: the node does.
    fn vouch(&mut self, _: &Sha256Digest) -> Result<Vouched, Fatal> {
        Ok(Vouched::default())
    }

    /// They were put together before this process began, by the launcher, whose record names their root hashes.
    fn open_layers(&mut self, _: &[Layer], slices: &[guest::Slice]) -> Result<(), Fatal> {
        if slices.is_empty() { Ok(()) } else { Err(Fatal::new(Check::Protocol, "layers came that nobody can open here")) }
    }

    fn next_chore(&mut self) -> Result<bool, Fatal> {
        Ok(false)
    }

    fn image(&self) -> &'static Path {
        Path::new("/")
    }

    fn open_assets(
        &self,
        assets: &[Asset],
        slices: &[guest::Slice],
        keys: &KeyRelease,
        owner: &Identity,
    ) -> Result<Vec<Bind>, Fatal> {
        assets::same_number(assets, slices)?;
        for (index, (asset, slice)) in assets.iter().zip(slices).enumerate() {
            let context = || format!("open asset {}", asset.name);
            let source = disk(slice).or_fatal(Check::AssetDigest, context())?;
            let mut target = File::options()
                .write(true)
                .truncate(true)
                .open(shared(&format!("asset{index}")))
                .or_fatal(Check::AssetDecrypt, context())?;
            assets::decrypt(asset, slice, keys, source, &mut target)?;
            let given = fchown(&target, Some(owner.uid), Some(owner.gid))
                .and_then(|()| target.set_permissions(fs::Permissions::from_mode(0o400)));
            given.or_fatal(Check::AssetDecrypt, context())?;
        }
        Ok(Vec::new())
    }

    fn output(&self) -> PathBuf {
        shared("output")
    }

    fn open_output(&self, _: &str, owner: &Identity) -> Result<Option<Bind>, Fatal> {
        owner.take_directory(&self.output()).or_fatal(Check::WorkloadStart, "make the output directory")?;
        Ok(None)
    }

    /// The interface came from outside, with its addresses, before the runtime was started, and the runtime has mounted the file that says
    /// who is asked for names. Nobody here has a privilege over either.
    fn connect(&self, _: &guest::Network) -> Result<Option<Bind>, Fatal> {
        Ok(None)
    }

    async fn start(&self, plan: &Plan) -> Result<(Neighbour, Streams), Fatal> {
        Neighbour::start(plan).await
    }

    fn observe(&self) -> Vec<guest::Observation> {
        // The kernel is the host's: what it is like is for the host to say.
        Vec::new()
    }

    fn end(&self) -> ! {
        std::process::exit(0)
    }
}

/// The workload, in the same PID namespace as this process: it can neither look into it nor end it.
pub(crate) struct Neighbour {
    first: Pid,
    /// Says that a child may have ended.
    children: Mutex<tokio::signal::unix::Signal>,
    /// How the first process ended; kept, because whoever waited for it may have been dropped.
    seen: Cell<Option<i32>>,
}

impl Neighbour {
    async fn start(plan: &Plan) -> Result<(Self, Streams), Fatal> {
        let attempt = "fork the workload's process";
        let children = signal(SignalKind::child()).or_fatal(Check::WorkloadStart, "watch for the end of processes")?;
        let (mut failure, failure_end, streams, ends) = pipes().or_fatal(Check::WorkloadStart, attempt)?;
        let first = match sys::fork().or_fatal(Check::WorkloadStart, attempt)? {
            sys::PlainFork::Parent(first) => first,
            sys::PlainFork::Child => {
                std::panic::set_hook(Box::new(|_| sys::exit_child(SETUP_FAILED)));
                let said = become_neighbour(plan, ends.stdout.as_fd(), ends.stderr.as_fd());
                let _ = File::from(failure_end).write_all(said.as_bytes());
                sys::exit_child(SETUP_FAILED)
            }
        };
        drop((failure_end, ends));
        let mut said = String::new();
        // Closed by the execution of the program, or with what went wrong before it.
        match timeout(START_LIMIT, failure.read_to_string(&mut said)).await {
            Ok(Ok(_)) if said.is_empty() => {}
            Ok(Ok(_)) => return Err(Fatal::new(Check::WorkloadStart, said)),
            Ok(Err(error)) => return Err(Fatal::new(Check::WorkloadStart, format!("watch the start of the process: {error}"))),
            Err(_) => return Err(Fatal::new(Check::WorkloadStart, "the program was not executed within 60 s")),
        }
        let process = Self { first, children: Mutex::new(children), seen: Cell::new(None) };
        Ok((process, streams))
    }

    /// Collects every child that ended; that of the workload is kept.
    fn reap(&self) -> io::Result<Option<i32>> {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.first => {
                    let signalled = || status.terminating_signal().map(|signal| 128 + signal);
                    self.seen.set(status.exit_status().or_else(signalled).or(Some(SETUP_FAILED)));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(self.seen.get()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Running for Neighbour {
    async fn exited(&self) -> io::Result<i32> {
        loop {
            if let Some(code) = self.reap()? {
                return Ok(code);
            }
            self.children.lock().await.recv().await;
        }
    }

    fn observe(&self) -> Option<guest::Observation> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.first.as_raw_nonzero())).ok()?;
        observe::workload(&status)
    }

    fn terminate(&self) {
        // Not reaped, so the number is still its own.
        if self.seen.get().is_none() {
            let _ = kill_process(self.first, Signal::TERM);
        }
    }

    fn kill(&self) {
        // Every process of the namespace but this one, its first.
        sys::kill_all_others();
    }
}

/// Ciphertext by the name that the host gave it.
fn disk(slice: &guest::Slice) -> io::Result<File> {
    let plain = slice.serial.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !plain || slice.serial.is_empty() || slice.offset_bytes != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the slice is no file of this container"));
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(Path::new(DIR).join("disks").join(&slice.serial))
}

fn shared(name: &str) -> PathBuf {
    Path::new(DIR).join("shared").join(name)
}

/// As the driver of containers mounts it.
const DIR: &str = "/casemate";

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(words: &[&str]) -> Option<Option<Isolation>> {
        Container::asked(words.iter().map(|word| (*word).to_owned())).map(|found| found.ok().map(|home| home.level))
    }

    #[test]
    fn only_its_own_words_make_it_a_container() {
        assert_eq!(asked(&["--level", "container"]), Some(Some(Isolation::Container)));
        assert_eq!(asked(&["--level", "sandbox"]), Some(Some(Isolation::Sandbox)));
        for bad in [&["--level"][..], &["--level", "microvm"], &["--level", "confidential"], &["--level", "container", "x"]] {
            assert_eq!(asked(bad), Some(None), "{bad:?}");
        }
        // What a kernel hands to its first process.
        for machine in [&[][..], &["splash"], &["container"]] {
            assert_eq!(asked(machine), None, "{machine:?}");
        }
    }

    #[test]
    fn a_slice_names_a_file_of_this_container_and_nothing_else() {
        for serial in ["../shared/asset0", "", ".", "a/b"] {
            let slice = guest::Slice { serial: serial.into(), offset_bytes: 0, length_bytes: 1 };
            assert_eq!(disk(&slice).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{serial:?}");
        }
        let moved = guest::Slice { serial: "asset0".into(), offset_bytes: 4096, length_bytes: 1 };
        assert_eq!(disk(&moved).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
