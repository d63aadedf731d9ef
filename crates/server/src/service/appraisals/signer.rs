//! The key that signs tokens: made once, kept in the data folder, readable by this user only.

use std::path::Path;

use casemate_verifier::ear::{EarError, VerifierKey};

use crate::files::{self, FileError};

/// Name of the key's file.
const FILE: &str = "appraisals.key";
/// Attempts to draw a scalar; one in 2^32 fails.
const ATTEMPTS: usize = 4;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// A file of the data folder failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is stored is not what was written.
    #[error("the appraisal key in the data folder is damaged")]
    Damaged,
    /// The key or who it is for is not usable.
    #[error("use the appraisal key")]
    Key(#[from] EarError),
    /// The system has no randomness.
    #[error("draw randomness")]
    Randomness(#[source] getrandom::Error),
}

/// Opens the key in `data_dir`, or makes it.
pub(super) fn open(data_dir: &Path, developer: &str) -> Result<VerifierKey, SignerError> {
    let keys = data_dir.join("keys");
    files::private_dir(&keys)?;
    let path = keys.join(FILE);
    let build = concat!("casemate-server ", env!("CARGO_PKG_VERSION"));
    if let Some(text) = files::read(&path)? {
        let mut secret = [0; 32];
        hex::decode_to_slice(text.trim_ascii(), &mut secret).map_err(|_| SignerError::Damaged)?;
        return Ok(VerifierKey::new(&secret, developer, build)?);
    }
    for _ in 0..ATTEMPTS {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(SignerError::Randomness)?;
        match VerifierKey::new(&secret, developer, build) {
            Err(EarError::Key) => {}
            made => {
                files::write(&path, hex::encode(secret).as_bytes(), 0o600)?;
                return Ok(made?);
            }
        }
    }
    Err(SignerError::Key(EarError::Key))
}
