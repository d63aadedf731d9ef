//! The measured kernel command line.

use casemate_api::workload::parse_hex32;

use crate::dm::Verity;

/// What is wrong with the command line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CommandLineError {
    #[error("{KEY} is missing")]
    Missing,
    #[error("{KEY} stands there twice")]
    Twice,
    #[error("{KEY} is not <root hash>:<salt>:<data blocks>:<hash start block>")]
    Malformed,
}

/// The root device: `casemate.root=<root hash>:<salt>:<data blocks>:<hash start block>`.
pub(crate) fn root(command_line: &str) -> Result<Verity, CommandLineError> {
    let mut values = command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix(KEY)?.strip_prefix('='));
    let value = values.next().ok_or(CommandLineError::Missing)?;
    if values.next().is_some() {
        return Err(CommandLineError::Twice);
    }
    parse(value).ok_or(CommandLineError::Malformed)
}

fn parse(value: &str) -> Option<Verity> {
    let mut parts = value.split(':');
    let verity = Verity {
        root_hash: parse_hex32(parts.next()?)?,
        salt: parse_hex32(parts.next()?)?,
        data_blocks: parts.next()?.parse().ok().filter(|blocks| (1..=MAX_BLOCKS).contains(blocks))?,
        hash_start_block: parts.next()?.parse().ok().filter(|block| *block <= MAX_BLOCKS)?,
    };
    parts.next().is_none().then_some(verity)
}

const KEY: &str = "casemate.root";
const MAX_BLOCKS: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_root_device() {
        let (hash, salt) = ("ab".repeat(32), "01".repeat(32));
        let line = format!("console=ttyS0 casemate.root={hash}:{salt}:100:101 quiet\n");
        let expected = Verity { root_hash: [0xab; 32], salt: [1; 32], data_blocks: 100, hash_start_block: 101 };
        assert_eq!(root(&line), Ok(expected));
    }

    #[test]
    fn refuses_a_missing_doubled_or_malformed_root() {
        let good = format!("casemate.root={}:{}:1:2", "ab".repeat(32), "01".repeat(32));
        assert_eq!(root("quiet casemate.rootx=1"), Err(CommandLineError::Missing));
        assert_eq!(root(&format!("{good} {good}")), Err(CommandLineError::Twice));
        for bad in [
            good.replace("ab", "AB"),
            good.replace(":1:2", ":0:2"),
            good.replace(":1:2", ":1"),
            good.replace(":1:2", ":1:2:3"),
            good.replace(":1:2", ":1:-2"),
            good.replace(":1:2", ":99999999999999999999:2"),
            "casemate.root=".into(),
        ] {
            assert_eq!(root(&bad), Err(CommandLineError::Malformed), "{bad}");
        }
    }
}
