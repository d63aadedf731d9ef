//! What an OVMF file says about itself: a table that ends 32 bytes before the file does, read backwards, each entry with its
//! length and GUID at its end, and the SEV metadata that one entry points at.

/// Size of a page.
pub(super) const PAGE_BYTES: usize = 4096;

/// Why a firmware file cannot be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FirmwareError {
    /// Not whole pages, or too many.
    #[error("the file has {len} bytes; whole pages up to {MAX_BYTES} bytes can be measured")]
    Length {
        /// Found.
        len: usize,
    },
    /// No table, so this is not OVMF.
    #[error("the file does not end with OVMF's table")]
    NoTable,
    /// Lengths in the table do not fit each other.
    #[error("OVMF's table is not well-formed")]
    Table,
    /// An entry that is needed is absent or has no proper content.
    #[error("OVMF's table has no proper entry for {what}")]
    Entry {
        /// Which.
        what: &'static str,
    },
    /// The metadata are not where or what they should be.
    #[error("the SEV metadata are not well-formed")]
    Metadata,
    /// A section of unknown meaning: it would change the measurement.
    #[error("the SEV metadata have a section of kind {kind}, which is not known here")]
    Section {
        /// Found.
        kind: u32,
    },
    /// Sections too large to be plausible.
    #[error("the SEV metadata have sections of more than {MAX_SECTION_BYTES} bytes together")]
    Sections,
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Firmware<'a> {
    bytes: &'a [u8],
    sections: Vec<Section>,
    reset_eip: u32,
    hashes_table: Option<u32>,
}

/// Pages that are in the guest's memory from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) kind: SectionKind,
    /// Address, in bytes.
    pub(super) base: u32,
    /// Size, in bytes.
    pub(super) size: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SectionKind {
    /// SNP_SEC_MEM.
    Memory,
    /// SNP_SECRETS.
    Secrets,
    /// CPUID.
    Cpuid,
    /// SVSM_CAA.
    SvsmCaa,
    /// SNP_KERNEL_HASHES.
    KernelHashes,
}

impl Section {
    /// Addresses of its pages.
    pub(super) fn pages(self) -> impl Iterator<Item = u64> {
        let base = u64::from(self.base);
        (base..base + u64::from(self.size)).step_by(PAGE_BYTES)
    }
}

impl<'a> Firmware<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, FirmwareError> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(PAGE_BYTES) || bytes.len() > MAX_BYTES {
            return Err(FirmwareError::Length { len: bytes.len() });
        }
        let table = Table::find(bytes)?;
        let number = |guid, what| {
            let entry = table.entry(guid)?;
            entry
                .map(|content| content.first_chunk().copied().map(u32::from_le_bytes).ok_or(FirmwareError::Entry { what }))
                .transpose()
        };
        let missing = |what| FirmwareError::Entry { what };
        let reset = "the SEV-ES reset vector";
        let metadata = "the SEV metadata";
        let from_end = number(&METADATA_GUID, metadata)?.ok_or(missing(metadata))?;
        let reset_eip = number(&RESET_GUID, reset)?.ok_or(missing(reset))?;
        let hashes_table = number(&HASHES_GUID, "the digests of kernel and initrd")?.filter(|address| *address != 0);
        Ok(Self { bytes, sections: sections(bytes, from_end)?, reset_eip, hashes_table })
    }

    /// Address of its first byte.
    pub(super) fn base(&self) -> u64 {
        FOUR_GIB - self.bytes.len() as u64
    }

    pub(super) fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Where all processors but the first start.
    pub(super) const fn reset_eip(&self) -> u32 {
        self.reset_eip
    }

    /// Address of the table of digests, if the firmware checks them.
    pub(super) const fn hashes_table(&self) -> Option<u32> {
        self.hashes_table
    }
}

/// OVMF's table without its own footer.
struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    fn find(bytes: &'a [u8]) -> Result<Self, FirmwareError> {
        let end = bytes.len() - TABLE_END;
        let (footer, before) = take_footer(&bytes[..end]).ok_or(FirmwareError::NoTable)?;
        if footer.guid != TABLE_GUID {
            return Err(FirmwareError::NoTable);
        }
        let len = usize::from(footer.len).checked_sub(FOOTER_BYTES).ok_or(FirmwareError::Table)?;
        let start = before.len().checked_sub(len).ok_or(FirmwareError::Table)?;
        Ok(Self(&before[start..]))
    }

    /// Content of the entry with `guid`. One that is there twice is refused: who reads the first and who reads the last
    /// would see different things.
    fn entry(&self, guid: &[u8; 16]) -> Result<Option<&'a [u8]>, FirmwareError> {
        let (mut rest, mut found) = (self.0, None);
        while !rest.is_empty() {
            let (footer, before) = take_footer(rest).ok_or(FirmwareError::Table)?;
            let len = usize::from(footer.len).checked_sub(FOOTER_BYTES).ok_or(FirmwareError::Table)?;
            let start = before.len().checked_sub(len).ok_or(FirmwareError::Table)?;
            if footer.guid == *guid && found.replace(&before[start..]).is_some() {
                return Err(FirmwareError::Table);
            }
            rest = &before[..start];
        }
        Ok(found)
    }
}

/// What stands at the end of an entry.
struct Footer {
    /// Of the entry with this footer, in bytes.
    len: u16,
    guid: [u8; 16],
}

fn take_footer(bytes: &[u8]) -> Option<(Footer, &[u8])> {
    let (rest, guid) = bytes.split_last_chunk::<16>()?;
    let (rest, len) = rest.split_last_chunk::<2>()?;
    Some((Footer { len: u16::from_le_bytes(*len), guid: *guid }, rest))
}

/// The metadata start `from_end` bytes before the end of the file: "ASEV", size, version, count, and 12 bytes for each section.
fn sections(bytes: &[u8], from_end: u32) -> Result<Vec<Section>, FirmwareError> {
    let start = bytes.len().checked_sub(from_end as usize).ok_or(FirmwareError::Metadata)?;
    let (header, rest) = bytes[start..].split_first_chunk::<16>().ok_or(FirmwareError::Metadata)?;
    let [signature, size, version, count] = words(header);
    if signature != u32::from_le_bytes(*b"ASEV") || version != 1 || count > MAX_SECTIONS || size != 16 + 12 * count {
        return Err(FirmwareError::Metadata);
    }
    let listed = rest.get(..12 * count as usize).ok_or(FirmwareError::Metadata)?;
    let sections = listed.as_chunks::<12>().0.iter().map(section).collect::<Result<Vec<_>, _>>()?;
    if sections.iter().map(|section| u64::from(section.size)).sum::<u64>() > MAX_SECTION_BYTES {
        return Err(FirmwareError::Sections);
    }
    Ok(sections)
}

fn section(bytes: &[u8; 12]) -> Result<Section, FirmwareError> {
    let [base, size, kind] = words(bytes);
    let kind = match kind {
        1 => SectionKind::Memory,
        2 => SectionKind::Secrets,
        3 => SectionKind::Cpuid,
        4 => SectionKind::SvsmCaa,
        0x10 => SectionKind::KernelHashes,
        kind => return Err(FirmwareError::Section { kind }),
    };
    let page = PAGE_BYTES as u32;
    let whole = base.is_multiple_of(page) && size.is_multiple_of(page) && size != 0 && base.checked_add(size).is_some();
    // Of these there is one page; more would not be measured.
    let single = matches!(kind, SectionKind::Secrets | SectionKind::Cpuid | SectionKind::KernelHashes);
    match whole && (!single || size == page) {
        true => Ok(Section { kind, base, size }),
        false => Err(FirmwareError::Metadata),
    }
}

fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u32; WORDS] {
    const { assert!(BYTES == 4 * WORDS) };
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

/// A GUID in its mixed byte order: three little-endian fields, then eight bytes in order.
pub(super) const fn guid(first: u32, second: u16, third: u16, rest: u64) -> [u8; 16] {
    let ([a, b, c, d], [e, f], [g, h]) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
    let [i, j, k, l, m, n, o, p] = rest.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

const FOUR_GIB: u64 = 1 << 32;
/// OVMF images have 2 or 4 MiB.
const MAX_BYTES: usize = 16 << 20;
const TABLE_END: usize = 32;
const FOOTER_BYTES: usize = 2 + 16;
const MAX_SECTIONS: u32 = 64;
const MAX_SECTION_BYTES: u64 = 64 << 20;
/// 96b582de-1fb2-45f7-baea-a366c55a082d.
pub(super) const TABLE_GUID: [u8; 16] = guid(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
/// 7255371f-3a3b-4b04-927b-1da6efa8d454.
pub(super) const HASHES_GUID: [u8; 16] = guid(0x7255_371f, 0x3a3b, 0x4b04, 0x927b_1da6_efa8_d454);
/// 00f771de-1a7e-4fcb-890e-68c77e2fb44e.
pub(super) const RESET_GUID: [u8; 16] = guid(0x00f7_71de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);
/// dc886566-984a-4798-a75e-5585a7bf67cc.
pub(super) const METADATA_GUID: [u8; 16] = guid(0xdc88_6566, 0x984a, 0x4798, 0xa75e_5585_a7bf_67cc);
