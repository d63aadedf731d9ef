//! What the agent must know about an instance after it was killed: one JSON file, written ahead of each step.
//!
//! `<state_dir>/instances/<id>/agent.json`, mode 0600. It holds no secret of the tenant: keys pass the agent sealed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use casemate_api::{assignment::Body, score::Observation};
use casemate_lifecycle::{Actual, Failure, InstanceId, Step};
use serde::{Deserialize, Serialize};

use crate::{
    assignment::Order,
    files::{self, FileError},
};

/// Largest journal, in bytes: an assignment with a large workload (hex), a launch message with it, and the rest.
pub(crate) const MAX_BYTES: u64 = 16 << 20;

/// Why a journal is not readable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content.
    #[error("journal {} is not well-formed: {detail}", path.display())]
    Malformed { path: PathBuf, detail: String },
}

/// All that is kept of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Journal {
    pub(crate) order: Order,
    /// What is the case, in the words of the life cycle.
    pub(crate) actual: Actual,
    /// Name of the driver that has it; empty where none was asked for anything.
    pub(crate) driver: String,
    /// How far the machine got; decides about adoption.
    pub(crate) machine: Machine,
    /// Set as soon as the instance is going down.
    pub(crate) ending: Option<Ending>,
    pub(crate) accepted_at_ms: u64,
    /// When the guest had opened its keys: its time to live begins.
    pub(crate) keyed_at_ms: Option<u64>,
    /// It ends because its time to live is over.
    pub(crate) expired: bool,
    /// Milliseconds after `accepted_at_ms`, by stage.
    pub(crate) stages_ms: BTreeMap<String, u64>,
    pub(crate) observed: Observed,
    pub(crate) receipt: Option<SignedReceipt>,
}

/// What was seen of the protection of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Observed {
    /// When the agent looked.
    pub(crate) at_ms: u64,
    /// By the agent.
    pub(crate) agent: Vec<Observation>,
    /// By the guest.
    pub(crate) guest: Vec<Observation>,
}

/// How far the machine of an instance got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Machine {
    /// The driver was not asked for anything.
    None,
    /// The driver was asked to prepare, or to start.
    Begun,
    /// It was started, and everything about it is known.
    Started(Launched),
}

/// What is known of a started machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launched {
    pub(crate) started_at_ms: u64,
    /// Encoded launch record.
    #[serde(with = "hex_bytes")]
    pub(crate) record: Vec<u8>,
    /// Encoded `guest.v1.Launch`; every session of the guest channel begins with these same bytes.
    #[serde(with = "hex_bytes")]
    pub(crate) message: Vec<u8>,
}

/// Why an instance goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ending {
    /// Its workload ended.
    Exited,
    /// Somebody wanted it.
    Stopped,
    /// See the failure.
    Failed,
}

/// A receipt as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignedReceipt {
    #[serde(with = "hex_bytes")]
    pub(crate) body: Vec<u8>,
    #[serde(with = "hex_bytes")]
    pub(crate) signature: Vec<u8>,
}

impl Journal {
    /// The journal of an instance of which nothing exists yet.
    pub(crate) fn new(order: Order, now_ms: u64) -> Self {
        let actual = Actual { step: Step::Accepted, exit_code: None, failure: None };
        Self {
            order,
            actual,
            driver: String::new(),
            machine: Machine::None,
            ending: None,
            accepted_at_ms: now_ms,
            keyed_at_ms: None,
            expired: false,
            stages_ms: BTreeMap::new(),
            observed: Observed::default(),
            receipt: None,
        }
    }

    /// The launched machine, where there is one.
    pub(crate) fn launched(&self) -> Option<&Launched> {
        match &self.machine {
            Machine::Started(launched) => Some(launched),
            Machine::None | Machine::Begun => None,
        }
    }

    /// Writes it into the instance's folder.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(&Stored::from(self)).expect("a journal always serialises");
        files::replace(&folder.join(FILE), &bytes)
    }

    /// Reads it from the instance's folder; `None` where there is none.
    pub(crate) fn load(folder: &Path) -> Result<Option<Self>, JournalError> {
        let path = folder.join(FILE);
        let Some(bytes) = files::read(&path, MAX_BYTES)? else { return Ok(None) };
        let malformed = |detail: String| JournalError::Malformed { path: path.clone(), detail };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        stored.into_journal().map(Some).map_err(malformed)
    }
}

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u16,
    #[serde(with = "hex_bytes")]
    body: Vec<u8>,
    #[serde(with = "hex_bytes")]
    signature: Vec<u8>,
    step: String,
    exit_code: Option<i32>,
    failure: Option<StoredFailure>,
    /// Before there were several drivers there was one, without a name.
    #[serde(default)]
    driver: String,
    machine_begun: bool,
    launched: Option<Launched>,
    ending: Option<Ending>,
    accepted_at_ms: u64,
    #[serde(default)]
    keyed_at_ms: Option<u64>,
    #[serde(default)]
    expired: bool,
    stages_ms: BTreeMap<String, u64>,
    #[serde(default)]
    observed: Observed,
    receipt: Option<SignedReceipt>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredFailure {
    step: String,
    check: String,
    detail: String,
}

impl From<&Journal> for Stored {
    fn from(journal: &Journal) -> Self {
        let failure = journal.actual.failure.as_ref().map(|failure| StoredFailure {
            step: failure.step.as_str().to_owned(),
            check: failure.check.clone(),
            detail: failure.detail.clone(),
        });
        Self {
            version: 1,
            body: journal.order.signed.body.clone(),
            signature: journal.order.signed.signature.clone(),
            step: journal.actual.step.as_str().to_owned(),
            exit_code: journal.actual.exit_code,
            failure,
            driver: journal.driver.clone(),
            machine_begun: journal.machine != Machine::None,
            launched: journal.launched().cloned(),
            ending: journal.ending,
            accepted_at_ms: journal.accepted_at_ms,
            keyed_at_ms: journal.keyed_at_ms,
            expired: journal.expired,
            stages_ms: journal.stages_ms.clone(),
            observed: journal.observed.clone(),
            receipt: journal.receipt.clone(),
        }
    }
}

impl Stored {
    fn into_journal(self) -> Result<Journal, String> {
        if self.version != 1 {
            return Err(format!("version {} is not known", self.version));
        }
        let step = |text: &str| Step::parse(text).ok_or_else(|| format!("no step {text:?}"));
        let failure = match self.failure {
            None => None,
            Some(f) => Some(Failure { step: step(&f.step)?, check: f.check, detail: f.detail }),
        };
        // The signature was checked when the assignment came; this file is ours alone.
        let body: Body = serde_json::from_slice(&self.body).map_err(|error| error.to_string())?;
        let id: InstanceId = body.instance.parse().map_err(|error| format!("{error}"))?;
        let signed = casemate_api::node::Assignment { body: self.body, signature: self.signature };
        let machine = match (self.machine_begun, self.launched) {
            (_, Some(launched)) => Machine::Started(launched),
            (true, None) => Machine::Begun,
            (false, None) => Machine::None,
        };
        Ok(Journal {
            order: Order { id, body, signed },
            actual: Actual { step: step(&self.step)?, exit_code: self.exit_code, failure },
            driver: self.driver,
            machine,
            ending: self.ending,
            accepted_at_ms: self.accepted_at_ms,
            keyed_at_ms: self.keyed_at_ms,
            expired: self.expired,
            stages_ms: self.stages_ms,
            observed: self.observed,
            receipt: self.receipt,
        })
    }
}

/// Bytes as hex text.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

const FILE: &str = "agent.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignment::tests::{body, order};

    #[test]
    fn comes_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Journal::load(dir.path()).unwrap(), None);
        let mut journal = Journal::new(order(&body()), 5);
        journal.save(dir.path()).unwrap();
        assert_eq!(Journal::load(dir.path()).unwrap().unwrap(), journal);
        journal.driver = "crun".into();
        journal.machine = Machine::Started(Launched { started_at_ms: 7, record: vec![1], message: vec![2, 3] });
        journal.actual.failure = Some(Failure { step: Step::Booted, check: "guest.tpm".into(), detail: "x".into() });
        journal.ending = Some(Ending::Failed);
        (journal.keyed_at_ms, journal.expired) = (Some(9), true);
        journal.stages_ms.insert("started".into(), 12);
        journal.observed.agent.push(Observation::new("iommu", false, "none"));
        journal.receipt = Some(SignedReceipt { body: vec![4], signature: vec![5] });
        journal.save(dir.path()).unwrap();
        assert_eq!(Journal::load(dir.path()).unwrap().unwrap(), journal);
    }

    #[test]
    fn says_what_is_wrong_with_a_broken_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), b"{}").unwrap();
        assert!(matches!(Journal::load(dir.path()), Err(JournalError::Malformed { .. })));
    }
}
