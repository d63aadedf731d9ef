//! Names of things, checked once where they enter.

use std::{fmt, str::FromStr};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id has 1 to 63 characters of a-z, 0-9 and '-', starting with a letter; got {0:?}")]
pub struct IdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The id as text; safe as a file name, DNS label and cgroup name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_label(text) { Ok(Self(text.to_owned())) } else { Err(IdError(text.chars().take(80).collect())) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// An instance: one run of a workload. Unique for ever on its platform, and bound into its evidence.
    InstanceId
);
id!(
    /// A node: one host with its TPM identity.
    NodeId
);

fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_labels_and_refuses_paths() {
        assert!("i-0192".parse::<InstanceId>().is_ok());
        let long = "a".repeat(64);
        for bad in ["", "-a", "9a", "a/b", "..", "A", "a_b", "a\0", long.as_str()] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?}");
        }
    }
}
