//! Reading and writing the maps: labels, policy, state, counters.

use std::{
    fs,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use libbpf_rs::{MapCore as _, MapFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{
    Error, Sensors, bpf,
    layout::{Count, FileKey, Label, Role, State, Violation, file_label, kernel_device},
};
use crate::detector::{Actions, Detector};

impl Sensors {
    /// Labels a process; its threads count with it, its children inherit.
    pub fn label_process(&self, pid: u32, label: Label) -> Result<(), Error> {
        let process = process(pid)?;
        self.map("tasks")
            .update(&process.as_raw_fd().to_ne_bytes(), &label.bytes(), MapFlags::ANY)
            .map_err(bpf(format!("label process {pid}")))
    }

    /// The label of a process.
    pub fn label_of(&self, pid: u32) -> Result<Option<Label>, Error> {
        self.label_of_process(&process(pid)?)
    }

    /// The same by a handle.
    pub fn label_of_process(&self, process: &OwnedFd) -> Result<Option<Label>, Error> {
        let value = self.map("tasks").lookup(&process.as_raw_fd().to_ne_bytes(), MapFlags::ANY);
        Ok(value.map_err(bpf("read the label of a process"))?.and_then(|bytes| Label::parse(&bytes)))
    }

    /// Labels a file that is held open for as long as the label counts: its inode number is not given to another file.
    pub fn label_file(&self, held: &fs::File, guard: u32, owner: Role, instance: u32) -> Result<(), Error> {
        let about =
            held.metadata().map_err(|source| Error::Path { what: "look at", path: "a file to be labelled".into(), source })?;
        let key = FileKey::of(about.dev(), about.ino()).bytes();
        let (files, value) = (self.map("files"), file_label(guard, owner, instance));
        // The filter first: the programs ask it whether to look at all.
        if files.lookup(&key, MapFlags::ANY).map_err(bpf("look for a file's label"))?.is_none() {
            self.filter(about.ino(), |files| files + 1)?;
        }
        files.update(&key, &value, MapFlags::ANY).map_err(bpf("label a file"))
    }

    /// Changes how many labelled files have an inode number that ends like this one.
    fn filter(&self, inode: u64, change: fn(u32) -> u32) -> Result<(), Error> {
        let slot = u32::try_from(inode % FILTER_SLOTS).expect("what is left is smaller").to_ne_bytes();
        let filter = self.map("filter");
        let files = filter.lookup(&slot, MapFlags::ANY).map_err(bpf("read the filter of files"))?;
        let files = files.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
        filter.update(&slot, &change(files).to_ne_bytes(), MapFlags::ANY).map_err(bpf("write the filter of files"))
    }

    /// Ends a file's label.
    pub fn unlabel_file(&self, held: &fs::File) -> Result<(), Error> {
        let about = held.metadata().map_err(|source| Error::Path { what: "look at", path: "a labelled file".into(), source })?;
        self.map("files").delete(&FileKey::of(about.dev(), about.ino()).bytes()).map_err(bpf("end a file's label"))?;
        self.filter(about.ino(), |files| files.saturating_sub(1))
    }

    /// Guards the device that `path` lies on: it is not written below the file system, and no mount of it goes.
    pub fn guard_device(&self, path: &Path) -> Result<(), Error> {
        let about = fs::metadata(path).map_err(|source| Error::Path { what: "look at", path: path.to_owned(), source })?;
        let device = kernel_device(about.dev()).to_ne_bytes();
        self.map("devices").update(&device, &1_u32.to_ne_bytes(), MapFlags::ANY).map_err(bpf("guard a device"))
    }

    /// Guards a character device, as the kernel writes its number.
    pub fn guard_character(&self, number: u32) -> Result<(), Error> {
        let map = self.map("characters");
        map.update(&number.to_ne_bytes(), &1_u32.to_ne_bytes(), MapFlags::ANY).map_err(bpf("guard a device by its number"))
    }

    /// Says that the network namespace with this number belongs to an instance.
    pub fn label_network(&self, number: u32, instance: u32) -> Result<(), Error> {
        let map = self.map("networks");
        map.update(&number.to_ne_bytes(), &instance.to_ne_bytes(), MapFlags::ANY).map_err(bpf("label a network namespace"))
    }

    /// Ends a network namespace's label.
    pub fn unlabel_network(&self, number: u32) -> Result<(), Error> {
        self.map("networks").delete(&number.to_ne_bytes()).map_err(bpf("end a network namespace's label"))
    }

    /// Says that an instance is in the namespace with this number.
    pub fn label_member(&self, number: u32, instance: u32) -> Result<(), Error> {
        let key = member(number, instance);
        self.map("members").update(&key, &1_u32.to_ne_bytes(), MapFlags::ANY).map_err(bpf("say who is in a namespace"))
    }

    /// Says that it is not any more.
    pub fn unlabel_member(&self, number: u32, instance: u32) -> Result<(), Error> {
        self.map("members").delete(&member(number, instance)).map_err(bpf("say who left a namespace"))
    }

    /// Says that the cgroup with this id belongs to an instance.
    pub fn label_cgroup(&self, id: u64, instance: u32) -> Result<(), Error> {
        self.map("cgroups").update(&id.to_ne_bytes(), &instance.to_ne_bytes(), MapFlags::ANY).map_err(bpf("label a cgroup"))
    }

    /// Ends a cgroup's label.
    pub fn unlabel_cgroup(&self, id: u64) -> Result<(), Error> {
        self.map("cgroups").delete(&id.to_ne_bytes()).map_err(bpf("end a cgroup's label"))
    }

    /// What is done about `detector`.
    pub fn set_policy(&self, detector: Detector, actions: Actions) -> Result<(), Error> {
        let key = detector.number().to_ne_bytes();
        self.map("policy").update(&key, &actions.0.to_ne_bytes(), MapFlags::ANY).map_err(bpf("set the policy"))
    }

    /// The state.
    pub fn state(&self) -> Result<State, Error> {
        let value = self.map("states").lookup(&ONLY, MapFlags::ANY).map_err(bpf("read the state"))?;
        Ok(value.and_then(|bytes| State::parse(&bytes)).unwrap_or_default())
    }

    /// Sets it.
    pub fn set_state(&self, state: State) -> Result<(), Error> {
        self.map("states").update(&ONLY, &state.bytes(), MapFlags::ANY).map_err(bpf("set the state"))
    }

    /// Says until when (nanoseconds of the monotonic clock) this process will be heard of again; 0 while no instance depends on it.
    pub fn set_deadline(&self, at_ns: u64) -> Result<(), Error> {
        self.map("deadlines").update(&ONLY, &at_ns.to_ne_bytes(), MapFlags::ANY).map_err(bpf("set the deadline"))
    }

    /// Forgets the first violations, after they were written down.
    pub fn forget_first(&self) -> Result<(), Error> {
        let empty = [0_u8; Violation::BYTES];
        Detector::ALL.iter().try_for_each(|detector| {
            let key = detector.number().to_ne_bytes();
            self.map("first").update(&key, &empty, MapFlags::ANY).map_err(bpf("forget a violation"))
        })
    }

    /// The first violation of `detector` since they were forgotten.
    pub fn first(&self, detector: Detector) -> Result<Option<Violation>, Error> {
        let value = self.map("first").lookup(&detector.number().to_ne_bytes(), MapFlags::ANY).map_err(bpf("read a violation"))?;
        Ok(value.and_then(|bytes| Violation::parse(&bytes)).filter(|violation| violation.at_ns != 0))
    }

    /// What was counted.
    pub fn count(&self, detector: Detector) -> Result<Count, Error> {
        let key = detector.number().to_ne_bytes();
        let values = self.map("counts").lookup_percpu(&key, MapFlags::ANY).map_err(bpf("read the counters"))?;
        let mut sum = Count::default();
        for value in values.unwrap_or_default() {
            sum.add(&value);
        }
        Ok(sum)
    }
}

/// `struct member`.
fn member(number: u32, instance: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&number.to_ne_bytes());
    bytes[4..].copy_from_slice(&instance.to_ne_bytes());
    bytes
}

const ONLY: [u8; 4] = [0; 4];
/// As in `maps.h`.
const FILTER_SLOTS: u64 = 65536;

/// A handle on a process, which no other process gets by reusing its number.
pub fn process(pid: u32) -> Result<OwnedFd, Error> {
    let path = || format!("/proc/{pid}").into();
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number =
        number.ok_or_else(|| Error::Path { what: "open process", path: path(), source: rustix::io::Errno::SRCH.into() })?;
    pidfd_open(number, PidfdFlags::empty()).map_err(|error| Error::Path {
        what: "open process",
        path: path(),
        source: error.into(),
    })
}
