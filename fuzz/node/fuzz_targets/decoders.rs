//! One decoder under libFuzzer: the one that the environment variable `DECODER` names.

#![no_main]

use std::sync::LazyLock;

use casemate_api::workload::Workload;
use libfuzzer_sys::fuzz_target;

static DECODER: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("DECODER").unwrap_or_default();
    let image = casemate_image::decoders::DECODERS.map(|decoder| (decoder.name, decoder.run));
    let network = casemate_sandbox::network::decoders::DECODERS.map(|decoder| (decoder.name, decoder.run));
    let own: (_, fn(&[u8])) = ("workload", workload);
    let found = image.into_iter().chain(network).chain([own]).find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("DECODER={wanted:?} is no decoder; each folder of fuzz/node/corpus is named like one")).1
});

/// What a tenant signs and a node runs, with the rules of its network.
fn workload(bytes: &[u8]) {
    let Ok(workload) = Workload::from_canonical(bytes) else { return };
    assert_eq!(workload.to_canonical(), bytes, "it reads what it writes");
    if let Some(network) = &workload.network {
        network.policy().expect("a workload is checked with its network");
    }
}

fuzz_target!(|data: &[u8]| DECODER(data));
