//! The list of files of a node, from where the platform's last appraisal of it ended.

use casemate_evidence::{ima::Format, tpm::HashAlg};
use serde::{Deserialize, Serialize};

use super::demand::{Demand, Due, NotJudged};
use crate::{
    checks::Finding,
    ima::{ImaPolicy, ImaState, appraise_ima},
    quote::{AuthenticQuote, QuotedPcrs},
};

/// The part of its IMA list that a node sends.
#[derive(Debug, Clone, Copy)]
pub struct ImaPart<'a> {
    /// The entries, in the kernel's binary form (`binary_runtime_measurements`).
    pub list: &'a [u8],
    /// Bytes of the list before this part: 0, or where the last appraisal ended.
    pub offset: u64,
}

/// What a platform remembers of a node's list, so that the node sends only what was added. It is of one boot, and kept like the
/// verdict itself: whoever can change it can hide entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImaMemory {
    state: ImaState,
    /// The TPM's count of resets: after another one the list begins anew.
    reset_count: u32,
}

impl ImaMemory {
    /// Where the next part begins.
    pub fn offset(&self) -> u64 {
        self.state.offset()
    }

    /// Entries appraised since the boot.
    pub fn count(&self) -> u64 {
        self.state.count()
    }
}

/// What came of the list.
pub(super) struct Judged {
    /// What to remember, where it was judged.
    pub(super) memory: Option<ImaMemory>,
    pub(super) not_judged: Option<NotJudged>,
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    #[error("the policy leaves the list of files to the platform, but this is the platform's appraisal")]
    NobodyJudges,
    #[error("the policy asks for the list of files (IMA), but the node sent none")]
    Missing,
    #[error("the list goes on at byte {offset}, but the machine was started anew since: it begins at 0")]
    OtherBoot { offset: u64 },
    #[error("the list goes on at byte {offset}, expected 0{}", .expected.map(|at| format!(" or {at}")).unwrap_or_default())]
    Offset { offset: u64, expected: Option<u64> },
    #[error("the list is empty: the kernel measures nothing, not even its boot")]
    Empty,
    #[error("{0}")]
    Refused(String),
}

/// `node.ima`.
pub(super) fn judge(
    part: Option<&ImaPart<'_>>,
    memory: Option<&ImaMemory>,
    (quote, pcrs): (&AuthenticQuote, &QuotedPcrs),
    demand: &Demand<ImaPolicy>,
    simulated: bool,
) -> Result<Finding<Judged>, ListError> {
    let rules = match demand.due(simulated) {
        Due::Judge(rules) => rules,
        Due::Not(NotJudged::LeftToPlatform) => return Err(ListError::NobodyJudges),
        Due::Not(why) => {
            let judged = Judged { memory: None, not_judged: Some(why), warnings: Vec::new() };
            return Ok(Finding::new(judged, format!("NOT JUDGED: {}", why.text())));
        }
    };
    let part = part.ok_or(ListError::Missing)?;
    let reset_count = quote.clock().reset_count;
    let from = match memory {
        _ if part.offset == 0 => ImaState::start(HashAlg::Sha256),
        Some(memory) if memory.reset_count != reset_count => return Err(ListError::OtherBoot { offset: part.offset }),
        Some(memory) if memory.offset() == part.offset => memory.state.clone(),
        memory => return Err(ListError::Offset { offset: part.offset, expected: memory.map(ImaMemory::offset) }),
    };
    let appraised = appraise_ima(part.list, Format::Binary(HashAlg::Sha1), &from, &pcrs.to_banks(), rules);
    let warnings = appraised.claims().map(|claims| claims.warnings.clone()).unwrap_or_default();
    let detail = |found: Option<&crate::checks::Check>| found.map(|check| check.detail.clone()).unwrap_or_default();
    let state = match appraised.verified() {
        Some(list) => list.state().clone(),
        None => return Err(ListError::Refused(detail(appraised.failed()))),
    };
    if state.count() == 0 {
        return Err(ListError::Empty);
    }
    let judged = Judged { memory: Some(ImaMemory { state, reset_count }), not_judged: None, warnings };
    Ok(Finding::new(judged, detail(appraised.checks().first())))
}
