//! How long the appraisal of an SNP report takes, on one core, beside the cryptography that it cannot do without:
//! `cargo bench -p casemate-verifier --bench snp`.

// The tests' world of good reports; its certificates have RSA keys of 2048 bits where AMD's have 4096.
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../tests/it/snp_world.rs"]
mod snp_world;

mod raw;

use std::hint::black_box;

use casemate_evidence::snp::SIGNED_BYTES;
use casemate_verifier::snp::{
    Endorsements, Generation,
    launch::{CpuSignature, KernelDigests, LaunchInputs, launch_measurement},
};
use p384::ecdsa::SigningKey;
use raw::{Signed, alone, compare};
use sha2::{Digest as _, Sha384};

const ROUNDS: usize = 500;

fn main() {
    let case = snp_world::Case::new(Generation::Genoa);
    let (report, kept, chain, crl) = (case.signed(), case.kept(), case.chain(), case.crl_bytes());

    let key = *SigningKey::from_slice(&case.leaf.key).expect("a key on the curve").verifying_key();
    let big = |at: usize| std::array::from_fn::<u8, 48, _>(|byte| report[at + 47 - byte]);
    let signature = [big(SIGNED_BYTES), big(SIGNED_BYTES + 72)].concat();
    let signed = Signed::p384(key.to_sec1_point(false).as_bytes(), &report[..SIGNED_BYTES], &signature);
    let whole = || assert!(case.appraise_bytes(black_box(&report), &Endorsements::kept(&kept)).verified().is_some());
    compare("SNP report with kept chain", ROUNDS, || signed.verify(), whole);
    alone("SNP report with a new chain and revocation list", ROUNDS, || {
        let endorsements = Endorsements::new(&chain, crl.as_deref());
        assert!(case.appraise_bytes(black_box(&report), &endorsements).verified().is_some());
    });

    let firmware = firmware();
    let kernel = Some(KernelDigests { kernel: [1; 32], initrd: [2; 32], command_line: [3; 32] });
    let inputs = LaunchInputs { firmware: &firmware, kernel, vcpus: 8, cpu: CpuSignature::EPYC_GENOA, guest_features: 1 };
    let raw = || assert!(firmware.chunks(4096).all(|page| Sha384::digest(black_box(page)).len() == 48));
    let what = format!("launch measurement of {} bytes, beside hashing its pages", firmware.len());
    compare(&what, ROUNDS / 5, raw, || assert!(launch_measurement(black_box(&inputs)).is_ok()));
}

/// Two MiB with OVMF's table and metadata at their end.
fn firmware() -> Vec<u8> {
    let mut bytes = vec![0x5a; 2 << 20];
    let end = bytes.len();
    let entry = |content: &[u8], guid: [u8; 16]| [content, &(content.len() as u16 + 18).to_le_bytes(), &guid].concat();
    let table = [
        entry(&0x81_0000_u32.to_le_bytes(), HASHES),
        entry(&0x80_b004_u32.to_le_bytes(), RESET),
        entry(&2048_u32.to_le_bytes(), METADATA),
    ]
    .concat();
    let table = [table.as_slice(), &(table.len() as u16 + 18).to_le_bytes(), &TABLE].concat();
    bytes[end - 32 - table.len()..end - 32].copy_from_slice(&table);
    let metadata = [u32::from_le_bytes(*b"ASEV"), 28, 1, 1, 0x81_0000, 0x1000, 0x10];
    for (at, word) in metadata.iter().enumerate() {
        bytes[end - 2048 + 4 * at..][..4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

const HASHES: [u8; 16] = 0x1f37_5572_3b3a_044b_927b_1da6_efa8_d454_u128.to_be_bytes();
const RESET: [u8; 16] = 0xde71_f700_7e1a_cb4f_890e_68c7_7e2f_b44e_u128.to_be_bytes();
const METADATA: [u8; 16] = 0x6665_88dc_4a98_9847_a75e_5585_a7bf_67cc_u128.to_be_bytes();
const TABLE: [u8; 16] = 0xde82_b596_b21f_f745_baea_a366_c55a_082d_u128.to_be_bytes();
