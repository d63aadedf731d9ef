//! The launch record and the guest: judged once the node's quote covers them.

use std::collections::BTreeMap;

use casemate_evidence::{
    eventlog::extend_sha256,
    instance::{GuestKeys, InstanceEvidence, Jail, LaunchRecord, guest_binding, guest_pcr},
};
use sha2::{Digest as _, Sha256};

use crate::{
    checks::{CheckName, Finding, Ledger, Mismatch, Stop},
    instance::{Expectation, Notes},
    log::NodeSoftware,
    node::{attestation_key, authentic_quote},
    quote::{AttestationKey, AuthenticQuote, KeyError, PcrError},
    references::{GuestOs, ReferenceValues},
    result::{VerifiedGuest, microvm::monitor_warning},
};

/// A launch record, guest keys and guest quote that the node's TPM vouches for.
pub(crate) struct BoundLaunch {
    evidence: InstanceEvidence,
    launch: LaunchRecord,
    keys: GuestKeys,
    software: NodeSoftware,
}

/// A launch whose every input is known and held.
pub(crate) struct KnownLaunch(BoundLaunch);

/// Why a launch is not accepted.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("the {what} {digest} is not among the reference values{with}")]
    Unknown { what: &'static str, digest: String, with: &'static str },
    #[error("the command line is none of the reference values with this kernel and initrd: \"{0}\"")]
    CommandLine(String),
    #[error("the root hash is not that of the reference values with this kernel, initrd and command line")]
    RootHash(#[source] Mismatch),
    #[error("the command line has {0} parameters casemate.root, exactly one is expected")]
    RootParameters(usize),
    #[error("the root hash is not the one on the command line")]
    RootParameter(#[source] Mismatch),
    #[error("the VMM of the launch is not the one that was measured at the node's start")]
    OtherVmm(#[source] Mismatch),
    #[error("the VMM {0}")]
    Jail(String),
}

/// Why a guest is not accepted.
#[derive(Debug, thiserror::Error)]
enum GuestError {
    #[error(transparent)]
    Key(KeyError),
    #[error("the attestation key is not the one that the launch record endorses")]
    OtherKey,
    #[error(transparent)]
    Pcrs(PcrError),
    #[error("PCR {pcr} ({what}) is not what follows from the launch record and the workload")]
    Pcr {
        pcr: u32,
        what: &'static str,
        #[source]
        source: Mismatch,
    },
    #[error("the guest's quote does not bind this nonce, these guest keys, this workload and instance")]
    Binding(#[source] Mismatch),
}

impl BoundLaunch {
    pub(crate) fn new(evidence: InstanceEvidence, launch: LaunchRecord, keys: GuestKeys, software: NodeSoftware) -> Self {
        Self { evidence, launch, keys, software }
    }

    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.evidence.launch_record).into()
    }

    /// From `instance.id` to `vmm.jail`.
    pub(crate) fn judge(
        self,
        ledger: &mut Ledger,
        notes: &mut Notes,
        expectation: &Expectation<'_>,
        references: &ReferenceValues,
    ) -> Result<KnownLaunch, Stop> {
        ledger.enter(CheckName::InstanceId, self.of_instance(expectation.instance))?;
        ledger.enter(CheckName::WorkloadDigest, self.of_workload(&expectation.workload_digest))?;
        let candidates = ledger.enter(CheckName::GuestKernel, self.kernel(references.guest_os()))?;
        let candidates = ledger.enter(CheckName::GuestInitrd, self.initrd(&candidates))?;
        let candidates = ledger.enter(CheckName::GuestCommandLine, self.command_line(&candidates))?;
        notes.guest_os = Some(ledger.enter(CheckName::GuestRootHash, self.root_hash(&candidates))?);
        ledger.enter(CheckName::VmmDigest, self.vmm(references))?;
        ledger.enter(CheckName::VmmJail, jail(&self.launch.jail))?;
        if self.launch.vmm.name == FAKE_VMM {
            notes.simulated.push("the VMM is a fake that runs no machine".to_owned());
            notes.guest_simulated = true;
        }
        if self.launch.machine.accel == "tcg" {
            notes
                .warnings
                .push("the VMM emulates the processor (tcg): the guest is not held by hardware virtualisation".to_owned());
        }
        notes.warnings.extend(monitor_warning(self.launch.monitor.as_ref()));
        Ok(KnownLaunch(self))
    }

    fn of_instance(&self, expected: &str) -> Result<Finding<()>, Mismatch> {
        if self.launch.instance == expected {
            Ok(Finding::new((), format!("instance {expected}")))
        } else {
            Err(Mismatch::new(expected, self.launch.instance.escape_debug()))
        }
    }

    fn of_workload(&self, expected: &[u8; 32]) -> Result<Finding<()>, Mismatch> {
        Mismatch::unless_equal(expected, &self.launch.workload_digest)?;
        Ok(Finding::new((), format!("workload {}", hex::encode(expected))))
    }

    fn kernel<'a>(&self, all: &'a [GuestOs]) -> Result<Finding<Vec<&'a GuestOs>>, LaunchError> {
        let known: Vec<_> = all.iter().filter(|os| os.kernel == self.launch.kernel).collect();
        found("kernel", &self.launch.kernel, "", known)
    }

    fn initrd<'a>(&self, candidates: &[&'a GuestOs]) -> Result<Finding<Vec<&'a GuestOs>>, LaunchError> {
        let known: Vec<_> = candidates.iter().copied().filter(|os| os.initrd == self.launch.initrd).collect();
        found("initrd", &self.launch.initrd, " with this kernel", known)
    }

    fn command_line<'a>(&self, candidates: &[&'a GuestOs]) -> Result<Finding<Vec<&'a GuestOs>>, LaunchError> {
        let line = &self.launch.command_line;
        let matches = |os: &&GuestOs| os.command_lines.iter().any(|template| template.matches(line));
        let known: Vec<_> = candidates.iter().copied().filter(matches).collect();
        if known.is_empty() {
            return Err(LaunchError::CommandLine(line.escape_debug().take(MAX_SHOWN).collect()));
        }
        Ok(Finding::new(known, "as in the reference values, but for the frequency of the time stamp counter"))
    }

    /// The name of the guest OS.
    fn root_hash(&self, candidates: &[&GuestOs]) -> Result<Finding<String>, LaunchError> {
        let seen = &self.launch.root_hash;
        let Some(os) = candidates.iter().find(|os| &os.root_hash == seen) else {
            let expected: Vec<_> = candidates.iter().map(|os| hex::encode(os.root_hash)).collect();
            return Err(LaunchError::RootHash(Mismatch::new(expected.join(" or "), hex::encode(seen))));
        };
        let values: Vec<_> = self.launch.command_line.split(' ').filter_map(|part| part.strip_prefix(ROOT_PARAMETER)).collect();
        let [value] = values.as_slice() else {
            return Err(LaunchError::RootParameters(values.len()));
        };
        let on_line = value.split(':').next().unwrap_or_default();
        if on_line != hex::encode(seen) {
            return Err(LaunchError::RootParameter(Mismatch::new(on_line.escape_debug(), hex::encode(seen))));
        }
        Ok(Finding::new(os.name.clone(), format!("{} of guest OS \"{}\"", hex::encode(seen), os.name)))
    }

    fn vmm(&self, references: &ReferenceValues) -> Result<Finding<()>, LaunchError> {
        let vmm = &self.launch.vmm;
        if !references.knows_vmm(&vmm.digest) {
            return Err(LaunchError::Unknown { what: "VMM", digest: hex::encode(vmm.digest), with: "" });
        }
        Mismatch::unless_equal(&self.software.vmm(), &vmm.digest).map_err(LaunchError::OtherVmm)?;
        let detail = format!("{} {}, {}", vmm.name.escape_debug(), vmm.version.escape_debug(), hex::encode(vmm.digest));
        Ok(Finding::new((), detail))
    }
}

impl KnownLaunch {
    /// From `guest.ak` to `guest.binding`.
    pub(crate) fn guest(self, ledger: &mut Ledger) -> Result<VerifiedGuest, Stop> {
        let BoundLaunch { evidence, launch, keys, .. } = &self.0;
        let key = ledger.enter(CheckName::GuestAk, endorsed_key(&evidence.guest.ak_public, launch))?;
        let quote = authentic_quote(&key, &evidence.guest.attest, &evidence.guest.signature);
        let quote = ledger.enter(CheckName::GuestQuote, quote)?;
        ledger.enter(CheckName::GuestPcrs, self.0.pcrs(&quote))?;
        ledger.enter(CheckName::GuestBinding, self.0.binding(&quote))?;
        Ok(VerifiedGuest {
            hpke: keys.hpke,
            tls: keys.tls,
            instance: launch.instance.clone(),
            workload_digest: launch.workload_digest,
            nonce: evidence.nonce,
            launch_record_digest: self.0.digest(),
        })
    }
}

impl BoundLaunch {
    fn pcrs(&self, quote: &AuthenticQuote) -> Result<Finding<()>, GuestError> {
        let quoted = quote.pcrs(&guest_pcr::QUOTED, &self.evidence.guest.pcrs).map_err(GuestError::Pcrs)?;
        for (pcr, (what, measured)) in expected_measurements(&self.launch) {
            let expected = extend_sha256(&[0; 32], &measured);
            let seen = quoted.values().get(&pcr).expect("exactly the quoted PCRs are listed");
            Mismatch::unless_equal(&expected, seen).map_err(|source| GuestError::Pcr { pcr, what, source })?;
        }
        Ok(Finding::new((), "kernel, command line, initrd, root hash and workload as in the launch record"))
    }

    fn binding(&self, quote: &AuthenticQuote) -> Result<Finding<()>, GuestError> {
        let launch = &self.launch;
        let expected = guest_binding(&self.evidence.nonce, &self.evidence.guest_keys, &launch.workload_digest, &launch.instance);
        if !quote.is_for(&expected) {
            return Err(GuestError::Binding(Mismatch::new(hex::encode(expected), hex::encode(quote.qualifying()))));
        }
        Ok(Finding::new((), format!("binds guest key {} to nonce, workload and instance", hex::encode(self.keys.hpke))))
    }
}

/// What was extended into each PCR that a guest quotes, once.
fn expected_measurements(launch: &LaunchRecord) -> BTreeMap<u32, (&'static str, [u8; 32])> {
    BTreeMap::from([
        (guest_pcr::KERNEL, ("kernel", launch.kernel)),
        (guest_pcr::COMMAND_LINE, ("command line", Sha256::digest(launch.command_line.as_bytes()).into())),
        (guest_pcr::INITRD, ("initrd", launch.initrd)),
        (guest_pcr::ROOT_HASH, ("root hash", launch.root_hash)),
        (guest_pcr::WORKLOAD, ("workload", launch.workload_digest)),
    ])
}

fn endorsed_key(public: &[u8], launch: &LaunchRecord) -> Result<Finding<AttestationKey>, GuestError> {
    if public != launch.vtpm_ak_public {
        return Err(GuestError::OtherKey);
    }
    attestation_key(public).map_err(GuestError::Key)
}

fn found<'a>(
    what: &'static str,
    digest: &[u8; 32],
    with: &'static str,
    known: Vec<&'a GuestOs>,
) -> Result<Finding<Vec<&'a GuestOs>>, LaunchError> {
    if known.is_empty() {
        return Err(LaunchError::Unknown { what, digest: hex::encode(digest), with });
    }
    Ok(Finding::new(known, hex::encode(digest)))
}

fn jail(jail: &Jail) -> Result<Finding<()>, LaunchError> {
    let missing: Vec<_> = NAMESPACES.iter().filter(|name| !jail.namespaces.iter().any(|has| has == *name)).collect();
    let problem = if jail.uid == 0 {
        "runs as root".to_owned()
    } else if !jail.no_new_privs {
        "may gain privileges (no_new_privs is not set)".to_owned()
    } else if !jail.seccomp {
        "has no seccomp filter".to_owned()
    } else if jail.capabilities != 0 {
        format!("has capabilities {:#x}", jail.capabilities)
    } else if !missing.is_empty() {
        format!("shares the host's namespaces {missing:?}")
    } else if !jail.cgroup {
        "is in no cgroup with limits".to_owned()
    } else {
        let detail = format!(
            "uid {}, no new privileges, seccomp, no capabilities, own {} and cgroup",
            jail.uid,
            jail.namespaces.join(" ")
        );
        return Ok(Finding::new((), detail));
    };
    Err(LaunchError::Jail(problem))
}

/// Namespaces that a VMM must have of its own.
const NAMESPACES: [&str; 5] = ["ipc", "mnt", "net", "pid", "uts"];
const ROOT_PARAMETER: &str = "casemate.root=";
const FAKE_VMM: &str = "fake";
/// Most characters of a foreign command line that are repeated.
const MAX_SHOWN: usize = 1024;
