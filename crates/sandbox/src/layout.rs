//! Where an instance's things are. All paths follow from the configuration and the id, so that they can be found without
//! any record.
//!
//! ```text
//! STATE/instances/ID/          record.json, scratch.img, console.log, exit.json      (disk)
//! RUN/instances/ID/            guest.sock, qmp.sock, root/ (mount point of the jail)
//! RUN/ram/ID/                  a tmpfs of its own: ram, kernel, initrd, vtpm/ (sockets/ and vtpm.sock of VMMs with an API)
//! CGROUP/[PARENT/]casemate-TAG/ID/   in every hierarchy that is used
//! ```

use std::path::{Path, PathBuf};

use casemate_lifecycle::InstanceId;
use sha2::{Digest, Sha256};

/// The directories of one driver.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    state: PathBuf,
    run: PathBuf,
    /// The group that the driver's group lies in; absent: the root of the hierarchy.
    parent: Option<String>,
}

impl Layout {
    pub(crate) fn new(state: PathBuf, run: PathBuf, parent: Option<String>) -> Self {
        Self { state, run, parent }
    }

    /// Held by the one driver that works on this state.
    pub(crate) fn lock(&self) -> PathBuf {
        self.state.join("driver.lock")
    }

    /// An image that is mounted once at the driver's beginning.
    pub(crate) fn trial(&self) -> PathBuf {
        self.state.join("trial.erofs")
    }

    /// The directories that hold one entry per instance.
    pub(crate) fn roots(&self) -> [PathBuf; 3] {
        [self.state.join("instances"), self.run.join("instances"), self.run.join("ram")]
    }

    /// Where cgroup v2 is mounted when the host has it nowhere.
    pub(crate) fn own_cgroup_mount(&self) -> PathBuf {
        self.run.join("cgroup")
    }

    /// Name of the group that holds this driver's groups; other drivers on the host have another state directory.
    pub(crate) fn cgroup_name(&self) -> String {
        let digest = Sha256::digest(self.state.as_os_str().as_encoded_bytes());
        let parent = self.parent.as_ref().map(|parent| format!("{parent}/")).unwrap_or_default();
        format!("{parent}casemate-{}", hex::encode(&digest[..4]))
    }

    /// The places of one instance.
    pub(crate) fn places(&self, id: &InstanceId) -> Places {
        let [state, run, memory] = self.roots().map(|root| root.join(id.as_str()));
        Places { state, run, memory }
    }
}

/// Where one instance's things are.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// On disk.
    pub(crate) state: PathBuf,
    /// Sockets.
    pub(crate) run: PathBuf,
    /// Mount point of the instance's tmpfs.
    pub(crate) memory: PathBuf,
}

impl Places {
    pub(crate) fn record(&self) -> PathBuf {
        self.state.join("record.json")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.state.join("scratch.img")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.state.join("console.log")
    }

    pub(crate) fn ended(&self) -> PathBuf {
        self.state.join("exit.json")
    }

    pub(crate) fn jail_root(&self) -> PathBuf {
        self.run.join("root")
    }

    pub(crate) fn ram(&self) -> PathBuf {
        self.memory.join("ram")
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.memory.join("kernel")
    }

    pub(crate) fn initrd(&self) -> PathBuf {
        self.memory.join("initrd")
    }

    pub(crate) fn vtpm(&self) -> PathBuf {
        self.memory.join("vtpm")
    }

    /// Where a VMM without a QMP socket makes its own sockets.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.memory.join("sockets")
    }

    /// The socket by which such a VMM reaches its vTPM.
    pub(crate) fn vtpm_socket(&self) -> PathBuf {
        self.memory.join("vtpm.sock")
    }

    /// Every directory of this instance.
    pub(crate) fn directories(&self) -> [&Path; 3] {
        [&self.memory, &self.run, &self.state]
    }
}

/// Name of the guest channel's socket.
pub(crate) const GUEST_SOCKET: &str = "guest.sock";

/// Name of the VMM's control socket.
pub(crate) const QMP_SOCKET: &str = "qmp.sock";
