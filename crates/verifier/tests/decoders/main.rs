//! The corpus of the fuzz targets (`fuzz/corpus`) and thousands of changes to each of its files through the same decoders: none may
//! panic, or take more memory than what went in can explain. Fuzzing itself is in `docs/fuzzing.md`.

// Clippy knows tests by their attribute; these are helpers of tests.
#![allow(clippy::unwrap_used)]

mod counting;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use casemate_verifier::decoders::{DECODERS, Decoder};

use crate::counting::peak_during;

/// Changed copies of each file.
const CHANGES: usize = 2000;
/// What these do with an input costs much more than its bytes: signatures, policies.
const SLOW: [&str; 4] = ["policy", "policy_history", "request", "ocsp"];
const SLOW_CHANGES: usize = 100;
/// Bytes of memory for each byte of input. JSON and CBOR become trees of values, tens of bytes for a byte or two.
const FACTOR: usize = 64;
/// Bytes of memory for any input, also the shortest.
const CONSTANT: usize = 32 << 10;
/// Compiled policies and what judges a request are larger.
const SLOW_CONSTANT: usize = 1 << 20;

#[test]
fn each_decoder_has_a_corpus_and_each_corpus_a_decoder() {
    let decoders: BTreeSet<String> = DECODERS.iter().map(|decoder| decoder.name.to_owned()).collect();
    let folders = fs::read_dir(corpus()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(folders.collect::<BTreeSet<_>>(), decoders);
    for decoder in DECODERS {
        assert!(!files(decoder).is_empty(), "{}", decoder.name);
    }
}

/// One test: the memory of the whole process is counted.
#[test]
fn no_decoder_panics_or_takes_memory_without_need() {
    // What is made once at the first use is not of the input.
    for decoder in DECODERS {
        (decoder.run)(&fs::read(&files(decoder)[0]).unwrap());
    }
    for decoder in DECODERS {
        let changes = if SLOW.contains(&decoder.name) { SLOW_CHANGES } else { CHANGES };
        for file in files(decoder) {
            let seed = fs::read(&file).unwrap();
            require_modest(decoder, &file, &seed);
            let mut random = Random(fnv(decoder.name.as_bytes()) ^ fnv(&seed));
            for _ in 0..changes {
                require_modest(decoder, &file, &changed(&seed, &mut random));
            }
        }
    }
}

/// The count is none that is always zero.
#[test]
fn memory_is_counted() {
    assert!(peak_during(|| drop(std::hint::black_box(vec![1u8; 3 << 20]))) >= 3 << 20);
}

fn require_modest(decoder: &Decoder, file: &Path, input: &[u8]) {
    let peak = peak_during(|| (decoder.run)(input));
    let constant = if SLOW.contains(&decoder.name) { SLOW_CONSTANT } else { CONSTANT };
    let limit = FACTOR * input.len() + constant;
    assert!(peak <= limit, "{} takes {peak} bytes for {} like {}: {}", decoder.name, input.len(), file.display(), shown(input));
}

/// One to four changes of the kinds that fuzzers make.
fn changed(seed: &[u8], random: &mut Random) -> Vec<u8> {
    const ODD: [&[u8]; 8] =
        [&[0], &[0xff], &[0x80], &[0x7f, 0xff], &[0xff; 4], &[0xff; 8], &[0, 0, 0, 0x80], &[0x7f, 0xff, 0xff, 0xff]];
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next().to_le_bytes()[0],
            2 => bytes.truncate(at),
            3 => {
                let odd = ODD[random.below(ODD.len())];
                let end = bytes.len().min(at + odd.len());
                bytes.splice(at..end, odd.iter().copied());
            }
            4 => {
                let end = at + random.below(bytes.len() - at).min(64);
                let part = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, part);
            }
            5 => {
                let end = at + random.below(bytes.len() - at).min(16);
                bytes.drain(at..end);
            }
            _ => bytes.insert(at, random.next().to_le_bytes()[0]),
        }
    }
    bytes
}

/// SplitMix64: the same changes each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `limit`, or zero.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).unwrap();
        usize::try_from(self.next() % limit).unwrap()
    }
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn corpus() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus"))
}

fn files(decoder: &Decoder) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus().join(decoder.name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn shown(input: &[u8]) -> String {
    let start = &input[..input.len().min(64)];
    start.iter().map(|byte| format!("{byte:02x}")).collect()
}
