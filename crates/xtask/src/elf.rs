//! Which shared libraries a program asks for: enough of ELF64 to prove that an image is complete.

use anyhow::{Context as _, Result, bail};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const PROGRAM_HEADER: usize = 56;
const DYNAMIC_ENTRY: usize = 16;

/// The libraries that `bytes` needs; none for what is not ELF or is static.
pub(crate) fn needed(bytes: &[u8]) -> Result<Vec<String>> {
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(Vec::new());
    }
    if bytes.get(4..6) != Some(&[2, 1]) {
        bail!("not a 64-bit little-endian program");
    }
    let headers = program_headers(bytes)?;
    let Some(dynamic) = headers.iter().find(|header| header.kind == PT_DYNAMIC) else { return Ok(Vec::new()) };
    let entries = dynamic_entries(bytes, dynamic)?;
    let Some((_, strings)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else { return Ok(Vec::new()) };
    let strings = file_offset(&headers, *strings).context("the string table is in no segment")?;
    let names = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED);
    names.map(|(_, at)| string_at(bytes, strings.saturating_add(*at))).collect()
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
            let kind = u32::from(u16_at(bytes, at)?) | u32::from(u16_at(bytes, at + 2)?) << 16;
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

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk::<2>);
    field.map(|field| u16::from_le_bytes(*field)).context("the program is truncated")
}

fn index(value: u64) -> Result<usize> {
    usize::try_from(value).context("an offset is out of range")
}

#[cfg(test)]
mod tests {
    use super::needed;

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
}
