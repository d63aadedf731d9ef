//! One decoder under libFuzzer: the one that the environment variable `DECODER` names.

#![no_main]

use std::sync::LazyLock;

use casemate_verifier::decoders::{Decoder, decoder};
use libfuzzer_sys::fuzz_target;

static DECODER: LazyLock<&Decoder> = LazyLock::new(|| {
    let name = std::env::var("DECODER").unwrap_or_default();
    decoder(&name).unwrap_or_else(|| panic!("DECODER={name:?} is no decoder; each folder of fuzz/corpus is named like one"))
});

fuzz_target!(|data: &[u8]| (DECODER.run)(data));
