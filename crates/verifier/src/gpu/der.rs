//! Elements of DER, one after the other; for the two structures that the X.509 crate does not have.

/// One element: tag, content, and all of its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    pub(super) whole: &'a [u8],
}

/// What is left of a list of elements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elements<'a>(pub(super) &'a [u8]);

impl<'a> Elements<'a> {
    /// The next element, of low tag number and definite, minimal length. `None` where there is none or it is malformed.
    pub(super) fn next(&mut self) -> Option<Element<'a>> {
        let bytes = self.0;
        let (&tag, after) = bytes.split_first()?;
        let (&first, after) = after.split_first()?;
        let (len, header) = match first {
            0..=0x7f => (usize::from(first), 2),
            0x81..=0x83 => {
                let digits = after.get(..usize::from(first & 0x7f))?;
                let len = digits.iter().fold(0usize, |len, digit| (len << 8) | usize::from(*digit));
                let least = if digits.len() == 1 { 0x80 } else { 1 << (8 * (digits.len() - 1)) };
                if len < least {
                    return None;
                }
                (len, 2 + digits.len())
            }
            _ => return None,
        };
        if tag & 0x1f == 0x1f {
            return None;
        }
        let whole = bytes.get(..header + len)?;
        self.0 = &bytes[whole.len()..];
        Some(Element { tag, content: &whole[header..], whole })
    }

    /// The next element, which must have `tag`.
    pub(super) fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }

    /// The next element if it has `tag`; else nothing is taken.
    pub(super) fn optional(&mut self, tag: u8) -> Option<Element<'a>> {
        let mut ahead = *self;
        let found = ahead.expect(tag)?;
        *self = ahead;
        Some(found)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> Element<'a> {
    /// The elements within.
    pub(super) fn elements(&self) -> Elements<'a> {
        Elements(self.content)
    }
}

/// The only element of `bytes`, which must have `tag`.
pub(super) fn only(bytes: &[u8], tag: u8) -> Option<Element<'_>> {
    let mut elements = Elements(bytes);
    elements.expect(tag).filter(|_| elements.is_empty())
}

pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const GENERALIZED_TIME: u8 = 0x18;

/// `[n]`, primitive.
pub(super) const fn context(number: u8) -> u8 {
    0x80 | number
}

/// `[n]`, constructed.
pub(super) const fn constructed(number: u8) -> u8 {
    0xa0 | number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_short_and_long_lengths_and_refuses_others() {
        assert_eq!(only(&[0x04, 1, 7], OCTET_STRING).unwrap().content, [7]);
        let long = [&[0x04, 0x81, 0x80][..], &[1; 128]].concat();
        assert_eq!(only(&long, OCTET_STRING).unwrap().content, [1; 128]);
        let longer = [&[0x04, 0x82, 1, 0][..], &[1; 256]].concat();
        assert_eq!(only(&longer, OCTET_STRING).unwrap().content, [1; 256]);
        // Not minimal, indefinite, too short, another tag, more than one, a tag of several bytes.
        assert!(only(&[0x04, 0x81, 1, 7], OCTET_STRING).is_none());
        assert!(only(&[&[0x04, 0x82, 0, 0x80][..], &[1; 128]].concat(), OCTET_STRING).is_none());
        assert!(only(&[0x04, 0x80, 0, 0], OCTET_STRING).is_none());
        assert!(only(&[0x04, 2, 7], OCTET_STRING).is_none());
        assert!(only(&[0x05, 0], OCTET_STRING).is_none());
        assert!(only(&[0x04, 0, 0x04, 0], OCTET_STRING).is_none());
        assert!(only(&[&[0x04, 0x83, 0, 1, 0][..], &[1; 256]].concat(), OCTET_STRING).is_none());
        let longest = [&[0x04, 0x83, 1, 0, 0][..], &[1; 0x1_0000]].concat();
        assert_eq!(only(&longest, OCTET_STRING).unwrap().content.len(), 0x1_0000);
        assert!(Elements(&[0x1f, 0x01, 0]).next().is_none());
        assert!(Elements(&[0x04, 0x84, 0, 0, 0, 1, 1]).next().is_none());
    }

    #[test]
    fn an_optional_element_that_is_not_there_takes_nothing() {
        let mut elements = Elements(&[0x02, 1, 7]);
        assert!(elements.optional(OCTET_STRING).is_none());
        assert_eq!(elements.optional(INTEGER).unwrap().whole, [0x02, 1, 7]);
        assert!(elements.is_empty());
    }
}
