//! DNS names that rules may name.

use std::{fmt, str::FromStr};

use super::{PolicyError, clipped};

/// A DNS name, or all names below one: `example.org`, `*.example.org`. Lower case, without the last dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    below: bool,
    name: String,
}

impl Name {
    /// Whether a name that somebody asks for is this one, or below it. Given in lower case and without the last dot.
    pub fn covers(&self, asked: &str) -> bool {
        match self.below {
            false => asked == self.name,
            true => asked.strip_suffix(&self.name).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

impl FromStr for Name {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let labels: Vec<&str> = name.split('.').collect();
        let last_is_no_number = labels.last().is_some_and(|label| !label.bytes().all(|byte| byte.is_ascii_digit()));
        if name.len() <= MAX_NAME && labels.len() >= 2 && labels.iter().all(|label| is_label(label)) && last_is_no_number {
            return Ok(Self { below, name: name.to_ascii_lowercase() });
        }
        Err(PolicyError::Name(clipped(text)))
    }
}

/// RFC 1123, section 2.1, and the underscore that services use. Other scripts are written as `xn--...`.
fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
}

/// RFC 1035, section 2.3.4, as text.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_covers_itself_and_a_star_what_is_below() {
        assert!(name("Example.org").covers("example.org"));
        assert!(!name("example.org").covers("a.example.org"));
        assert!(name("*.example.org").covers("a.example.org"));
        assert!(name("*.example.org").covers("b.a.example.org"));
        for other in ["example.org", ".example.org", "badexample.org", "example.org.evil.net", "aexample.org"] {
            assert!(!name("*.example.org").covers(other), "{other}");
        }
    }

    #[test]
    fn refuses_what_is_no_name() {
        let long = format!("{}.org", "a".repeat(64));
        let longer = format!("{}org", "abc.".repeat(63));
        let hostile = [
            "",
            ".",
            "*",
            "*.",
            "org",
            "*.org",
            "a..b",
            ".a.b",
            "a.b.",
            "a b.c",
            "a.b;c",
            "a.b}\n",
            "*.*.a.b",
            "a.*.b",
            "-a.b",
            "a-.b",
            "bücher.example",
            "1.2.3.4",
            "a.1",
            "a/b.c",
            &long,
            &longer,
        ];
        for text in hostile {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
    }
}
