//! Who signed the report: key, chain, root, revocation, chip.

use std::ops::Deref;

use casemate_evidence::snp::{AttestationReport, Generation, SIGNED_BYTES, SigningKey, SnpDecodeError, Tcb};
use p384::ecdsa::Signature;

use super::{
    certificate::Holder,
    chain::{ChainError, SignedChain, SignedCrl},
    policy::{GenerationRule, RevocationRule, SignerRule, SnpPolicy},
};
use crate::{
    checks::{Finding, Mismatch},
    signature::{self, Hash},
    time::UnixTime,
    x509::{CrlError, PathError},
};

/// What the vendor says of the chip: a chain, and the root's revocation list.
#[derive(Debug, Clone, Copy)]
pub struct Endorsements<'a>(Source<'a>);

#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    Bytes { chain: &'a [Vec<u8>], crl: Option<&'a [u8]> },
    Kept(&'a SignedChain),
}

impl<'a> Endorsements<'a> {
    /// A chain (DER; signing certificate, ASK or ASVK, ARK) and the ARK's revocation list (DER) whose signatures are still to be
    /// checked.
    pub const fn new(chain: &'a [Vec<u8>], crl: Option<&'a [u8]>) -> Self {
        Self(Source::Bytes { chain, crl })
    }

    /// A chain whose signatures were checked before, and that of its revocation list if it has one.
    pub const fn kept(chain: &'a SignedChain) -> Self {
        Self(Source::Kept(chain))
    }

    pub(super) fn chain(&self) -> Result<Held<'a>, EndorsementError> {
        match self.0 {
            Source::Bytes { chain, .. } => Ok(Held::Own(Box::new(SignedChain::new(chain)?))),
            Source::Kept(chain) => Ok(Held::Kept(chain)),
        }
    }

    /// Whether a revocation list was there, and it was judged.
    pub(super) fn judge_revocation(
        &self,
        trusted: &TrustedChain<'_>,
        policy: &SnpPolicy,
        now: UnixTime,
    ) -> Result<Finding<bool>, RevocationError> {
        let own = match self.0 {
            Source::Bytes { crl: Some(der), .. } => Some(SignedCrl::new(der, trusted.chain.root())?),
            Source::Bytes { crl: None, .. } | Source::Kept(_) => None,
        };
        let Some(crl) = own.as_ref().or(trusted.chain.crl()) else {
            return match policy.revocation {
                RevocationRule::DangerWithout => Ok(Finding::new(false, "no revocation list, as the policy allows")),
                RevocationRule::Fresh { .. } => Err(RevocationError::Absent),
            };
        };
        crl.judge(trusted.chain.intermediate(), now)?;
        let age_s = now.0 - crl.this_update().0;
        match policy.revocation {
            RevocationRule::Fresh { max_age_s } if age_s > max_age_s => Err(RevocationError::Stale { age_s, max_age_s }),
            RevocationRule::Fresh { .. } | RevocationRule::DangerWithout => {
                Ok(Finding::new(true, format!("list of {}", crl.this_update())))
            }
        }
    }
}

/// A chain that is the caller's or was made just now.
pub(super) enum Held<'a> {
    Own(Box<SignedChain>),
    Kept(&'a SignedChain),
}

impl Deref for Held<'_> {
    type Target = SignedChain;

    fn deref(&self) -> &SignedChain {
        match self {
            Self::Own(chain) => chain,
            Self::Kept(chain) => chain,
        }
    }
}

/// A chain to a pinned root, valid now, of a key of the kind that the report names.
pub(super) struct TrustedChain<'a> {
    chain: Held<'a>,
    simulated: bool,
}

impl TrustedChain<'_> {
    pub(super) fn generation(&self) -> Generation {
        self.chain.generation()
    }

    pub(super) fn tcb(&self) -> Tcb {
        self.chain.signer.tcb
    }

    pub(super) fn root_fingerprint(&self) -> &[u8; 32] {
        self.chain.root_fingerprint()
    }

    pub(super) const fn simulated(&self) -> bool {
        self.simulated
    }

    pub(super) fn csp_id(&self) -> Option<&str> {
        match &self.chain.signer.holder {
            Holder::Chip(_) => None,
            Holder::Provider(id) => Some(id),
        }
    }
}

/// Why the signing key is not the expected one, or is not endorsed.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndorsementError {
    #[error("unsupported signer: the report is signed by {seen:?}, the policy wants {wanted:?}")]
    Signer { wanted: SigningKey, seen: SigningKey },
    #[error("the platform masks the chip's key (MASK_CHIP_KEY), but the report names it as the signing key")]
    Masked,
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("the root certificate with fingerprint {fingerprint} is not pinned for {generation}")]
    Root { generation: Generation, fingerprint: String },
    #[error("judge the chain at this time")]
    Time(#[source] PathError),
    #[error("the report names {report:?} as the signing key, the certificate is one of a {certificate:?}")]
    Kind { report: SigningKey, certificate: SigningKey },
    #[error("the signing key is one of the provider \"{seen}\", whom the policy does not name")]
    Provider { seen: String },
}

/// Why revocation information does not clear the chain.
#[derive(Debug, thiserror::Error)]
pub(super) enum RevocationError {
    #[error("there is no revocation list of the root")]
    Absent,
    #[error("the revocation list is {age_s} s old, more than {max_age_s} s")]
    Stale { age_s: u64, max_age_s: u64 },
    #[error(transparent)]
    List(#[from] CrlError),
}

/// Why the generation is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum GenerationError {
    #[error("read the processor in the report")]
    Processor(#[source] SnpDecodeError),
    #[error("the report is of a {report}, the certificate of a {certificate}")]
    Differs { report: Generation, certificate: Generation },
    #[error("the policy does not accept {generation}")]
    Refused { generation: Generation },
}

/// Why the report is not signed by the certificate's key.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignatureError {
    #[error("signature algorithm {seen} is not 1 (ECDSA P-384 with SHA-384)")]
    Algorithm { seen: u32 },
    #[error("the signature is no pair of numbers for P-384")]
    Form,
    #[error("bad signature: the report is not signed by the certificate's key")]
    Wrong,
}

/// Why the chip is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChipError {
    #[error("the report hides its chip (CHIP_ID is zero), so that the certificate's is not proven")]
    Hidden,
    #[error("the chip is not the certificate's")]
    Differs(#[source] Mismatch),
    #[error("the chip {id} is revoked")]
    Revoked { id: String },
}

pub(super) fn judge_signer(report: &AttestationReport, policy: &SnpPolicy) -> Result<Finding<()>, EndorsementError> {
    let wanted = match policy.signer {
        SignerRule::Vcek => SigningKey::Vcek,
        SignerRule::Vlek { .. } => SigningKey::Vlek,
    };
    let seen = report.signing_key;
    if seen != wanted {
        return Err(EndorsementError::Signer { wanted, seen });
    }
    if report.mask_chip_key && seen == SigningKey::Vcek {
        return Err(EndorsementError::Masked);
    }
    Ok(Finding::new((), format!("{seen:?}")))
}

pub(super) fn judge_chain<'a>(
    chain: Held<'a>,
    report: &AttestationReport,
    policy: &SnpPolicy,
    now: UnixTime,
) -> Result<Finding<TrustedChain<'a>>, EndorsementError> {
    let generation = chain.generation();
    let simulated = if chain.root_fingerprint() == amd_root_fingerprint(generation) {
        false
    } else {
        let fingerprint = hex::encode(chain.root_fingerprint());
        let roots = &policy.danger_simulated_roots;
        if !roots.iter().any(|root| root.generation == generation && root.fingerprint == fingerprint) {
            return Err(EndorsementError::Root { generation, fingerprint });
        }
        true
    };
    chain.require_valid_at(now).map_err(EndorsementError::Time)?;
    let certificate = chain.signer.holder.signing_key();
    if report.signing_key != certificate {
        return Err(EndorsementError::Kind { report: report.signing_key, certificate });
    }
    if let (Holder::Provider(seen), SignerRule::Vlek { csp_ids }) = (&chain.signer.holder, &policy.signer)
        && !csp_ids.contains(seen)
    {
        return Err(EndorsementError::Provider { seen: seen.clone() });
    }
    let detail = format!("{certificate:?} of {generation}, {}", if simulated { "simulated root" } else { "AMD's root" });
    Ok(Finding::new(TrustedChain { chain, simulated }, detail))
}

pub(super) fn judge_generation<'a>(
    report: &AttestationReport,
    trusted: &TrustedChain<'_>,
    policy: &'a SnpPolicy,
) -> Result<Finding<&'a GenerationRule>, GenerationError> {
    let certificate = trusted.generation();
    // A report of version 2 does not say; there the certificate decides.
    if let Some(cpuid) = report.version.cpuid() {
        let report = Generation::of(cpuid).map_err(GenerationError::Processor)?;
        if report != certificate {
            return Err(GenerationError::Differs { report, certificate });
        }
    }
    let rule = policy.rule(certificate).ok_or(GenerationError::Refused { generation: certificate })?;
    Ok(Finding::new(rule, certificate.name()))
}

pub(super) fn judge_signature(
    bytes: &[u8],
    report: &AttestationReport,
    trusted: &TrustedChain<'_>,
) -> Result<Finding<()>, SignatureError> {
    if report.signature_algo != ECDSA_P384_SHA384 {
        return Err(SignatureError::Algorithm { seen: report.signature_algo });
    }
    let r = big_endian(&report.signature.r).ok_or(SignatureError::Form)?;
    let s = big_endian(&report.signature.s).ok_or(SignatureError::Form)?;
    let signature = Signature::from_scalars(r, s).map_err(|_| SignatureError::Form)?;
    if !signature::p384(&trusted.chain.signer.key, Hash::Sha384, &bytes[..SIGNED_BYTES], &signature) {
        return Err(SignatureError::Wrong);
    }
    Ok(Finding::new((), "ECDSA P-384 with SHA-384"))
}

/// A number of P-384; what is above its 48 bytes must be zero.
fn big_endian(little: &[u8; 72]) -> Option<[u8; 48]> {
    let (low, high) = little.split_first_chunk::<48>().expect("72 are more than 48");
    let mut number = *low;
    number.reverse();
    high.iter().all(|byte| *byte == 0).then_some(number)
}

/// The chip, unless it is hidden, which only a provider's key allows.
pub(super) fn judge_chip(
    report: &AttestationReport,
    trusted: &TrustedChain<'_>,
    revoked: &[[u8; 64]],
) -> Result<Finding<Option<[u8; 64]>>, ChipError> {
    let chip = (report.chip_id != [0; 64]).then_some(report.chip_id);
    match (&trusted.chain.signer.holder, chip) {
        (Holder::Chip(_), None) => return Err(ChipError::Hidden),
        (Holder::Chip(expected), Some(seen)) if *expected != seen => {
            return Err(ChipError::Differs(Mismatch::new(hex::encode(expected), hex::encode(seen))));
        }
        (Holder::Chip(_), Some(_)) | (Holder::Provider(_), _) => {}
    }
    match chip {
        Some(id) if revoked.contains(&id) => Err(ChipError::Revoked { id: hex::encode(id) }),
        Some(id) => Ok(Finding::new(chip, hex::encode(id))),
        None => Ok(Finding::new(chip, "hidden by the provider")),
    }
}

/// SHA-256 of the DER of the AMD root key certificate (ARK) that is pinned for `generation`.
pub const fn amd_root_fingerprint(generation: Generation) -> &'static [u8; 32] {
    match generation {
        Generation::Milan => &ARK_MILAN,
        Generation::Genoa => &ARK_GENOA,
        Generation::Turin => &ARK_TURIN,
    }
}

const ECDSA_P384_SHA384: u32 = 1;
/// ARK-Milan.
const ARK_MILAN: [u8; 32] = [
    0x69, 0xd0, 0x63, 0xb4, 0x53, 0x44, 0xd2, 0x6a, 0x2e, 0x94, 0xe1, 0xf4, 0x21, 0x0d, 0xe4, 0x9e, 0xf5, 0x55, 0x30, 0x82, 0x87,
    0xd4, 0xc1, 0x74, 0x44, 0x5c, 0x95, 0x63, 0x9a, 0x54, 0x0b, 0xcd,
];
/// ARK-Genoa.
const ARK_GENOA: [u8; 32] = [
    0x4c, 0x65, 0x98, 0xd1, 0x9c, 0x18, 0x71, 0x9c, 0x5d, 0xfd, 0x4a, 0x7d, 0x33, 0x5f, 0x67, 0x4e, 0x5b, 0xfe, 0x1d, 0x8f, 0x80,
    0x0c, 0xea, 0x2c, 0xf2, 0x70, 0xc1, 0x0d, 0x10, 0x3d, 0xb2, 0xf1,
];
/// ARK-Turin.
const ARK_TURIN: [u8; 32] = [
    0x1f, 0x08, 0x41, 0x61, 0xa4, 0x4b, 0xb6, 0xd9, 0x37, 0x78, 0xa9, 0x04, 0x87, 0x7d, 0x48, 0x19, 0xca, 0xfa, 0x5d, 0x05, 0xef,
    0x41, 0x93, 0xb2, 0xde, 0xd9, 0xdd, 0x9c, 0x73, 0xdd, 0x3f, 0x6a,
];
