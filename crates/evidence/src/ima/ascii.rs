//! `ascii_runtime_measurements`: PCR, digest, template and fields, with one space between and a newline at the end.

use super::{Field, Head, ImaError, MAX_ENTRY_BYTES, Template, template};
use crate::tpm::{Digest, HashAlg};

/// Bytes taken, and what stands before the data; the data goes to `scratch`, in the binary form.
pub(super) fn entry(bytes: &[u8], index: u64, scratch: &mut Vec<u8>) -> Result<(usize, Head), ImaError> {
    let window = &bytes[..bytes.len().min(MAX_LINE)];
    let end = match window.iter().position(|byte| *byte == b'\n') {
        Some(end) => end,
        None if bytes.len() > MAX_LINE => {
            return Err(ImaError::TooLarge { index, field: "line", size: bytes.len(), limit: MAX_LINE });
        }
        None => return Err(ImaError::Short { index, field: "line" }),
    };
    let mut words = bytes[..end].split(|byte| *byte == b' ');
    let malformed = |field| ImaError::Malformed { index, field };
    let mut text = |field| words.next().and_then(|word| std::str::from_utf8(word).ok()).ok_or(malformed(field));
    // The kernel writes the index in two columns.
    let pcr = text("PCR index")?;
    let pcr = if pcr.is_empty() { text("PCR index")? } else { pcr };
    let pcr = pcr.parse().map_err(|_| malformed("PCR index"))?;
    let mut digest = [0; 64];
    let len = hex(text("template digest")?.as_bytes(), &mut digest).ok_or(malformed("template digest"))?;
    let digest = Digest::from_slice(&digest[..len]).ok_or(malformed("template digest"))?;
    let alg = alg_of(&digest);
    let name = text("template name")?;
    let unknown = || ImaError::Template { index, name: name.escape_default().take(80).collect() };
    let template = Template::from_name(name).ok_or_else(unknown)?;
    scratch.clear();
    for field in template.fields() {
        let word = words.next().unwrap_or(&[]);
        write(field, word, template.is_original(), scratch).ok_or(malformed("template field"))?;
    }
    // An empty last field leaves a space before the newline.
    if words.any(|word| !word.is_empty()) {
        return Err(malformed("number of fields"));
    }
    Ok((end + 1, Head { pcr, digest, alg, template }))
}

fn write(field: Field, word: &[u8], original: bool, out: &mut Vec<u8>) -> Option<()> {
    if original {
        return write_original(field, word, out);
    }
    let start = out.len();
    out.extend([0; 4]);
    match field {
        Field::Name | Field::NameNg => {
            out.extend(word);
            out.push(0);
        }
        Field::DigestNg | Field::DigestNgV2 => labelled(word, out)?,
        Field::ModsigDigest if word.is_empty() => {}
        Field::ModsigDigest => labelled(word, out)?,
        Field::Digest | Field::Signature | Field::Buffer | Field::Modsig => push_hex(word, out)?,
    }
    let len = u32::try_from(out.len() - start - 4).ok()?;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    Some(())
}

fn write_original(field: Field, word: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match field {
        Field::Digest => {
            push_hex(word, out)?;
            (out.len() == template::ORIGINAL_DIGEST).then_some(())
        }
        _ => {
            let fits = word.len() < template::ORIGINAL_BYTES - template::ORIGINAL_DIGEST;
            out.extend(word);
            out.resize(template::ORIGINAL_BYTES, 0);
            fits.then_some(())
        }
    }
}

/// `sha256:…` or `verity:sha256:…`: everything up to the last colon, a zero, the digest.
fn labelled(word: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let colon = word.iter().rposition(|byte| *byte == b':')?;
    out.extend(&word[..=colon]);
    out.push(0);
    push_hex(&word[colon + 1..], out)
}

fn push_hex(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    out.resize(start + text.len() / 2, 0);
    hex(text, &mut out[start..]).map(|_| ())
}

/// Bytes written.
fn hex(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let (pairs, odd) = text.as_chunks::<2>();
    if !odd.is_empty() || pairs.len() > out.len() {
        return None;
    }
    for (pair, byte) in pairs.iter().zip(out.iter_mut()) {
        let (high, low) = (NIBBLE[usize::from(pair[0])], NIBBLE[usize::from(pair[1])]);
        if high | low > 15 {
            return None;
        }
        *byte = high << 4 | low;
    }
    Some(pairs.len())
}

fn alg_of(digest: &Digest) -> HashAlg {
    match digest.as_slice().len() {
        20 => HashAlg::Sha1,
        32 => HashAlg::Sha256,
        48 => HashAlg::Sha384,
        _ => HashAlg::Sha512,
    }
}

/// The value of a lower-case hexadecimal digit, as the kernel writes them; 255 for anything else.
const NIBBLE: [u8; 256] = {
    let mut table = [255; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    table
};
/// Hexadecimal text takes twice the bytes, and there are names beside it.
const MAX_LINE: usize = 2 * MAX_ENTRY_BYTES + 8192;
