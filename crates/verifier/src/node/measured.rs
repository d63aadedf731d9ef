//! PCRs, boot and software of a node, alike for every appraisal that has one.

use std::collections::BTreeMap;

use casemate_evidence::{
    eventlog::EventLogError,
    instance::{NODE_PCRS, Pcr},
};

use super::demand::{Demand, Due, NotJudged};
use crate::{
    boot::{self, BootPolicy, BootPolicyError, MokRule},
    checks::{CheckName, Finding, Ledger, Stop},
    log::{MeasuredLog, NodeSoftware},
    quote::{AuthenticQuote, QuotedPcrs},
    references::ReferenceValues,
};

/// What is wanted of it.
pub(crate) struct Wanted<'a> {
    pub(crate) references: &'a ReferenceValues,
    pub(crate) boot: &'a Demand<BootPolicy>,
    /// Its TPM is a simulator.
    pub(crate) simulated: bool,
    /// A platform certified the node, and can have judged its boot.
    pub(crate) certified: bool,
}

/// A node that measured known software, and how its boot came out.
pub(crate) struct MeasuredNode {
    pub(crate) pcrs: QuotedPcrs,
    pub(crate) software: NodeSoftware,
    /// Whether secure boot was on, where the boot was judged.
    pub(crate) secure_boot: Option<bool>,
    pub(crate) not_judged: Option<NotJudged>,
    pub(crate) warnings: Vec<String>,
}

/// From `node.pcrs` to `node.software`.
pub(crate) fn judge(
    ledger: &mut Ledger,
    quote: &AuthenticQuote,
    listed: &BTreeMap<u32, Pcr>,
    event_log: &[u8],
    wanted: &Wanted<'_>,
) -> Result<MeasuredNode, Stop> {
    let pcrs = quote.pcrs(&NODE_PCRS, listed).map(|pcrs| Finding::new(pcrs, format!("SHA-256 PCRs {NODE_PCRS:?} as quoted")));
    let pcrs = ledger.enter(CheckName::NodePcrs, pcrs)?;
    let log = MeasuredLog::replay(event_log, &pcrs).map(|log| Finding::new(log, "the log replays to the quoted PCRs"));
    let log = ledger.enter(CheckName::NodeEventLog, log)?;
    let due = wanted.boot.due(wanted.simulated);
    let boot = ledger.enter(CheckName::NodeBootPolicy, judge_boot(event_log, &pcrs, &due, wanted.certified))?;
    let mok = match due {
        Due::Judge(rules) => &rules.shim,
        Due::Not(_) => &MokRule::Refuse,
    };
    let software = log.software_beside(wanted.references, mok).map(|software| {
        let runtimes: String =
            software.runtimes().iter().map(|runtime| format!(", OCI runtime {}", hex::encode(runtime))).collect();
        let detail = format!("agent {}, VMM {}{runtimes}", hex::encode(software.agent()), hex::encode(software.vmm()));
        Finding::new(software, detail)
    });
    let software = ledger.enter(CheckName::NodeSoftware, software)?;
    let Boot { secure_boot, not_judged, warnings } = boot;
    Ok(MeasuredNode { pcrs, software, secure_boot, not_judged, warnings })
}

struct Boot {
    secure_boot: Option<bool>,
    not_judged: Option<NotJudged>,
    warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("read the event log")]
    Format(#[source] EventLogError),
    #[error("the policy leaves the boot to the platform, but this is the platform's appraisal")]
    NobodyJudges,
    #[error(transparent)]
    Policy(BootPolicyError),
}

fn judge_boot(log: &[u8], pcrs: &QuotedPcrs, due: &Due<'_, BootPolicy>, certified: bool) -> Result<Finding<Boot>, BootError> {
    let rules = match due {
        Due::Judge(rules) => rules,
        Due::Not(NotJudged::LeftToPlatform) if !certified => return Err(BootError::NobodyJudges),
        Due::Not(why) => {
            let warnings = vec![format!("the node's boot was not judged: {}", why.text())];
            let boot = Boot { secure_boot: None, not_judged: Some(*why), warnings };
            return Ok(Finding::new(boot, format!("NOT JUDGED: {}", why.text())));
        }
    };
    let (claims, judged) = boot::judge_replayed(log, &pcrs.to_banks(), rules).map_err(BootError::Format)?;
    let detail = judged.map_err(BootError::Policy)?;
    let boot = Boot { secure_boot: Some(claims.secure_boot), not_judged: None, warnings: claims.warnings };
    Ok(Finding::new(boot, detail))
}
