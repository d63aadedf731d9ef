use super::*;

const LIST: &[CheckName] = &[CheckName::NodeAk, CheckName::NodeQuote];

fn good() -> Result<Finding<()>, Mismatch> {
    Ok(Finding::new((), "as it should be"))
}

fn bad() -> Result<Finding<()>, Mismatch> {
    Err(Mismatch::new("this", "that"))
}

#[test]
fn passes_only_when_each_check_was_entered_and_passed() {
    let mut ledger = Ledger::new(LIST);
    ledger.enter(CheckName::NodeAk, good()).unwrap();
    ledger.enter(CheckName::NodeQuote, good()).unwrap();
    assert!(ledger.close().1);
}

#[test]
fn a_forgotten_check_is_a_rejection() {
    let mut ledger = Ledger::new(LIST);
    ledger.enter(CheckName::NodeAk, good()).unwrap();
    let (checks, passed) = ledger.close();
    assert!(!passed);
    assert_eq!(checks[1].outcome, Outcome::NotReached);
}

#[test]
fn a_check_out_of_order_twice_or_after_a_failure_is_a_rejection() {
    let mut ledger = Ledger::new(LIST);
    assert!(ledger.enter(CheckName::NodeQuote, good()).is_err());
    assert!(!ledger.close().1);

    let mut ledger = Ledger::new(LIST);
    ledger.enter(CheckName::NodeAk, good()).unwrap();
    assert!(ledger.enter(CheckName::NodeAk, good()).is_err());
    assert!(!ledger.close().1);

    let mut ledger = Ledger::new(LIST);
    assert!(ledger.enter(CheckName::NodeAk, bad()).is_err());
    assert!(ledger.enter(CheckName::NodeQuote, good()).is_err());
    let (checks, passed) = ledger.close();
    assert!(!passed);
    assert_eq!(checks[0].detail, "expected this, seen that");
}

#[test]
fn names_are_unique() {
    let names: std::collections::BTreeSet<_> = INSTANCE_CHECKS.iter().map(|name| name.as_str()).collect();
    assert_eq!(names.len(), INSTANCE_CHECKS.len());
}
