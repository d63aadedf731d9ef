//! Evidence of real machines. It is not in the repository: `CASEMATE_VECTORS` names its folder, whose README says what is in it.
//!
//! Tests that need it are ignored, so that a run without it says so; what is run without it fails.

use std::{env, fs, path::PathBuf};

/// A file of that folder.
pub(crate) fn read(name: &str) -> Vec<u8> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let path = env::var_os("CASEMATE_VECTORS").map_or_else(|| PathBuf::from(default), PathBuf::from).join(name);
    fs::read(&path).unwrap_or_else(|error| {
        panic!("read {}, evidence of real machines: {error}; hint: set CASEMATE_VECTORS to its folder", path.display())
    })
}
