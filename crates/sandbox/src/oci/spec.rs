//! What the keeper of a container is told, and what it answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{cgroup::Group, jail::Failed};

/// What the keeper's helper is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    /// Run a container.
    Run(Box<ContainerSpec>),
    /// Find out whether the kernel mounts an image; nothing runs, and nothing is left.
    Try(Trial),
}

/// How image layers become file systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerMounts {
    /// From files, where kernel and file system can do that; through loop devices where they cannot.
    #[default]
    Files,
    /// Through loop devices.
    LoopDevices,
}

/// An image of one layer, to be mounted once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trial {
    /// A directory on the host that is covered meanwhile.
    pub(super) root: PathBuf,
    /// First of [`super::USERS`] user and group ids.
    pub(super) first_user: u32,
    /// The layer.
    pub(super) layer: PathBuf,
    /// How it is to be mounted.
    pub(super) mounts: LayerMounts,
}

/// A container and what it is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ContainerSpec {
    /// The instance.
    pub(super) instance: String,
    /// The runtime's name,
    pub(super) runtime: String,
    /// and what it is told before the command.
    pub(super) arguments: Vec<String>,
    /// Its program.
    pub(super) program: PathBuf,
    /// An empty directory on the host that is covered by the keeper's root.
    pub(super) root: PathBuf,
    /// The instance's control groups, in which the keeper is made.
    pub(super) group: Group,
    /// First of [`super::USERS`] user and group ids that are the container's.
    pub(super) first_user: u32,
    /// The image's layers, lowest first: files with EROFS file systems.
    pub(super) layers: Vec<PathBuf>,
    /// How they are mounted.
    pub(super) mounts: LayerMounts,
    /// The instance's scratch.
    pub(super) scratch: PathBuf,
    /// Where the runtime keeps its state.
    pub(super) state: PathBuf,
    /// The bundle.
    pub(super) bundle: PathBuf,
    /// Process 1 of the container.
    pub(super) init: PathBuf,
    /// Read-only files of the container, by name.
    pub(super) disks: Vec<(String, PathBuf)>,
    /// What is beside loopback.
    pub(super) network: Connection,
}

/// Whether a container is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Connection {
    /// It has loopback only, in a namespace that its runtime makes.
    None,
    /// The agent gives the keeper's namespace an interface, and the container joins that.
    Link,
}

/// What the keeper says; `Network` is answered, the others are its last word.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// The keeper's network namespace is there, and nothing runs in it yet.
    Network,
    /// The container runs; its first process has this number in the keeper's PID namespace.
    Ready {
        /// The number.
        init: i32,
    },
    /// An image can be mounted, in this way.
    Mounts(LayerMounts),
    /// It does not.
    Failed(Failed),
}

/// Where things are in the keeper's root.
pub(super) mod inside {
    /// The runtime's program.
    pub(in crate::oci) const RUNTIME: &str = "/runtime";
    /// The runtime's state, its log and the number of the container's first process.
    pub(in crate::oci) const STATE: &str = "/state";
    /// The bundle.
    pub(in crate::oci) const BUNDLE: &str = "/bundle";
    /// The image with what the container changes of it.
    pub(in crate::oci) const ROOTFS: &str = "/rootfs";
    /// Mount points of the layers.
    pub(in crate::oci) const LAYERS: &str = "/layers";
    /// Scratch.
    pub(in crate::oci) const SCRATCH: &str = "/scratch";
    /// Process 1 of the container.
    pub(in crate::oci) const INIT: &str = "/guest/init";
    /// The container's read-only files.
    pub(in crate::oci) const DISKS: &str = "/guest/disks";
}
