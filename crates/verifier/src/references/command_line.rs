//! Command lines of which one part may vary.

use super::{ReferenceError, TSC_KHZ};

/// A command line with at most one variable part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandLine {
    Fixed(String),
    WithTscKhz { before: String, after: String },
}

impl CommandLine {
    fn parse(template: &str) -> Result<Self, &'static str> {
        let parsed = match template.split_once(TSC_KHZ) {
            None => Self::Fixed(template.to_owned()),
            Some((before, after)) => Self::WithTscKhz { before: before.to_owned(), after: after.to_owned() },
        };
        let fixed = match &parsed {
            Self::Fixed(text) => text.clone(),
            Self::WithTscKhz { before, after } => format!("{before}{after}"),
        };
        if fixed.contains(['{', '}']) {
            return Err("only one {tsc_khz} is allowed, and no other braces");
        }
        if fixed.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return Err("it has characters other than printable ASCII");
        }
        Ok(parsed)
    }

    pub(crate) fn of_guest_os(guest_os: &str, template: String) -> Result<Self, ReferenceError> {
        let guest_os = guest_os.to_owned();
        Self::parse(&template).map_err(|problem| ReferenceError::Template { guest_os, template, problem })
    }

    /// As it stands in a file.
    pub(crate) fn template(&self) -> String {
        match self {
            Self::Fixed(text) => text.clone(),
            Self::WithTscKhz { before, after } => format!("{before}{TSC_KHZ}{after}"),
        }
    }

    pub(crate) fn matches(&self, line: &str) -> bool {
        match self {
            Self::Fixed(text) => text == line,
            Self::WithTscKhz { before, after } => {
                let middle = line.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
                middle.is_some_and(|digits| (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_frequency_of_a_template_may_vary() {
        let template = CommandLine::parse("quiet tsc_early_khz={tsc_khz} panic=-1").unwrap();
        for line in ["quiet tsc_early_khz=1 panic=-1", "quiet tsc_early_khz=1234567890 panic=-1"] {
            assert!(template.matches(line), "{line}");
        }
        for line in [
            "quiet tsc_early_khz= panic=-1",
            "quiet tsc_early_khz=12345678901 panic=-1",
            "quiet tsc_early_khz=1 init=/x panic=-1",
            "quiet tsc_early_khz=+1 panic=-1",
            "quiet tsc_early_khz=1 panic=-1 ",
            " quiet tsc_early_khz=1 panic=-1",
            "quiet tsc_early_khz={tsc_khz} panic=-1",
            "quiet tsc_early_khz=\u{661} panic=-1",
            "quiet tsc_early_khz=1panic=-1",
            "",
        ] {
            assert!(!template.matches(line), "{line}");
        }
        let fixed = CommandLine::parse("quiet").unwrap();
        assert!(fixed.matches("quiet") && !fixed.matches("quiet ") && !fixed.matches("quie"));
    }

    #[test]
    fn refuses_templates_that_could_match_more() {
        for template in ["{tsc_khz} {tsc_khz}", "a={other}", "a={tsc_khz", "a\nb", "\u{e9}"] {
            assert!(CommandLine::parse(template).is_err(), "{template}");
        }
    }
}
