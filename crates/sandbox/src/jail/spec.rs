//! What the jail helper is told, and what it answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Most bytes of a specification; it travels as one packet.
pub(crate) const SPEC_LIMIT: usize = 64 * 1024;

/// Most descriptors of a specification.
pub(crate) const DESCRIPTOR_LIMIT: usize = 64;

/// Number of the console pipe in a supervised program.
pub(crate) const CONSOLE_FD: i32 = 3;

/// Number of the first descriptor that is handed on; the others follow in order.
pub(crate) const FIRST_FD: i32 = 4;

/// A program and the jail to put it in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JailSpec {
    /// The program, as seen inside.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// User and group id, not 0.
    pub(crate) uid: u32,
    /// Supplementary groups (for /dev/kvm).
    pub(crate) groups: Vec<u32>,
    /// An empty directory on the host that is covered by the jail's root in the helper's own mount namespace.
    pub(crate) root: PathBuf,
    /// What the jail's root holds.
    pub(crate) mounts: Vec<JailMount>,
    /// Largest file that the program may write.
    pub(crate) file_size_limit: u64,
    /// Who stays beside the program.
    pub(crate) mode: Mode,
    /// The host's processors that it runs on; empty: all.
    pub(crate) cpus: Vec<u32>,
}

/// Something of the host that is visible inside, at the same or another path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JailMount {
    /// On the host.
    pub(crate) source: PathBuf,
    /// Inside, absolute.
    pub(crate) target: PathBuf,
    /// What the program may do with it.
    pub(crate) access: Access,
}

/// How a mount may be used; none ever allows set-user-id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Access {
    /// Read and execute.
    ReadOnly,
    /// Read and write, not execute.
    ReadWrite,
    /// A device node.
    Device,
}

/// What becomes of the helper itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// It becomes the program. The first descriptor is the log for standard output and error.
    Become,
    /// The program is process 1 of a PID namespace; the helper stays as its unprivileged parent, keeps the program's
    /// output and console in a bounded log, and writes down how it ended. The first two descriptors are the log and the
    /// file for the end.
    Supervise,
}

/// What the helper says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Said {
    /// The jail is closed. When the connection ends after it, and nothing was said in between, the program was executed.
    Restricted {
        /// Version of Landlock by which its rules are in force, which cannot be seen from outside; 0: the kernel has none.
        landlock: u32,
    },
    /// The jail could not be made, or its program not be executed.
    Failed(Failed),
}

/// Why there is no program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    /// What was attempted.
    pub(crate) attempt: String,
    /// Why it failed.
    pub(crate) detail: String,
}

/// How a supervised program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ended {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}
