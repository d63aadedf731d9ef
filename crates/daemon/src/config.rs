//! One TOML file per service.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// Largest configuration file, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read configuration {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is longer than [`MAX_BYTES`].
    #[error("configuration {} is longer than {MAX_BYTES} bytes", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
    },
    /// The file is not TOML of this service.
    #[error("parse configuration {}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
}

/// Reads and parses the file at `path`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(read)?.len() > MAX_BYTES {
        return Err(ConfigError::TooLong { path: path.to_owned() });
    }
    let text = fs::read_to_string(path).map_err(read)?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[allow(dead_code)]
        port: u16,
    }

    #[test]
    fn names_the_file_and_the_fault() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.toml");
        assert!(matches!(load::<Sample>(&path), Err(ConfigError::Read { .. })));
        fs::write(&path, "port = 1\nprot = 2\n").unwrap();
        let error = load::<Sample>(&path).unwrap_err();
        assert!(matches!(&error, ConfigError::Parse { source, .. } if source.to_string().contains("prot")), "{error:?}");
        fs::write(&path, "port = 1\n").unwrap();
        assert_eq!(load::<Sample>(&path).unwrap().port, 1);
    }
}
