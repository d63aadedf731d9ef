//! The two keys, as templates: the same seed of a TPM and the same template give the same key.

use casemate_evidence::tpm::{Curve, HashAlg, KeyScheme, ObjectAttributes, Public, PublicParams, Symmetric};

/// The attestation key: restricted (signs only what the TPM made), ECC P-256, ECDSA with SHA-256.
pub fn ak_template() -> Public {
    Public {
        name_alg: HashAlg::Sha256,
        attributes: ObjectAttributes::ATTESTATION_KEY,
        auth_policy: Vec::new(),
        params: PublicParams::Ecc {
            symmetric: Symmetric::Null,
            scheme: KeyScheme::Ecdsa(HashAlg::Sha256),
            curve: Curve::P256,
            x: Vec::new(),
            y: Vec::new(),
        },
    }
}

/// The endorsement key: template L-1, RSA-2048 ("TCG EK Credential Profile for TPM Family 2.0", annex B.3.3).
pub fn ek_template() -> Public {
    let attributes = ObjectAttributes::FIXED_TPM
        | ObjectAttributes::FIXED_PARENT
        | ObjectAttributes::SENSITIVE_DATA_ORIGIN
        | ObjectAttributes::ADMIN_WITH_POLICY
        | ObjectAttributes::RESTRICTED
        | ObjectAttributes::DECRYPT;
    Public {
        name_alg: HashAlg::Sha256,
        attributes: ObjectAttributes(attributes),
        auth_policy: EK_POLICY.to_vec(),
        params: PublicParams::Rsa {
            symmetric: Symmetric::AesCfb { bits: 128 },
            scheme: KeyScheme::Null,
            bits: 2048,
            exponent: 0,
            n: vec![0; 256],
        },
    }
}

/// PolicyA: TPM2_PolicySecret(TPM_RH_ENDORSEMENT) (same profile, annex B.2).
const EK_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06,
    0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
