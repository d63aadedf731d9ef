//! The score card of an instance: what node and guest said they saw, and what the platform's own verifier found.

use casemate_api::{
    rest,
    score::{Observation, Observer, believable},
};
use casemate_verifier::{AttestationResult, Outcome};

use super::{Caller, Service};
use crate::fault::Fault;

impl Service {
    /// The score card of an instance; lines that nobody spoke of are there as well.
    pub async fn score_card(&self, caller: &Caller, id: &str) -> Result<rest::ScoreCard, Fault> {
        let instance = self.find(caller, id).await?;
        let verdict = instance.verdict.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let mut seen = verdict.as_ref().map(verified).unwrap_or_default();
        let at_ms = instance.observed.as_ref().map(|observed| observed.at_ms);
        if let Some(observed) = instance.observed {
            seen.extend(believable(Observer::Agent, observed.agent));
            seen.extend(believable(Observer::Guest, observed.guest));
        }
        Ok(rest::ScoreCard::new(instance.id.to_string(), at_ms, &seen))
    }
}

/// What an appraisal says of each line that is the verifier's. A check that was not reached says nothing.
fn verified(verdict: &AttestationResult) -> Vec<Observation> {
    let mut seen: Vec<_> = LINES.iter().filter_map(|(item, checks)| judged(verdict, item, checks)).collect();
    // Claims are no more than a log's word until the log was found to be the quoted one.
    let proven = verdict.checks.iter().any(|check| check.name == "node.event-log" && check.outcome == Outcome::Pass);
    let claims = verdict.submodules.get("node").map(|node| &node.claims).filter(|_| proven);
    if let Some(on) = claims.and_then(|claims| claims.get("secure_boot")).and_then(serde_json::Value::as_bool) {
        seen.push(Observation::new("secure-boot-verified", on, if on { "on in the boot log" } else { "off in the boot log" }));
    }
    seen
}

fn judged(verdict: &AttestationResult, item: &'static str, names: &[&str]) -> Option<Observation> {
    let checks = names.iter().map(|name| verdict.checks.iter().find(|check| check.name == *name));
    let checks: Vec<_> = checks.collect::<Option<_>>()?;
    if let Some(failed) = checks.iter().find(|check| check.outcome == Outcome::Fail) {
        return Some(Observation::new(item, false, format!("{}: {}", failed.name, failed.detail)));
    }
    if checks.iter().any(|check| check.outcome != Outcome::Pass) {
        return None;
    }
    if item == "tpm-verified" && verdict.simulated {
        return Some(Observation::new(item, false, "the quote is good, and rests on a simulator's root"));
    }
    Some(Observation::new(item, true, format!("passed: {}", names.join(" "))))
}

/// Which checks a line rests on: all of them. A verdict has either the checks of a machine or those of a container, so a line with
/// a way for each is there twice.
const LINES: &[(&str, &[&str])] = &[
    ("tpm-verified", &["node.ek", "node.ak", "node.quote", "node.pcrs"]),
    ("node-software-verified", &["node.event-log", "node.software"]),
    ("jail-verified", &["vmm.jail"]),
    ("jail-verified", &["container.jail"]),
    ("vmm-verified", &["vmm.digest"]),
    ("vmm-verified", &["container.runtime"]),
    (
        "guest-verified",
        &["guest.kernel", "guest.initrd", "guest.command-line", "guest.root-hash", "guest.quote", "guest.pcrs", "guest.binding"],
    ),
];

#[cfg(test)]
mod tests {
    use casemate_api::score::Item;
    use casemate_verifier::{CONTAINER_CHECKS, CheckName, INSTANCE_CHECKS};
    use serde_json::json;

    use super::*;

    fn verdict(list: &[CheckName], simulated: bool, failed: &str, secure_boot: Option<bool>) -> AttestationResult {
        let mut after = false;
        let checks: Vec<_> = list
            .iter()
            .map(|check| {
                let name = check.as_str();
                let outcome = if after {
                    "not-reached"
                } else if name == failed {
                    "fail"
                } else {
                    "pass"
                };
                after |= name == failed;
                json!({"name": name, "outcome": outcome, "detail": "seen"})
            })
            .collect();
        let node = json!({
            "kind": "node", "status": "affirming", "trust": {}, "claims": {"secure_boot": secure_boot}, "anchors": [],
            "tcb_age_s": null, "silicon": null, "simulated": simulated
        });
        let value = json!({
            "version": 1, "status": "affirming", "platform": "microvm", "simulated": simulated, "instance": "i-1",
            "workload_digest": "", "nonce_sha256": "", "launch_record_digest": null, "guest_os": null, "at": 0,
            "checks": checks, "anchors": [], "warnings": [], "submodules": {"node": node}
        });
        serde_json::from_value(value).unwrap()
    }

    fn line(seen: &[Observation], item: &str) -> Option<bool> {
        seen.iter().find(|observation| observation.item == item).map(|observation| observation.held)
    }

    #[test]
    fn lines_and_checks_exist() {
        for (item, names) in LINES {
            assert_eq!(Item::find(item).unwrap().observer, Observer::Verifier);
            for name in *names {
                assert!(INSTANCE_CHECKS.iter().chain(CONTAINER_CHECKS).any(|check| check.as_str() == *name), "{name}");
            }
        }
    }

    #[test]
    fn a_failed_check_is_missing_and_what_follows_is_not_observed() {
        let seen = verified(&verdict(INSTANCE_CHECKS, false, "node.software", None));
        assert_eq!(line(&seen, "tpm-verified"), Some(true));
        assert_eq!(line(&seen, "node-software-verified"), Some(false));
        assert_eq!(line(&seen, "jail-verified"), None);
        assert_eq!(line(&seen, "secure-boot-verified"), None);
    }

    #[test]
    fn a_verdict_says_each_line_once() {
        for (list, guest) in [(INSTANCE_CHECKS, Some(true)), (CONTAINER_CHECKS, None)] {
            let seen = verified(&verdict(list, false, "", None));
            let count = |item: &str| seen.iter().filter(|observation| observation.item == item).count();
            assert!(LINES.iter().all(|(item, _)| count(item) <= 1), "{seen:?}");
            assert_eq!((line(&seen, "jail-verified"), line(&seen, "vmm-verified")), (Some(true), Some(true)));
            assert_eq!(line(&seen, "guest-verified"), guest, "a container has no kernel of its own");
        }
        let seen = verified(&verdict(CONTAINER_CHECKS, false, "container.jail", None));
        assert_eq!((line(&seen, "jail-verified"), line(&seen, "vmm-verified")), (Some(false), Some(true)));
    }

    #[test]
    fn a_simulator_is_no_tpm() {
        assert_eq!(line(&verified(&verdict(INSTANCE_CHECKS, true, "", None)), "tpm-verified"), Some(false));
    }

    #[test]
    fn secure_boot_is_believed_of_a_proven_log_only() {
        let secure = |failed, on| line(&verified(&verdict(INSTANCE_CHECKS, false, failed, on)), "secure-boot-verified");
        assert_eq!((secure("", Some(true)), secure("", Some(false)), secure("", None)), (Some(true), Some(false), None));
        assert_eq!(secure("node.event-log", Some(true)), None);
    }
}
