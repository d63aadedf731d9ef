//! `binary_runtime_measurements`: PCR, digest, template name, template data.

use super::{Head, ImaError, MAX_ENTRY_BYTES, Template, template};
use crate::tpm::{Digest, HashAlg};

/// Bytes taken, what stands before the data, and the data; in `scratch` where it has to be put together.
pub(super) fn entry<'a>(
    bytes: &'a [u8],
    alg: HashAlg,
    index: u64,
    scratch: &mut Vec<u8>,
) -> Result<(usize, Head, Option<&'a [u8]>), ImaError> {
    let mut cursor = Cursor { rest: bytes, index };
    let pcr = cursor.u32("PCR index")?;
    let digest = Digest::from_slice(cursor.take("template digest", alg.size())?).expect("the size of a digest");
    let name = cursor.sized("template name", MAX_TEMPLATE_NAME)?;
    let malformed = || ImaError::Template { index, name: name.escape_ascii().to_string() };
    let template = std::str::from_utf8(name).ok().and_then(Template::from_name).ok_or_else(malformed)?;
    let head = Head { pcr, digest, alg, template };
    if !template.is_original() {
        let data = cursor.sized("template data", MAX_ENTRY_BYTES)?;
        return Ok((bytes.len() - cursor.rest.len(), head, Some(data)));
    }
    scratch.clear();
    scratch.extend(cursor.take("digest", template::ORIGINAL_DIGEST)?);
    scratch.extend(cursor.sized("name", template::ORIGINAL_BYTES - template::ORIGINAL_DIGEST - 1)?);
    scratch.resize(template::ORIGINAL_BYTES, 0);
    Ok((bytes.len() - cursor.rest.len(), head, None))
}

struct Cursor<'a> {
    rest: &'a [u8],
    index: u64,
}

impl<'a> Cursor<'a> {
    fn u32(&mut self, field: &'static str) -> Result<u32, ImaError> {
        let bytes = self.take(field, 4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("take returned four bytes")))
    }

    fn sized(&mut self, field: &'static str, limit: usize) -> Result<&'a [u8], ImaError> {
        let size = usize::try_from(self.u32(field)?).unwrap_or(usize::MAX);
        if size > limit {
            return Err(ImaError::TooLarge { index: self.index, field, size, limit });
        }
        self.take(field, size)
    }

    fn take(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], ImaError> {
        let short = ImaError::Short { index: self.index, field };
        let (head, rest) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = rest;
        Ok(head)
    }
}

/// Longer than the longest list of fields.
const MAX_TEMPLATE_NAME: usize = 64;
