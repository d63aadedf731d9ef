//! Which shared libraries a program asks for, what a kernel notes and what a module says of itself: enough of ELF64 to prove that an
//! image is complete.

use anyhow::{Context as _, Result, bail};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;
const DYNAMIC_ENTRY: usize = 16;
const NOTE_HEADER: usize = 12;
const NOTE_ALIGN: usize = 4;

/// The libraries that `bytes` needs; none for what is not ELF or is static.
pub(crate) fn needed(bytes: &[u8]) -> Result<Vec<String>> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(Vec::new());
    }
    check_kind(bytes)?;
    let headers = program_headers(bytes)?;
    let Some(dynamic) = headers.iter().find(|header| header.kind == PT_DYNAMIC) else { return Ok(Vec::new()) };
    let entries = dynamic_entries(bytes, dynamic)?;
    let Some((_, strings)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else { return Ok(Vec::new()) };
    let strings = file_offset(&headers, *strings).context("the string table is in no segment")?;
    let names = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED);
    names.map(|(_, at)| string_at(bytes, strings.saturating_add(*at))).collect()
}

/// Whether a note of `owner` has this type.
pub(crate) fn has_note(bytes: &[u8], owner: &str, kind: u32) -> Result<bool> {
    check_kind(bytes)?;
    for header in program_headers(bytes)?.iter().filter(|header| header.kind == PT_NOTE) {
        let mut rest = part(bytes, header.offset, header.length).context("notes lie behind the end")?;
        while rest.len() >= NOTE_HEADER {
            let (name, text) = (u32_at(rest, 0)? as usize, u32_at(rest, 4)? as usize);
            let found = rest.get(NOTE_HEADER..).and_then(|rest| rest.get(..name)).context("a note is truncated")?;
            if u32_at(rest, 8)? == kind && found.strip_suffix(&[0]) == Some(owner.as_bytes()) {
                return Ok(true);
            }
            let length = NOTE_HEADER + name.next_multiple_of(NOTE_ALIGN) + text.next_multiple_of(NOTE_ALIGN);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
    Ok(false)
}

/// The section called `name`.
pub(crate) fn section<'a>(bytes: &'a [u8], name: &str) -> Result<Option<&'a [u8]>> {
    check_kind(bytes)?;
    let table = index(u64_at(bytes, 40)?)?;
    let header = |number: u16| table.saturating_add(usize::from(number) * SECTION_HEADER);
    let names = u64_at(bytes, header(u16_at(bytes, 62)?).saturating_add(24))?;
    for at in (0..u16_at(bytes, 60)?).map(header) {
        if string_at(bytes, names.saturating_add(u64::from(u32_at(bytes, at)?)))? == name {
            let (offset, length) = (u64_at(bytes, at.saturating_add(24))?, u64_at(bytes, at.saturating_add(32))?);
            return part(bytes, offset, length).with_context(|| format!("{name} lies behind the end")).map(Some);
        }
    }
    Ok(None)
}

fn check_kind(bytes: &[u8]) -> Result<()> {
    if bytes.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian program");
    }
    Ok(())
}

struct Header {
    kind: u32,
    offset: u64,
    address: u64,
    length: u64,
}

fn program_headers(bytes: &[u8]) -> Result<Vec<Header>> {
    let table = index(u64_at(bytes, 32)?)?;
    let count = usize::from(u16_at(bytes, 56)?);
    (0..count)
        .map(|number| {
            let at = table.saturating_add(number * PROGRAM_HEADER);
            let kind = u32_at(bytes, at)?;
            Ok(Header { kind, offset: u64_at(bytes, at + 8)?, address: u64_at(bytes, at + 16)?, length: u64_at(bytes, at + 32)? })
        })
        .collect()
}

fn dynamic_entries(bytes: &[u8], dynamic: &Header) -> Result<Vec<(u64, u64)>> {
    let mut entries = Vec::new();
    let start = index(dynamic.offset)?;
    for at in (start..start.saturating_add(index(dynamic.length)?)).step_by(DYNAMIC_ENTRY) {
        let entry = (u64_at(bytes, at)?, u64_at(bytes, at + 8)?);
        if entry.0 == DT_NULL {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn file_offset(headers: &[Header], address: u64) -> Option<u64> {
    let segment = headers
        .iter()
        .find(|header| header.kind == PT_LOAD && address.checked_sub(header.address).is_some_and(|into| into < header.length))?;
    Some(segment.offset + (address - segment.address))
}

fn string_at(bytes: &[u8], at: u64) -> Result<String> {
    let rest = bytes.get(index(at)?..).context("a name lies behind the end")?;
    let end = rest.iter().position(|byte| *byte == 0).context("a name has no end")?;
    Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>);
    field.map(|field| u64::from_le_bytes(*field)).context("the program is truncated")
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<4>);
    field.map(|field| u32::from_le_bytes(*field)).context("the program is truncated")
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<2>);
    field.map(|field| u16::from_le_bytes(*field)).context("the program is truncated")
}

fn part(bytes: &[u8], offset: u64, length: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(offset).ok()?..)?.get(..usize::try_from(length).ok()?)
}

fn index(value: u64) -> Result<usize> {
    usize::try_from(value).context("an offset is out of range")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A program with one note.
    pub(crate) fn with_note(owner: &str, kind: u32) -> Vec<u8> {
        let mut note: Vec<u8> = [owner.len() as u32 + 1, 4, kind].into_iter().flat_map(u32::to_le_bytes).collect();
        note.extend(owner.bytes().chain([0]));
        note.resize(note.len().next_multiple_of(NOTE_ALIGN), 0);
        note.extend([1, 2, 3, 4]);
        let mut bytes = header();
        put(&mut bytes, 32, 64);
        bytes[56] = 1;
        let mut program = [0; PROGRAM_HEADER];
        program[0] = PT_NOTE as u8;
        put(&mut program, 8, (64 + PROGRAM_HEADER) as u64);
        put(&mut program, 32, note.len() as u64);
        [bytes, program.to_vec(), note].concat()
    }

    /// A program with one section.
    pub(crate) fn with_section(name: &str, content: &[u8]) -> Vec<u8> {
        let names = [name.as_bytes(), &[0]].concat();
        let mut bytes = header();
        put(&mut bytes, 40, 64);
        // Two sections; the first holds the names.
        (bytes[60], bytes[62]) = (2, 0);
        let start = 64 + 2 * SECTION_HEADER;
        for (offset, content) in [(start, names.as_slice()), (start + names.len(), content)] {
            let mut section = [0; SECTION_HEADER];
            // The names are called like nothing: their name is the end of the other's.
            put(&mut section, 0, if offset == start { name.len() as u64 } else { 0 });
            put(&mut section, 24, offset as u64);
            put(&mut section, 32, content.len() as u64);
            bytes.extend(section);
        }
        [bytes, names, content.to_vec()].concat()
    }

    fn header() -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64, 0);
        bytes
    }

    fn put(bytes: &mut [u8], at: usize, value: u64) {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn finds_what_this_test_itself_needs() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(needed(&own).unwrap().contains(&"libc.so.6".to_owned()));
    }

    #[test]
    fn scripts_need_nothing_and_truncated_programs_are_errors() {
        assert!(needed(b"#!/bin/sh\n").unwrap().is_empty());
        assert!(needed(b"\x7fELF\x02\x01\x01").is_err());
    }

    #[test]
    fn finds_a_note_by_owner_and_type() {
        let bytes = with_note("Xen", 18);
        assert!(has_note(&bytes, "Xen", 18).unwrap());
        assert!(!has_note(&bytes, "Xen", 2).unwrap());
        assert!(!has_note(&bytes, "GNU", 18).unwrap());
        assert!(has_note(&bytes[..bytes.len() - 1], "Xen", 18).is_err());
        assert!(has_note(b"#!/bin/sh", "Xen", 18).is_err());
    }

    #[test]
    fn finds_a_section_by_name() {
        let bytes = with_section(".modinfo", b"depends=");
        assert_eq!(section(&bytes, ".modinfo").unwrap(), Some(&b"depends="[..]));
        assert_eq!(section(&bytes, ".mod").unwrap(), None);
        assert!(section(&bytes[..bytes.len() - 1], ".modinfo").is_err());
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(section(&own, ".text").unwrap().is_some());
    }
}
