//! Whether this host can have containers at all: a small image is mounted as a start mounts them, and the kernel answers.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Host,
    spec::{Answer, Order, Trial},
};
use crate::{
    DriverError,
    error::{Context, chain},
    jail::Heard,
};

/// Blocks for some milliseconds; what it makes is gone afterwards.
pub(super) fn run(host: &Host) -> Result<(), DriverError> {
    let layer = host.layout.trial();
    fs::write(&layer, image()).context("write", &layer)?;
    let tried = mount(host, &layer);
    fs::remove_file(&layer).context("remove", &layer)?;
    tried
}

fn mount(host: &Host, layer: &Path) -> Result<(), DriverError> {
    let [_, covered, _] = host.layout.roots();
    let trial = Trial { root: covered, first_user: host.uid_base, layer: PathBuf::from(layer), mounts: host.mounts };
    let answered = host.helper().and_then(|helper| {
        helper.order(&Order::Try(trial), &[])?;
        helper.hear(LIMIT, |_| Ok(Heard::Last))
    });
    let (mut helper, answer) = answered.map_err(|error| host.failed(chain(&error)))?;
    let ended = helper.wait().map_err(|error| host.failed(error.to_string()))?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Mounts(how)) => {
            tracing::info!(runtime.name = host.runtime.name(), layers.mounts = ?how, "image layers can be mounted");
            Ok(())
        }
        Ok(Answer::Failed(failed)) => Err(DriverError::Unsupported {
            what: format!("containers on Linux {}", release()),
            reason: format!("{}: {}", failed.attempt, failed.detail),
        }),
        Ok(Answer::Ready { .. } | Answer::Network) | Err(_) => {
            Err(host.failed(format!("the trial of a mount ended with {ended}")))
        }
    }
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// An EROFS file system of one block with nothing but its root directory.
fn image() -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(SUPERBLOCK, &0xe0f5_e1e2_u32.to_le_bytes());
    put(SUPERBLOCK + 12, &[12]); // Blocks of 2^12 bytes.
    put(SUPERBLOCK + 14, &ROOT.to_le_bytes());
    put(SUPERBLOCK + 16, &1_u64.to_le_bytes()); // One inode,
    put(SUPERBLOCK + 36, &1_u32.to_le_bytes()); // one block.
    let inode = usize::from(ROOT) * INODE;
    put(inode, &4_u16.to_le_bytes()); // Compact; its data follows it.
    put(inode + 4, &0o040_755_u16.to_le_bytes());
    put(inode + 6, &2_u16.to_le_bytes());
    put(inode + 8, &27_u32.to_le_bytes());
    for (index, name_at) in [24_u16, 25].into_iter().enumerate() {
        let entry = inode + INODE + 12 * index;
        put(entry, &u64::from(ROOT).to_le_bytes());
        put(entry + 8, &name_at.to_le_bytes());
        put(entry + 10, &[2]); // A directory.
    }
    put(inode + INODE + 24, b"...");
    block
}

const BLOCK: usize = 4096;

const SUPERBLOCK: usize = 1024;

const INODE: usize = 32;

/// The number of the root directory: its place, in inodes, just behind the superblock.
const ROOT: u16 = 36;

/// It takes milliseconds; loading modules on a slow disk takes longer.
const LIMIT: Duration = Duration::from_secs(60);
