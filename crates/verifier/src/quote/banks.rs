//! Quoted values of several banks.

use std::collections::BTreeMap;

use casemate_evidence::tpm::{Digest, HashAlg, PcrSelection};

use super::QuotedPcrs;

/// PCR values by bank and index.
pub type BankValues = BTreeMap<HashAlg, BTreeMap<u32, Digest>>;

/// PCR values, bank by bank, that a quote covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotedBanks {
    banks: BankValues,
}

impl QuotedBanks {
    pub(super) fn new(banks: BankValues) -> Self {
        Self { banks }
    }

    /// The banks, each with its values.
    pub fn banks(&self) -> &BankValues {
        &self.banks
    }

    /// One value.
    pub fn value(&self, alg: HashAlg, pcr: u32) -> Option<&Digest> {
        self.banks.get(&alg)?.get(&pcr)
    }

    /// The bank that an appraisal reads: the strongest that is there. SHA-1 is never one.
    pub fn strongest(&self) -> Option<(HashAlg, &BTreeMap<u32, Digest>)> {
        let (alg, values) = self.banks.iter().rfind(|(_, values)| !values.is_empty())?;
        (*alg != HashAlg::Sha1).then_some((*alg, values))
    }
}

impl From<&QuotedPcrs> for QuotedBanks {
    fn from(pcrs: &QuotedPcrs) -> Self {
        pcrs.to_banks()
    }
}

/// The values in the order that a TPM hashes them; `None` where `listed` has others than `expected`.
pub(super) fn in_order(expected: &[PcrSelection], listed: &BankValues) -> Option<Vec<Digest>> {
    let mut values = Vec::new();
    for selection in expected {
        let bank = listed.get(&selection.hash)?;
        let of_size = bank.values().all(|value| value.as_slice().len() == selection.hash.size());
        if !of_size || !bank.keys().eq(&selection.pcrs) {
            return None;
        }
        values.extend(bank.values());
    }
    // Each bank once, and no bank besides.
    (listed.len() == expected.len()).then_some(values)
}

pub(super) fn selection_text(selections: &[PcrSelection]) -> String {
    let one = |selection: &PcrSelection| format!("{:?} PCRs {:?}", selection.hash, selection.pcrs);
    selections.iter().map(one).collect::<Vec<_>>().join(" and ")
}

pub(super) fn listed_text(listed: &BankValues) -> String {
    let one = |(alg, values): (&HashAlg, &BTreeMap<u32, Digest>)| format!("{alg:?} PCRs {:?}", values.keys().collect::<Vec<_>>());
    listed.iter().map(one).collect::<Vec<_>>().join(" and ")
}
