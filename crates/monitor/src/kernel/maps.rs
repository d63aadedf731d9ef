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
        let key = FileKey::of(about.dev(), about.ino());
        let value = file_label(guard, owner, instance);
        self.map("files").update(&key.bytes(), &value, MapFlags::ANY).map_err(bpf("label a file"))
    }

    /// Ends a file's label.
    pub fn unlabel_file(&self, held: &fs::File) -> Result<(), Error> {
        let about = held.metadata().map_err(|source| Error::Path { what: "look at", path: "a labelled file".into(), source })?;
        self.map("files").delete(&FileKey::of(about.dev(), about.ino()).bytes()).map_err(bpf("end a file's label"))
    }

    /// Guards the device that `path` lies on: it is not written below the file system, and no mount of it goes.
    pub fn guard_device(&self, path: &Path) -> Result<(), Error> {
        let about = fs::metadata(path).map_err(|source| Error::Path { what: "look at", path: path.to_owned(), source })?;
        let device = kernel_device(about.dev()).to_ne_bytes();
        self.map("devices").update(&device, &1_u32.to_ne_bytes(), MapFlags::ANY).map_err(bpf("guard a device"))
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

const ONLY: [u8; 4] = [0; 4];

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
