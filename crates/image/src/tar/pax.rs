//! PAX records: `LENGTH KEY=VALUE\n`, where a value may hold any byte.

/// The records before one entry, in order.
#[derive(Default)]
pub(super) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let (record, rest) = split_record(bytes).ok_or("its PAX records are malformed")?;
            records.push(record);
            bytes = rest;
        }
        Ok(Self(records))
    }

    /// The value that holds: the last one; an empty value means none.
    pub(super) fn value(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, value) = self.0.iter().rev().find(|(k, _)| k == key)?;
        Some(value.as_slice()).filter(|v| !v.is_empty())
    }

    pub(super) fn number(&self, key: &[u8]) -> Result<Option<u64>, String> {
        self.value(key).map(|v| decimal(v).ok_or_else(|| format!("its PAX {} is no number", key.escape_ascii()))).transpose()
    }

    /// Seconds and nanoseconds (counted upwards, also before 1970).
    pub(super) fn time(&self, key: &[u8]) -> Result<Option<(i64, u32)>, String> {
        self.value(key).map(|v| time(v).ok_or_else(|| format!("its PAX {} is no time", key.escape_ascii()))).transpose()
    }

    /// In sparse files `path` is a made-up name.
    pub(super) fn path(&self) -> Option<Vec<u8>> {
        self.value(b"GNU.sparse.name").or_else(|| self.value(b"path")).map(<[u8]>::to_vec)
    }

    pub(super) fn link(&self) -> Option<Vec<u8>> {
        self.value(b"linkpath").map(<[u8]>::to_vec)
    }

    /// Extended attributes; unlike other values, an empty one is a value.
    pub(super) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let name = |key: &[u8]| key.strip_prefix(b"SCHILY.xattr.").map(<[u8]>::to_vec);
        self.0.iter().filter_map(|(key, value)| Some((name(key)?, value.clone()))).collect()
    }

    /// All records, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
    }
}

type Record = (Vec<u8>, Vec<u8>);

fn split_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let space = bytes.iter().take(MAX_DIGITS + 1).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return None;
    }
    Some(((key.to_vec(), value.to_vec()), &bytes[length..]))
}

/// Plain digits only: no sign, no space.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > MAX_DIGITS {
        return None;
    }
    text.iter().try_fold(0u64, |value, b| match b {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let dot = text.iter().position(|b| *b == b'.');
    let (whole, fraction) = dot.map_or((text, &b""[..]), |at| (&text[..at], &text[at + 1..]));
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |i: usize| fraction.get(i).map_or(0, |b| u32::from(b - b'0'));
    let nanoseconds = (0..9).fold(0, |value, i| value * 10 + digit(i));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

const MAX_DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_values_with_newlines_and_takes_the_last() {
        let records = Records::parse(b"12 path=one\n12 path=two\n27 SCHILY.xattr.user.a=\n\n\0\n").unwrap();
        assert_eq!(records.path().unwrap(), b"two");
        assert_eq!(records.xattrs(), [(b"user.a".to_vec(), b"\n\n\0".to_vec())]);
    }

    #[test]
    fn refuses_lengths_that_lie() {
        for bad in
            [&b"12 path=one"[..], b"99 path=one\n", b"3 a\n", b"0 path=one\n", b"-1 a=b\n", b"6 =ab\n", b" a=b\n", b"6 a=bb"]
        {
            assert!(Records::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn reads_times_before_and_after_1970() {
        assert_eq!(time(b"5.25"), Some((5, 250_000_000)));
        assert_eq!(time(b"-5.25"), Some((-6, 750_000_000)));
        assert_eq!(time(b"-5"), Some((-5, 0)));
        assert_eq!(time(b"1.1234567899"), Some((1, 123_456_789)));
        for bad in [&b""[..], b"-", b".5", b"1.x", b"1e5", b"99999999999999999999", b"- 1"] {
            assert_eq!(time(bad), None, "{}", bad.escape_ascii());
        }
    }
}
