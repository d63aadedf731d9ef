//! What the data of an event says, by its type. None of it is proven but for what [`Coverage`](super::Coverage) says.
//!
//! Structures: "TCG PC Client Platform Firmware Profile", section 10.2; UEFI 2.10 sections 5.3 (GPT) and 32.4 (signatures);
//! conventions of EV_IPL: the sources' documentation of GRUB, shim and systemd-stub.

use std::fmt;

use super::{EventRef, EventType};

/// The data of an event, read by its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<'a> {
    /// A version or a description, as it is (UTF-16 or ASCII).
    Text(&'a [u8]),
    /// EV_SEPARATOR.
    Separator(Separator),
    /// A UEFI variable.
    Variable(Variable<'a>),
    /// An image that was loaded.
    Image(ImageLoad<'a>),
    /// The partition table.
    Gpt(Gpt<'a>),
    /// A piece of firmware: address, length and, where it is of the second form, a description.
    Blob {
        /// Physical address.
        base: u64,
        /// Bytes.
        length: u64,
        /// What it is.
        description: &'a [u8],
    },
    /// Tables handed over: GUIDs and addresses follow.
    Tables {
        /// How many.
        count: u64,
        /// What they are, in the second form.
        description: &'a [u8],
    },
    /// What a boot loader says.
    Ipl(Ipl<'a>),
    /// TCG_PCClientTaggedEvent.
    Tagged {
        /// Which structure follows.
        id: u32,
        /// The structure.
        data: &'a [u8],
    },
    /// EV_NO_ACTION: the locality of TPM2_Startup.
    StartupLocality(u8),
    /// A known type whose data is kept as bytes: EV_NO_ACTION of vendors, SPDM devices, tables of devices.
    Opaque(&'a [u8]),
    /// A type that the specification does not know.
    Unknown,
    /// Not what its type should have.
    Malformed,
}

/// What a separator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// 0 or 0xffffffff: the firmware handed over.
    End,
    /// 1: the firmware failed.
    Error,
    /// Something else.
    Other,
}

/// UEFI_VARIABLE_DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable<'a> {
    /// The vendor's GUID.
    pub guid: Guid,
    /// UTF-16LE, without final zero.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// A GUID in its mixed-endian encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

/// UEFI_IMAGE_LOAD_EVENT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLoad<'a> {
    /// Where it was loaded.
    pub address: u64,
    /// Its size in memory.
    pub length: u64,
    /// Device path; see [`device_path_text`](super::device_path_text).
    pub device_path: &'a [u8],
}

/// UEFI_GPT_DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpt<'a> {
    /// The disk's GUID.
    pub disk: Guid,
    entries: &'a [u8],
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition<'a> {
    /// What for.
    pub kind: Guid,
    /// Which one.
    pub id: Guid,
    /// UTF-16LE, filled up with zeros.
    pub name: &'a [u8],
}

/// A boot loader's event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipl<'a> {
    /// GRUB carried out a command.
    GrubCommand(&'a [u8]),
    /// GRUB's command line for the kernel.
    KernelCommandLine(&'a [u8]),
    /// GRUB's command line for a module.
    ModuleCommandLine(&'a [u8]),
    /// shim's copy of one of its variables; the digest is that of the value.
    ShimVariable(&'a str),
    /// Something else: a path (the digest is the file's), a section of a unified kernel image, a text in UTF-16.
    Other(&'a [u8]),
}

impl<'a> EventRef<'a> {
    /// The data, read by the event's type.
    pub fn content(&self) -> Content<'a> {
        Content::of(self.kind, self.data)
    }
}

impl<'a> Content<'a> {
    fn of(kind: EventType, data: &'a [u8]) -> Self {
        match kind {
            EventType::SEPARATOR => Self::Separator(Separator::of(data)),
            EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_VARIABLE_BOOT
            | EventType::EFI_VARIABLE_BOOT2
            | EventType::EFI_VARIABLE_AUTHORITY
            | EventType::EFI_SPDM_DEVICE_POLICY
            | EventType::EFI_SPDM_DEVICE_AUTHORITY => Variable::parse(data).map_or(Self::Malformed, Self::Variable),
            EventType::EFI_BOOT_SERVICES_APPLICATION
            | EventType::EFI_BOOT_SERVICES_DRIVER
            | EventType::EFI_RUNTIME_SERVICES_DRIVER => ImageLoad::parse(data).map_or(Self::Malformed, Self::Image),
            EventType::EFI_GPT_EVENT | EventType::EFI_GPT_EVENT2 => Gpt::parse(data).map_or(Self::Malformed, Self::Gpt),
            EventType::EFI_PLATFORM_FIRMWARE_BLOB => blob(data, b"").unwrap_or(Self::Malformed),
            EventType::EFI_PLATFORM_FIRMWARE_BLOB2 | EventType::POST_CODE2 => {
                described(data).and_then(|(text, rest)| blob(rest, text)).unwrap_or(Self::Malformed)
            }
            EventType::EFI_HANDOFF_TABLES => tables(data, b"").unwrap_or(Self::Malformed),
            EventType::EFI_HANDOFF_TABLES2 => {
                described(data).and_then(|(text, rest)| tables(rest, text)).unwrap_or(Self::Malformed)
            }
            EventType::EVENT_TAG => tagged(data).unwrap_or(Self::Malformed),
            EventType::IPL => Self::Ipl(Ipl::of(data)),
            EventType::NO_ACTION => match data.strip_prefix(b"StartupLocality\0") {
                Some([locality]) => Self::StartupLocality(*locality),
                Some(_) | None => Self::Opaque(data),
            },
            EventType::POST_CODE
            | EventType::ACTION
            | EventType::EFI_ACTION
            | EventType::EFI_HCRTM_EVENT
            | EventType::S_CRTM_VERSION
            | EventType::S_CRTM_CONTENTS
            | EventType::CPU_MICROCODE
            | EventType::OMIT_BOOT_DEVICE_EVENTS => Self::Text(data),
            known if known.name().is_some() => Self::Opaque(data),
            _ => Self::Unknown,
        }
    }
}

impl Separator {
    fn of(data: &[u8]) -> Self {
        match data {
            [0, 0, 0, 0] | [0xff, 0xff, 0xff, 0xff] => Self::End,
            [1, 0, 0, 0] => Self::Error,
            _ => Self::Other,
        }
    }
}

impl<'a> Variable<'a> {
    /// The variable in `data`, with nothing after it.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let (guid, rest) = data.split_first_chunk()?;
        let (name_units, rest) = u64_le(rest)?;
        let (value_len, rest) = u64_le(rest)?;
        let (name, value) = rest.split_at_checked(usize::try_from(name_units).ok()?.checked_mul(2)?)?;
        let fits = u64::try_from(value.len()) == Ok(value_len);
        fits.then_some(Self { guid: Guid(*guid), name, value })
    }

    /// Whether it has this name (ASCII).
    pub fn is_named(&self, name: &str) -> bool {
        self.name.len() == 2 * name.len() && self.name.chunks(2).zip(name.bytes()).all(|(unit, byte)| unit == [byte, 0])
    }

    /// The name for people, with what is not UTF-16 replaced.
    pub fn name_text(&self) -> String {
        utf16_text(self.name)
    }

    /// The bytes without the owner's GUID, where the value is one EFI_SIGNATURE_DATA with a certificate.
    pub fn certificate(&self) -> Option<&'a [u8]> {
        self.value.get(16..).filter(|der| der.starts_with(&[0x30, 0x82]))
    }
}

impl Guid {
    /// EFI_GLOBAL_VARIABLE: SecureBoot, PK, KEK.
    pub const EFI_GLOBAL: Self =
        Self([0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 0x03, 0x2b, 0x8c]);
    /// EFI_IMAGE_SECURITY_DATABASE_GUID: db, dbx.
    pub const IMAGE_SECURITY: Self =
        Self([0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f]);
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        for (at, index) in order.into_iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{:02x}", self.0[index])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'a> ImageLoad<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let (address, rest) = u64_le(data)?;
        let (length, rest) = u64_le(rest)?;
        let (_link_time_address, rest) = u64_le(rest)?;
        let (path_len, device_path) = u64_le(rest)?;
        let fits = u64::try_from(device_path.len()) == Ok(path_len);
        fits.then_some(Self { address, length, device_path })
    }
}

impl<'a> Gpt<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let (header, rest) = data.split_at_checked(GPT_HEADER)?;
        let (count, entries) = u64_le(rest)?;
        let disk = Guid(header[56..72].try_into().ok()?);
        let fits = usize::try_from(count).ok()?.checked_mul(GPT_ENTRY)? == entries.len();
        (fits && header.starts_with(b"EFI PART")).then_some(Self { disk, entries })
    }

    /// The partitions.
    pub fn partitions(&self) -> impl Iterator<Item = Partition<'a>> + use<'a> {
        let guid = |bytes: &[u8]| Guid(bytes.try_into().expect("sixteen bytes of an entry"));
        self.entries.chunks_exact(GPT_ENTRY).map(move |entry| Partition {
            kind: guid(&entry[..16]),
            id: guid(&entry[16..32]),
            name: &entry[56..],
        })
    }
}

impl<'a> Ipl<'a> {
    /// The data of an EV_IPL event, by the conventions of boot loaders.
    pub fn of(data: &'a [u8]) -> Self {
        if let Some((prefix, text)) = grub_text(data) {
            return match prefix {
                GRUB_COMMAND => Self::GrubCommand(text),
                GRUB_KERNEL => Self::KernelCommandLine(text),
                _ => Self::ModuleCommandLine(text),
            };
        }
        let name = data.strip_suffix(b"\0").unwrap_or(data);
        SHIM_VARIABLES.iter().find(|known| known.as_bytes() == name).map_or(Self::Other(data), |known| Self::ShimVariable(known))
    }
}

/// GRUB measures a text without the prefix and the final zero that it has in the log.
pub(super) fn grub_text(data: &[u8]) -> Option<(&'static [u8], &[u8])> {
    let prefix = [GRUB_COMMAND, GRUB_KERNEL, GRUB_MODULE].into_iter().find(|prefix| data.starts_with(prefix))?;
    let text = &data[prefix.len()..];
    Some((prefix, text.strip_suffix(b"\0").unwrap_or(text)))
}

/// UTF-16LE for people: up to the first zero, what is broken replaced.
pub(super) fn utf16_text(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    char::decode_utf16(units.take_while(|unit| *unit != 0)).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

fn blob<'a>(data: &'a [u8], description: &'a [u8]) -> Option<Content<'a>> {
    let (base, rest) = u64_le(data)?;
    let (length, rest) = u64_le(rest)?;
    rest.is_empty().then_some(Content::Blob { base, length, description })
}

fn tables<'a>(data: &'a [u8], description: &'a [u8]) -> Option<Content<'a>> {
    let (count, rest) = u64_le(data)?;
    let fits = usize::try_from(count).ok()?.checked_mul(24)? == rest.len();
    fits.then_some(Content::Tables { count, description })
}

fn described(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

fn tagged(data: &[u8]) -> Option<Content<'_>> {
    let (id, rest) = data.split_first_chunk()?;
    let (len, data) = rest.split_first_chunk()?;
    let fits = usize::try_from(u32::from_le_bytes(*len)) == Ok(data.len());
    fits.then_some(Content::Tagged { id: u32::from_le_bytes(*id), data })
}

fn u64_le(data: &[u8]) -> Option<(u64, &[u8])> {
    let (bytes, rest) = data.split_first_chunk()?;
    Some((u64::from_le_bytes(*bytes), rest))
}

const GRUB_COMMAND: &[u8] = b"grub_cmd: ";
const GRUB_KERNEL: &[u8] = b"kernel_cmdline: ";
const GRUB_MODULE: &[u8] = b"module_cmdline: ";
/// What shim copies into PCR 14 (and PCR 7).
const SHIM_VARIABLES: [&str; 7] =
    ["MokList", "MokListX", "MokListTrusted", "MokSBState", "MokDBState", "MokIgnoreDB", "MokPolicy"];
const GPT_HEADER: usize = 92;
const GPT_ENTRY: usize = 128;
