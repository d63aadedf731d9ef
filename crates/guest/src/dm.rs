//! Device mapper by ioctl: what `veritysetup open` and `cryptsetup open` would do, without them.
//!
//! The kernel accepts a verity table over a corrupt image; only the first read shows it. So success here proves nothing,
//! the mount and the reads after it do, and `panic_on_corruption` ends the machine at any bad block, however late.

use std::{
    fs::{File, OpenOptions},
    io,
    path::PathBuf,
};

use zeroize::Zeroizing;

use crate::sys;

/// One mapping over a whole device.
#[derive(Debug)]
pub(crate) struct Table {
    sectors: u64,
    kind: &'static str,
    // May hold a key.
    parameters: Zeroizing<String>,
    access: Access,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadOnly,
    ReadWrite,
}

/// What a verity device is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verity {
    pub(crate) root_hash: [u8; 32],
    pub(crate) salt: [u8; 32],
    pub(crate) data_blocks: u64,
    pub(crate) hash_start_block: u64,
}

impl Table {
    /// Data and hash tree in one device.
    pub(crate) fn verity(device: &str, verity: &Verity) -> Self {
        let Verity { root_hash, salt, data_blocks, hash_start_block } = verity;
        let (root_hash, salt) = (hex::encode(root_hash), hex::encode(salt));
        Self {
            sectors: data_blocks.saturating_mul(SECTORS_PER_BLOCK),
            kind: "verity",
            parameters: Zeroizing::new(format!(
                "1 {device} {device} 4096 4096 {data_blocks} {hash_start_block} sha256 {root_hash} {salt} 1 panic_on_corruption"
            )),
            access: Access::ReadOnly,
        }
    }

    /// A part of a device.
    pub(crate) fn linear(device: &str, start_sector: u64, sectors: u64) -> Self {
        let parameters = Zeroizing::new(format!("{device} {start_sector}"));
        Self { sectors, kind: "linear", parameters, access: Access::ReadOnly }
    }

    /// AES-256-XTS over a device. `option_count` and options may follow later (integrity would stand here).
    pub(crate) fn crypt(device: &str, sectors: u64, key: &[u8; 64]) -> Self {
        let key = Zeroizing::new(hex::encode(key));
        // All capacity at once: a growing string would leave copies of the key behind.
        let mut parameters = Zeroizing::new(String::with_capacity(256 + device.len()));
        for part in ["aes-xts-plain64 ", &key, " 0 ", device, " 0 2 no_read_workqueue no_write_workqueue"] {
            parameters.push_str(part);
        }
        Self { sectors, kind: "crypt", parameters, access: Access::ReadWrite }
    }
}

/// A mapped device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapped {
    minor: u64,
    major: u64,
}

impl Mapped {
    pub(crate) fn node(&self) -> PathBuf {
        PathBuf::from(format!("/dev/dm-{}", self.minor))
    }

    /// `major:minor`.
    pub(crate) fn number(&self) -> String {
        format!("{}:{}", self.major, self.minor)
    }
}

/// What the kernel says of a mapped device, without its table, which may hold a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    /// The only target's kind.
    pub(crate) kind: String,
    /// `major:minor`.
    pub(crate) number: String,
    /// In the words of the target; of verity `V` (good so far) or `C` (a bad block was found).
    pub(crate) status: String,
}

/// Asks for the state of the device `name`.
pub(crate) fn state(name: &str) -> io::Result<State> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control")?;
    let answer = call(&control, STATUS, message(name, 0, None)?)?;
    parse_state(&answer).ok_or_else(|| io::Error::other("short answer from device mapper"))
}

fn parse_state(answer: &[u8]) -> Option<State> {
    let word = |at: usize| answer.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let text = |at: usize, most: usize| {
        let bytes = answer.get(at..(at + most).min(answer.len()))?;
        Some(String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next()?).into_owned())
    };
    let number = u64::from_ne_bytes(answer.get(40..48)?.try_into().ok()?);
    let start = usize::try_from(word(16)?).ok()?;
    if word(20)? != 1 || word(28)? & BUFFER_FULL != 0 {
        return None;
    }
    Some(State {
        kind: text(start.checked_add(24)?, 16)?,
        number: decode_number(number).number(),
        status: text(start.checked_add(TARGET)?, STATUS_TEXT)?,
    })
}

/// Creates the device `name` with this table and makes it live.
pub(crate) fn create(name: &str, table: &Table) -> io::Result<Mapped> {
    let control = OpenOptions::new().read(true).write(true).open("/dev/mapper/control")?;
    let flags = match table.access {
        Access::ReadOnly => READ_ONLY,
        Access::ReadWrite => 0,
    };
    call(&control, CREATE, message(name, flags, None)?)?;
    call(&control, LOAD, message(name, flags | SECURE_DATA, Some(table))?)?;
    let answer = call(&control, RESUME, message(name, flags, None)?)?;
    let number = answer.get(40..48).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
    number.map(decode_number).ok_or_else(|| io::Error::other("short answer from device mapper"))
}

fn call(control: &File, command: u8, mut message: Zeroizing<Vec<u8>>) -> io::Result<Zeroizing<Vec<u8>>> {
    sys::device_mapper(control, command, &mut message)?;
    Ok(message)
}

/// `struct dm_ioctl`, followed by a `struct dm_target_spec` and its parameters.
fn message(name: &str, flags: u32, table: Option<&Table>) -> io::Result<Zeroizing<Vec<u8>>> {
    let parameters = table.map_or("", |table| table.parameters.as_str());
    if name.len() >= NAME_LEN || HEADER + TARGET + parameters.len() >= MESSAGE {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut bytes = Zeroizing::new(vec![0; MESSAGE]);
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &VERSION.to_ne_bytes());
    put(12, &(MESSAGE as u32).to_ne_bytes());
    put(16, &(HEADER as u32).to_ne_bytes());
    put(20, &u32::from(table.is_some()).to_ne_bytes());
    put(28, &flags.to_ne_bytes());
    put(48, name.as_bytes());
    if let Some(table) = table {
        // sector_start stays 0; `next` covers this only target.
        put(HEADER + 8, &table.sectors.to_ne_bytes());
        put(HEADER + 20, &((TARGET + parameters.len() + 8) as u32 & !7).to_ne_bytes());
        put(HEADER + 24, table.kind.as_bytes());
        put(HEADER + TARGET, parameters.as_bytes());
    }
    Ok(bytes)
}

/// The kernel's `huge_encode_dev`.
fn decode_number(number: u64) -> Mapped {
    Mapped { major: (number >> 8) & 0xfff, minor: (number & 0xff) | ((number >> 12) & 0xf_ff00) }
}

const SECTORS_PER_BLOCK: u64 = 8;
const VERSION: u32 = 4;
const HEADER: usize = sys::DM_HEADER;
const TARGET: usize = 40;
const MESSAGE: usize = 4096;
const NAME_LEN: usize = 128;
const READ_ONLY: u32 = 1;
/// The kernel wipes its copies of the message, which carries a key.
const SECURE_DATA: u32 = 1 << 15;
const CREATE: u8 = 3;
const LOAD: u8 = 9;
const RESUME: u8 = 6;
const STATUS: u8 = 12;
/// The answer did not fit.
const BUFFER_FULL: u32 = 1 << 8;
const STATUS_TEXT: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verity_table_panics_on_corruption() {
        let verity = Verity { root_hash: [0xab; 32], salt: [0x01; 32], data_blocks: 7, hash_start_block: 8 };
        let table = Table::verity("254:0", &verity);
        let (root, salt) = ("ab".repeat(32), "01".repeat(32));
        assert_eq!(*table.parameters, format!("1 254:0 254:0 4096 4096 7 8 sha256 {root} {salt} 1 panic_on_corruption"));
        assert_eq!((table.sectors, table.access), (56, Access::ReadOnly));
    }

    #[test]
    fn crypt_table_fits_without_growing() {
        let table = Table::crypt("254:16", 2048, &[0xcd; 64]);
        assert_eq!(
            *table.parameters,
            format!("aes-xts-plain64 {} 0 254:16 0 2 no_read_workqueue no_write_workqueue", "cd".repeat(64))
        );
        assert!(table.parameters.capacity() >= 256);
    }

    #[test]
    fn message_has_the_kernel_layout() {
        let table = Table::linear("254:32", 8, 16);
        let bytes = message("slice0", READ_ONLY | SECURE_DATA, Some(&table)).unwrap();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(12), word(16), word(20), word(28)), (4, 4096, 312, 1, 0x8001));
        assert_eq!(&bytes[48..55], b"slice0\0");
        assert_eq!(u64::from_ne_bytes(bytes[320..328].try_into().unwrap()), 16);
        assert_eq!(word(332) % 8, 0);
        assert!(word(332) as usize > TARGET + "254:32 8".len());
        assert_eq!(&bytes[336..343], b"linear\0");
        assert_eq!(&bytes[352..361], b"254:32 8\0");
    }

    #[test]
    fn reads_a_state_and_nothing_beyond_the_answer() {
        let mut answer = message("root", 0, None).unwrap().to_vec();
        answer[20..24].copy_from_slice(&1_u32.to_ne_bytes());
        answer[40..48].copy_from_slice(&0xfd03_u64.to_ne_bytes());
        answer[336..343].copy_from_slice(b"verity\0");
        answer[352..354].copy_from_slice(b"V\0");
        let state = State { kind: "verity".into(), number: "253:3".into(), status: "V".into() };
        assert_eq!(parse_state(&answer), Some(state));
        for length in 0..338 {
            // Never a panic; a cut kind is no kind that anybody asks for.
            assert!(parse_state(&answer[..length]).is_none_or(|state| state.kind != "verity"), "{length}");
        }
        answer[16..20].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(parse_state(&answer), None);
        answer[16..20].copy_from_slice(&312_u32.to_ne_bytes());
        answer[29] |= 1;
        assert_eq!(parse_state(&answer), None, "the buffer was full");
    }

    #[test]
    fn refuses_what_does_not_fit() {
        assert!(message(&"n".repeat(128), 0, None).is_err());
        let table = Table::linear(&"d".repeat(4096), 0, 1);
        assert!(message("x", 0, Some(&table)).is_err());
    }

    #[test]
    fn device_numbers_follow_the_kernel_encoding() {
        assert_eq!(decode_number(0xfd03), Mapped { major: 253, minor: 3 });
        assert_eq!(decode_number(0x10_fd2c), Mapped { major: 253, minor: 300 });
    }
}
