//! Several lists of checks, gone through one after the other.

use crate::checks::{Check, CheckName, Ledger, Outcome, Stop};

/// The lists that are due, and the checks so far.
pub(super) struct Sections {
    due: Vec<&'static [CheckName]>,
    done: usize,
    checks: Vec<Check>,
}

impl Sections {
    pub(super) fn new(due: Vec<&'static [CheckName]>) -> Self {
        Self { due, done: 0, checks: Vec::new() }
    }

    /// Goes through the list that is due with `judge`, which enters its checks into a ledger.
    pub(super) fn judge<T>(&mut self, judge: impl FnOnce(&mut Ledger) -> Result<T, Stop>) -> Result<T, Stop> {
        let mut ledger = Ledger::new(self.due.get(self.done).ok_or(Stop)?);
        let found = judge(&mut ledger);
        let (checks, passed) = ledger.close();
        self.take(checks, passed)?;
        found
    }

    /// Takes the checks of the list that is due, which a device's appraisal went through.
    pub(super) fn take(&mut self, checks: Vec<Check>, passed: bool) -> Result<(), Stop> {
        let due = self.due.get(self.done).ok_or(Stop)?;
        let complete = checks.iter().map(|check| check.name.as_str()).eq(due.iter().map(|name| name.as_str()));
        let good = passed && complete && checks.iter().all(|check| check.outcome == Outcome::Pass);
        self.checks.extend(checks);
        self.done += 1;
        if good { Ok(()) } else { Err(Stop) }
    }

    /// All checks, those of lists that were not reached included, and whether each one passed.
    pub(super) fn close(mut self) -> (Vec<Check>, bool) {
        for list in self.due.iter().skip(self.done) {
            let not_reached =
                |name: &CheckName| Check { name: name.to_string(), outcome: Outcome::NotReached, detail: String::new() };
            self.checks.extend(list.iter().map(not_reached));
        }
        let count: usize = self.due.iter().map(|list| list.len()).sum();
        let passed = self.checks.len() == count && self.checks.iter().all(|check| check.outcome == Outcome::Pass);
        (self.checks, passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::{Finding, Mismatch};

    const FIRST: &[CheckName] = &[CheckName::EvidenceFormat];
    const SECOND: &[CheckName] = &[CheckName::NodeAk, CheckName::NodeQuote];

    fn enter(ledger: &mut Ledger, name: CheckName) -> Result<(), Stop> {
        ledger.enter::<_, Mismatch>(name, Ok(Finding::new((), "")))
    }

    #[test]
    fn passes_only_when_every_list_was_gone_through() {
        let mut sections = Sections::new(vec![FIRST, SECOND]);
        sections.judge(|ledger| enter(ledger, CheckName::EvidenceFormat)).unwrap();
        sections.judge(|ledger| enter(ledger, CheckName::NodeAk).and_then(|()| enter(ledger, CheckName::NodeQuote))).unwrap();
        assert!(sections.close().1);
    }

    #[test]
    fn a_list_that_was_not_reached_is_a_rejection() {
        let mut sections = Sections::new(vec![FIRST, SECOND]);
        sections.judge(|ledger| enter(ledger, CheckName::EvidenceFormat)).unwrap();
        let (checks, passed) = sections.close();
        assert!(!passed);
        assert_eq!(checks.len(), 3);
        assert_eq!(checks[2].outcome, Outcome::NotReached);
    }

    #[test]
    fn a_check_that_its_list_lacks_or_that_was_forgotten_is_a_rejection() {
        let mut sections = Sections::new(vec![SECOND]);
        assert!(sections.judge(|ledger| enter(ledger, CheckName::NodeAk)).is_err());
        assert!(!sections.close().1);

        let mut sections = Sections::new(vec![FIRST]);
        let other = Check { name: "node.ak".to_owned(), outcome: Outcome::Pass, detail: String::new() };
        assert!(sections.take(vec![other], true).is_err());

        let mut sections = Sections::new(vec![]);
        assert!(sections.take(Vec::new(), true).is_err());
    }
}
