//! Which release of which distribution this is.

use std::{fmt, fs};

use anyhow::{Context as _, Result, bail};

const OS_RELEASE: &str = "/etc/os-release";

/// A release such as `debian-12` or `ubuntu-24.04`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release(String);

impl Release {
    /// Named by a person.
    pub(crate) fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The one that this machine runs.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let text = fs::read_to_string(OS_RELEASE).with_context(|| format!("reading {OS_RELEASE}"))?;
        Self::parse(&text)
    }

    /// Its name, as the lock file spells it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(|value| value.trim_matches('"').to_owned())
        };
        let id = value("ID").context("os-release names no ID")?;
        if !matches!(id.as_str(), "debian" | "ubuntu") {
            bail!("the guest OS is built from packages of Debian or Ubuntu, and this machine runs {id}");
        }
        let version = value("VERSION_ID").or_else(|| value("VERSION_CODENAME")).context("os-release names no VERSION_ID")?;
        Ok(Self(format!("{id}-{version}")))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Release;

    #[test]
    fn reads_the_release_of_debian_and_ubuntu() {
        let debian = Release::parse("PRETTY_NAME=\"Debian\"\nVERSION_ID=\"12\"\nID=debian\n").unwrap();
        assert_eq!(debian.as_str(), "debian-12");
        let ubuntu = Release::parse("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n").unwrap();
        assert_eq!(ubuntu.as_str(), "ubuntu-24.04");
    }

    #[test]
    fn refuses_other_distributions_by_name() {
        let error = Release::parse("ID=fedora\nVERSION_ID=42\n").unwrap_err();
        assert!(error.to_string().contains("fedora"), "{error}");
    }
}
