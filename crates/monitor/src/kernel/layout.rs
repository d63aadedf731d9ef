//! What the programs and this process share, as bytes (`bpf/maps.h`).

use serde::{Deserialize, Serialize};

/// Who a task is, or whose an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum Role {
    /// Everybody else.
    Stranger = 0,
    /// The monitor's processes.
    Monitor = 1,
    /// The agent and what it starts for itself.
    Agent = 2,
    /// An instance.
    Instance = 3,
    /// Tries harmless forbidden acts; has no rights.
    Canary = 4,
}

impl Role {
    fn numbered(number: u32) -> Self {
        match number {
            1 => Self::Monitor,
            2 => Self::Agent,
            3 => Self::Instance,
            4 => Self::Canary,
            _ => Self::Stranger,
        }
    }
}

/// `struct label`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Label {
    /// Who.
    pub role: Role,
    /// Which instance; 0 for none.
    pub instance: u32,
}

impl Label {
    /// As the map holds it.
    pub fn bytes(self) -> Vec<u8> {
        words(&[self.role as u32, self.instance])
    }

    /// From the map.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self { role: Role::numbered(u32_at(bytes, 0)?), instance: u32_at(bytes, 4)? })
    }
}

/// What is guarded about a file or folder; bits of `enum guard`.
pub mod guard {
    /// Contents and attributes.
    pub const WRITE: u32 = 1;
    /// Opening it at all.
    pub const READ: u32 = 2;
    /// Its own name.
    pub const NAME: u32 = 4;
    /// Of a folder: what is in it.
    pub const ENTRIES: u32 = 8;
    /// Guest memory.
    pub const MEMORY: u32 = 16;
    /// Executing it keeps a task's label.
    pub const KEEPS: u32 = 32;
    /// Of a socket: reaching who listens there.
    pub const CONNECT: u32 = 64;
    /// Of a namespace: opening it.
    pub const ENTER: u32 = 128;
}

/// The key of a file: `struct file_key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// Inode number.
    pub inode: u64,
    /// Device, as the kernel writes it inside.
    pub device: u32,
}

impl FileKey {
    /// Of what stat(2) says: user space writes device numbers in another way.
    pub fn of(device: u64, inode: u64) -> Self {
        Self { inode, device: kernel_device(device) }
    }

    /// As the map holds it.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = self.inode.to_le_bytes().to_vec();
        bytes.extend(words(&[self.device, 0]));
        bytes
    }
}

/// A device number of user space as the kernel writes it (12 bits major, 20 minor).
pub fn kernel_device(device: u64) -> u32 {
    rustix::fs::major(device) << 20 | rustix::fs::minor(device) & 0xf_ffff
}

/// The value of a file: `struct file_label`.
pub fn file_label(guard: u32, owner: Role, instance: u32) -> Vec<u8> {
    words(&[guard, owner as u32, instance, 0])
}

/// `struct violation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Nanoseconds since boot.
    pub at_ns: u64,
    /// Its detector's number.
    #[serde(skip)]
    pub detector: u32,
    /// Whether it was refused.
    pub denied: bool,
    /// Thread that tried.
    pub pid: u32,
    /// Process that tried.
    pub tgid: u32,
    /// Who tried.
    pub subject: Label,
    /// Whose the object is.
    pub object: Label,
    /// By detector: target's process, inode, command or type.
    pub detail: u64,
    /// What the offender called itself: for reading only.
    pub comm: String,
}

impl Violation {
    /// Length in the ring.
    pub const BYTES: usize = 64;

    /// From the ring or the map of first violations.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < Self::BYTES {
            return None;
        }
        let word = |at| u32_at(bytes, at);
        let label = |at| Label::parse(bytes.get(at..at + 8)?);
        let comm = bytes.get(48..64)?.split(|byte| *byte == 0).next()?;
        Some(Self {
            at_ns: u64_at(bytes, 0)?,
            detector: word(8)?,
            denied: word(12)? != 0,
            pid: word(16)?,
            tgid: word(20)?,
            subject: label(24)?,
            object: label(32)?,
            detail: u64_at(bytes, 40)?,
            comm: String::from_utf8_lossy(comm).into_owned(),
        })
    }
}

/// `struct count`, summed over processors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Violations.
    pub seen: u64,
    /// Of these, refused.
    pub denied: u64,
    /// Tries of the canary.
    pub canary: u64,
    /// Reports that did not fit the ring.
    pub lost: u64,
}

impl Count {
    /// Adds one processor's.
    pub fn add(&mut self, bytes: &[u8]) -> Option<()> {
        self.seen += u64_at(bytes, 0)?;
        self.denied += u64_at(bytes, 8)?;
        self.canary += u64_at(bytes, 16)?;
        self.lost += u64_at(bytes, 24)?;
        Some(())
    }
}

/// `struct state`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    /// Nanoseconds since boot; 0 for not.
    pub tripped_at_ns: u64,
    /// Whether modules and foreign BPF are refused.
    pub sealed: bool,
    /// Type of perf events of user probes.
    pub uprobe_type: u32,
    /// Of kernel probes.
    pub kprobe_type: u32,
    /// Types of BPF programs that others may load.
    pub foreign_bpf: u64,
}

impl State {
    /// As the map holds it.
    pub fn bytes(self) -> Vec<u8> {
        let mut bytes = self.tripped_at_ns.to_le_bytes().to_vec();
        bytes.extend(words(&[u32::from(self.sealed), self.uprobe_type, self.kprobe_type, 0]));
        bytes.extend(self.foreign_bpf.to_le_bytes());
        bytes
    }

    /// From the map.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            tripped_at_ns: u64_at(bytes, 0)?,
            sealed: u32_at(bytes, 8)? != 0,
            uprobe_type: u32_at(bytes, 12)?,
            kprobe_type: u32_at(bytes, 16)?,
            foreign_bpf: u64_at(bytes, 24)?,
        })
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_written_as_the_kernel_does() {
        assert_eq!(kernel_device(rustix::fs::makedev(8, 1)), 8 << 20 | 1);
        assert_eq!(kernel_device(rustix::fs::makedev(0, 0x12345)), 0x12345);
    }

    #[test]
    fn a_violation_that_is_cut_short_is_none() {
        let bytes = [7_u8; Violation::BYTES];
        assert!(Violation::parse(&bytes).is_some());
        for length in 0..Violation::BYTES {
            assert_eq!(Violation::parse(&bytes[..length]), None);
        }
    }

    #[test]
    fn state_survives_its_bytes() {
        let state = State { tripped_at_ns: 5, sealed: true, uprobe_type: 9, kprobe_type: 8, foreign_bpf: 1 << 63 };
        assert_eq!(State::parse(&state.bytes()), Some(state));
    }
}
