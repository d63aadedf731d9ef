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

/// Opens the key in the folder that all replicas share, or makes it.
pub(super) fn open(shared_dir: &Path, developer: &str) -> Result<VerifierKey, SignerError> {
    let keys = shared_dir.join("keys");
    files::private_dir(&keys)?;
    let path = keys.join(FILE);
    let build = concat!("casemate-server ", env!("CARGO_PKG_VERSION"));
    for _ in 0..ATTEMPTS {
        let mut secret = [0; 32];
        if files::read(&path)?.is_none() {
            getrandom::fill(&mut secret).map_err(SignerError::Randomness)?;
            match VerifierKey::new(&secret, developer, build) {
                Err(EarError::Key) => continue,
                made => drop(made?),
            }
        }
        let text = files::keep(&path, hex::encode(secret).as_bytes())?;
        hex::decode_to_slice(text.trim_ascii(), &mut secret).map_err(|_| SignerError::Damaged)?;
        return Ok(VerifierKey::new(&secret, developer, build)?);
    }
    Err(SignerError::Key(EarError::Key))
}
