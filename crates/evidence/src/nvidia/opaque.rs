//! NVIDIA's opaque data: fields of type (2 bytes), length (2 bytes) and content, numbers little endian.
//!
//! The types are those of NVIDIA's published verifiers. Fields of unknown type are kept: a new driver may add some, and all of
//! them are signed.

use super::{Reader, ReportError};

/// A type of field, as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Field(pub u16);

impl Field {
    /// Version of the driver, ASCII.
    pub const DRIVER_VERSION: Self = Self(3);
    /// Features of the GPU.
    pub const GPU_INFO: Self = Self(4);
    /// Version of the VBIOS (GPU: 8 bytes) or of the BIOS (switch: ASCII).
    pub const VBIOS_VERSION: Self = Self(6);
    /// Whether NVDEC0 is there: 0xaa enabled, 0x55 disabled.
    pub const NVDEC0_STATUS: Self = Self(11);
    /// How often each measurement was extended: 4 bytes each.
    pub const MEASUREMENT_COUNTS: Self = Self(12);
    /// Compute protected region.
    pub const CPR_INFO: Self = Self(13);
    /// Board.
    pub const BOARD_ID: Self = Self(14);
    /// Chip SKU, ASCII.
    pub const CHIP_SKU: Self = Self(15);
    /// Its modifier, ASCII.
    pub const CHIP_SKU_MOD: Self = Self(16);
    /// Project, ASCII.
    pub const PROJECT: Self = Self(17);
    /// Its SKU, ASCII.
    pub const PROJECT_SKU: Self = Self(18);
    /// And modifier, ASCII.
    pub const PROJECT_SKU_MOD: Self = Self(19);
    /// Digest of the firmware that signed: that of the leaf certificate.
    pub const FWID: Self = Self(20);
    /// Protected PCIe: 0xaa on, 0x55 off.
    pub const PROTECTED_PCIE_STATUS: Self = Self(21);
    /// GPU: identifiers (PDI, 8 bytes each) of the switch at each link. Switch: its own.
    pub const PDI: Self = Self(22);
    /// Switch: whether its ports are locked.
    pub const SWITCH_LOCK_STATUS: Self = Self(25);
    /// Switch: the identifiers of the eight GPUs at it, then its ports.
    pub const SWITCH_GPU_PDIS: Self = Self(26);
    /// Version of the opaque data.
    pub const DATA_VERSION: Self = Self(34);
    /// Since version 1: 0 several GPUs passed through, 1 a single one, 2 protected PCIe.
    pub const FEATURE_FLAG: Self = Self(36);

    /// Its name, where it has one here.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::DRIVER_VERSION => "DRIVER_VERSION",
            Self::GPU_INFO => "GPU_INFO",
            Self::VBIOS_VERSION => "VBIOS_VERSION",
            Self::NVDEC0_STATUS => "NVDEC0_STATUS",
            Self::MEASUREMENT_COUNTS => "MSRSCNT",
            Self::CPR_INFO => "CPRINFO",
            Self::BOARD_ID => "BOARD_ID",
            Self::CHIP_SKU => "CHIP_SKU",
            Self::CHIP_SKU_MOD => "CHIP_SKU_MOD",
            Self::PROJECT => "PROJECT",
            Self::PROJECT_SKU => "PROJECT_SKU",
            Self::PROJECT_SKU_MOD => "PROJECT_SKU_MOD",
            Self::FWID => "FWID",
            Self::PROTECTED_PCIE_STATUS => "PROTECTED_PCIE_STATUS",
            Self::PDI => "PDI",
            Self::SWITCH_LOCK_STATUS => "SWITCH_LOCK_STATUS",
            Self::SWITCH_GPU_PDIS => "SWITCH_GPU_PDIS",
            Self::DATA_VERSION => "OPAQUE_DATA_VERSION",
            Self::FEATURE_FLAG => "FEATURE_FLAG",
            Self(_) => return None,
        })
    }
}

/// The opaque data: fields in the sender's order, each type once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Opaque<'a>(pub Vec<(Field, &'a [u8])>);

/// A version that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the version is not of the form that such a device has")]
pub struct VersionError;

impl<'a> Opaque<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        let mut reader = Reader(bytes);
        let mut fields = Vec::new();
        while !reader.0.is_empty() {
            let id = reader.word("the type of an opaque field")?;
            let len = usize::from(reader.word("the length of an opaque field")?);
            let value = reader.take(len, "an opaque field")?;
            if fields.iter().any(|(seen, _)| *seen == Field(id)) {
                return Err(ReportError::DuplicateField { id });
            }
            if fixed_size(Field(id)).is_some_and(|size| size != len) || (Field(id) == Field::MEASUREMENT_COUNTS && len % 4 != 0) {
                return Err(ReportError::FieldSize { id, len });
            }
            fields.push((Field(id), value));
        }
        Ok(Self(fields))
    }

    /// The content of a field.
    pub fn field(&self, field: Field) -> Option<&'a [u8]> {
        self.0.iter().find(|(seen, _)| *seen == field).map(|(_, value)| *value)
    }

    /// A field of one byte.
    pub fn byte(&self, field: Field) -> Option<u8> {
        match self.field(field)? {
            [byte] => Some(*byte),
            _ => None,
        }
    }

    /// A field of two bytes.
    pub fn word(&self, field: Field) -> Option<u16> {
        self.field(field)?.try_into().ok().map(u16::from_le_bytes)
    }

    /// A field of printable ASCII, without the NULs at its end.
    pub fn text(&self, field: Field) -> Option<&'a str> {
        text(self.field(field)?)
    }

    /// How often each measurement was extended, from index 0 as manifests count.
    pub fn measurement_counts(&self) -> Vec<u32> {
        let bytes = self.field(Field::MEASUREMENT_COUNTS).unwrap_or_default();
        bytes.as_chunks().0.iter().map(|count| u32::from_le_bytes(*count)).collect()
    }

    /// The PDIs in `field`, without those that are all zero (nothing at that link); sorted, each once.
    /// [`Field::PDI`] may have up to `most`; of another field the first `most` are read, which must be there. `None` where the
    /// field is absent or its length does not fit.
    pub fn pdis(&self, field: Field, most: usize) -> Option<Vec<[u8; 8]>> {
        let bytes = self.field(field)?;
        let (pdis, rest) = bytes.as_chunks::<8>();
        let fits = if field == Field::PDI { rest.is_empty() && pdis.len() <= most } else { pdis.len() >= most };
        if !fits {
            return None;
        }
        let mut found: Vec<_> = pdis.iter().take(most).filter(|pdi| **pdi != [0; 8]).copied().collect();
        found.sort_unstable();
        found.dedup();
        Some(found)
    }
}

/// The version of a GPU's VBIOS as people write it (`96.00.74.00.01`) from its 8 bytes: four bytes from the low half, highest
/// first, then the lowest byte of the high half.
pub fn vbios_version(bytes: &[u8]) -> Result<String, VersionError> {
    let [a, b, c, d, e, ..] = *<&[u8; 8]>::try_from(bytes).map_err(|_| VersionError)?;
    Ok(format!("{d:02X}.{c:02X}.{b:02X}.{a:02X}.{e:02X}"))
}

/// The version of a switch's BIOS, which is text.
pub fn switch_bios_version(bytes: &[u8]) -> Result<String, VersionError> {
    text(bytes).filter(|text| !text.is_empty()).map(str::to_uppercase).ok_or(VersionError)
}

fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    std::str::from_utf8(&bytes[..end]).ok().filter(|text| text.chars().all(|c| c.is_ascii_graphic()))
}

/// Fields that are judged and must have one length.
fn fixed_size(field: Field) -> Option<usize> {
    match field {
        Field::NVDEC0_STATUS | Field::PROTECTED_PCIE_STATUS => Some(1),
        Field::DATA_VERSION | Field::FEATURE_FLAG => Some(2),
        Field::FWID => Some(48),
        Field(_) => None,
    }
}
