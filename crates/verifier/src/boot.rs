//! How a machine came up: secure boot, firmware, boot loader, kernel and command line, from the firmware's event log.
//!
//! ```text
//! log ── replays to the quoted PCRs ──> node.event-log
//!     ── per PCR: firmware ──EV_SEPARATOR──> after it ── claims ── policy ──> node.boot-policy
//! ```
//!
//! A quote proves digests and their order in each PCR, nothing else. So types are believed only as far as a state machine per
//! PCR allows (`phases`), data only as far as it hashes to its digest ([`Coverage`](casemate_evidence::eventlog::Coverage)),
//! and what was extended after the hand-over cannot be the firmware's, whatever its type says. Claims that no digest covers are
//! in fields named `label`.

mod claims;
mod hex_digest;
mod mok;
mod phases;
mod policy;

use casemate_evidence::{
    eventlog::{EventLogError, LogRef},
    tpm::{Digest, HashAlg},
};

pub use self::{
    claims::{Authority, BootClaims, CommandLine, Image, Measured, SecureVariable},
    hex_digest::HexDigest,
    mok::MokRule,
    policy::{BootPolicy, BootPolicyError, CommandLineRule, DigestRule, LateRule, SecureBootRule, UnknownRule},
};
use crate::{
    checks::{Appraised, CheckName, Finding, Ledger, Stop},
    ima::IMA_PCR,
    log::LogError,
    quote::QuotedBanks,
};

/// The checks of [`appraise_boot`], in order.
pub const BOOT_CHECKS: &[CheckName] = &[CheckName::NodeEventLog, CheckName::NodeBootPolicy];

/// A boot that the policy accepts.
#[derive(Debug)]
pub struct VerifiedBoot {
    bank: HashAlg,
    secure_boot: bool,
    images: Vec<Digest>,
}

impl VerifiedBoot {
    /// The bank that was read.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// Whether secure boot was on.
    pub fn secure_boot(&self) -> bool {
        self.secure_boot
    }

    /// Authenticode digests of what was started, in order.
    pub fn images(&self) -> &[Digest] {
        &self.images
    }
}

/// Appraises the boot that `log` tells of, in the strongest of the quoted banks.
pub fn appraise_boot(log: &[u8], quoted: &QuotedBanks, policy: &BootPolicy) -> Appraised<VerifiedBoot, BootClaims> {
    let mut ledger = Ledger::new(BOOT_CHECKS);
    let mut claims = None;
    let found = run(&mut ledger, log, quoted, policy, &mut claims);
    Appraised::close(ledger, claims, found)
}

fn run(
    ledger: &mut Ledger,
    log: &[u8],
    quoted: &QuotedBanks,
    policy: &BootPolicy,
    claims: &mut Option<BootClaims>,
) -> Result<VerifiedBoot, Stop> {
    let (log, bank) = ledger.enter(CheckName::NodeEventLog, replayed(log, quoted))?;
    let (boot, images) = claims::read(&log, bank, quoted, policy);
    let judged = policy.judge(&boot, &log, bank, quoted);
    let (detail, secure_boot) = (summary(&boot), boot.secure_boot);
    *claims = Some(boot);
    ledger.enter(CheckName::NodeBootPolicy, judged.map(|()| Finding::new((), detail)))?;
    Ok(VerifiedBoot { bank, secure_boot, images })
}

/// Judges a log that was found to replay to SHA-256 values: the claims, and what to say of them or why they are refused.
pub(crate) fn judge_replayed(
    log: &[u8],
    quoted: &QuotedBanks,
    policy: &BootPolicy,
) -> Result<(BootClaims, Result<String, BootPolicyError>), EventLogError> {
    let log = LogRef::parse(log)?;
    let (boot, _) = claims::read(&log, HashAlg::Sha256, quoted, policy);
    let judged = policy.judge(&boot, &log, HashAlg::Sha256, quoted).map(|()| summary(&boot));
    Ok((boot, judged))
}

fn summary(boot: &BootClaims) -> String {
    format!("secure boot {}, {} images", if boot.secure_boot { "on" } else { "off" }, boot.images.len())
}

#[derive(Debug, thiserror::Error)]
enum ReplayError {
    #[error(transparent)]
    Log(LogError),
    #[error("the quote covers no bank stronger than SHA-1")]
    Bank,
    #[error("the log has no digests of the quoted bank {0:?}")]
    NoDigests(HashAlg),
    #[error("read the event log")]
    Format(#[source] EventLogError),
}

/// The log, if it leads to the quoted values of every bank. A PCR that it does not extend must be zero, but for the kernel's own:
/// what is in that is [`appraise_ima`](crate::ima::appraise_ima)'s to say.
fn replayed<'a>(log: &'a [u8], quoted: &QuotedBanks) -> Result<Finding<(LogRef<'a>, HashAlg)>, ReplayError> {
    let (strongest, _) = quoted.strongest().ok_or(ReplayError::Bank)?;
    let log = LogRef::parse(log).map_err(ReplayError::Format)?;
    for (bank, values) in quoted.banks() {
        if !log.has_bank(*bank) {
            return Err(ReplayError::NoDigests(*bank));
        }
        let replay = log.replay(*bank);
        for (pcr, value) in values.iter().filter(|(pcr, _)| **pcr != IMA_PCR) {
            let seen = replay.get(pcr).copied().unwrap_or(Digest::zero(*bank));
            if seen != *value {
                let (replayed, quoted) = (seen.to_string(), value.to_string());
                return Err(ReplayError::Log(LogError::Replay { pcr: *pcr, replayed, quoted }));
            }
        }
    }
    let detail = format!("{} events replay to the quoted {strongest:?} PCRs", log.events.len());
    Ok(Finding::new((log, strongest), detail))
}
