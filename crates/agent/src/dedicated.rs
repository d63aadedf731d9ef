//! Whether this host is dedicated to being a node, looked at all the time against the policy of its owner.
//!
//! The list of what was found stays on the host (log, `casemate doctor --policy`): the platform learns how much it is, and whether the
//! node is held back for it.

use std::{path::Path, sync::Arc, time::Duration};

use casemate_api::{node, score::Observation};
use casemate_daemon::dedicated::{self, Finding, OnFinding, Policy};
use casemate_lifecycle::{Failure, Step};
use tokio::{sync::watch, time::sleep};

use crate::{
    config::Look,
    failure::{self, check},
    files::off_thread,
};

/// Findings of one look that are written to the log.
const LOGGED: usize = 100;

/// The look that is repeated, and what it found last.
#[derive(Debug, Clone)]
pub(crate) struct Dedication(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    policy: Arc<Policy>,
    every: Duration,
    found: watch::Sender<Vec<Finding>>,
}

impl Dedication {
    /// Reads the policy and looks for the first time. Without a policy nothing is ever found.
    pub(crate) fn start(wanted: Option<&Look>) -> Result<Self, dedicated::PolicyError> {
        let Some(look_at) = wanted else { return Ok(Self(None)) };
        let policy = Arc::new(dedicated::load(&look_at.policy)?);
        let findings = look(&policy);
        say(&[], &findings);
        Ok(Self(Some(Arc::new(Inner { policy, every: look_at.every, found: watch::Sender::new(findings) }))))
    }

    /// Looks again and again.
    pub(crate) async fn keep_looking(self) {
        let Some(inner) = self.0 else { return std::future::pending().await };
        loop {
            sleep(inner.every).await;
            let policy = inner.policy.clone();
            let findings = off_thread(move || look(&policy)).await;
            inner.found.send_if_modified(|known| {
                say(known, &findings);
                let is_new = *known != findings;
                *known = findings;
                is_new
            });
        }
    }

    /// Says when something else was found than before; never, without a policy.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.0.as_ref().map(|inner| inner.found.subscribe()))
    }

    /// Why no new instance may start here now.
    pub(crate) fn refusal(&self) -> Option<Failure> {
        let inner = self.0.as_ref().filter(|inner| inner.policy.on_finding == OnFinding::Hold)?;
        let count = inner.found.borrow().len();
        let detail = || format!("the node's owner holds it back: {count} findings against his own policy");
        (count > 0).then(|| failure::at(Step::Accepted, check::DEDICATED, detail()))
    }

    /// What the platform is told.
    pub(crate) fn inventory(&self) -> Option<node::Dedicated> {
        let inner = self.0.as_ref()?;
        let findings = u32::try_from(inner.found.borrow().len()).unwrap_or(u32::MAX);
        Some(node::Dedicated { findings, held: self.refusal().is_some() })
    }

    /// For the score card; without a policy nobody has looked.
    pub(crate) fn observed(&self) -> Option<Observation> {
        let inner = self.0.as_ref()?;
        let count = inner.found.borrow().len();
        let seen = if count == 0 { "nothing but what the policy allows".to_owned() } else { format!("{count} findings") };
        Some(Observation::new("host-dedicated", count == 0, seen))
    }
}

/// Follows what is found.
pub(crate) struct Changes(Option<watch::Receiver<Vec<Finding>>>);

impl Changes {
    /// Returns when something else was found.
    pub(crate) async fn changed(&mut self) {
        let changed = match &mut self.0 {
            Some(found) => found.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            std::future::pending().await
        }
    }
}

/// A host that cannot be looked at is not taken for a good one.
fn look(policy: &Policy) -> Vec<Finding> {
    match dedicated::look(Path::new("/"), policy) {
        Ok(facts) => dedicated::judge(policy, &facts),
        Err(error) => vec![Finding {
            kind: "look",
            subject: "this host".to_owned(),
            detail: error.to_string(),
            hint: "the agent needs root, and an ordinary /proc and /sys".to_owned(),
        }],
    }
}

/// Each finding is said once, and once that it is gone.
fn say(known: &[Finding], found: &[Finding]) {
    for Finding { kind, subject, detail, hint } in found.iter().filter(|finding| !known.contains(finding)).take(LOGGED) {
        tracing::warn!(kind, subject, detail, hint, "against the dedicated-node policy");
    }
    for Finding { kind, subject, .. } in known.iter().filter(|finding| !found.contains(finding)).take(LOGGED) {
        tracing::info!(kind, subject, "no longer against the dedicated-node policy");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener};

    use super::*;

    fn start(text: &str) -> Dedication {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("dedicated.toml");
        fs::write(&policy, text).unwrap();
        Dedication::start(Some(&Look { policy, every: Duration::from_millis(50) })).unwrap()
    }

    /// As entries of a list of sockets: all ports of TCP but one.
    fn all_but(port: u16) -> String {
        let own = port.to_string();
        let shorter = (1..own.len()).map(|length| own[..length].to_owned());
        let other = (0..own.len()).flat_map(|at| {
            let own = own.clone();
            (0..=9)
                .map(move |digit| format!("{}{digit}", &own[..at]))
                .filter(move |begin| !port.to_string().starts_with(begin.as_str()))
        });
        let entries = shorter.chain(other.map(|begin| format!("{begin}*"))).map(|name| format!("\"tcp/{name}\""));
        let others = ["udp", "raw"].into_iter().flat_map(|protocol| (0..=9).map(move |digit| format!("\"{protocol}/{digit}*\"")));
        entries.chain(others).collect::<Vec<_>>().join(", ")
    }

    #[tokio::test]
    async fn a_finding_holds_the_node_until_it_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Other sockets of this machine come and go.
        let others = all_but(listener.local_addr().unwrap().port());
        let dedication = start(&format!("version = 1\non_finding = \"hold\"\nsockets.allowed = [{others}]"));
        let mut changes = dedication.changes();
        let refusal = dedication.refusal().unwrap();
        assert_eq!(refusal.check, "node.dedicated");
        assert!(dedication.inventory().unwrap().held);
        assert!(!dedication.observed().unwrap().held);
        drop(listener);
        let looking = tokio::spawn(dedication.clone().keep_looking());
        let gone = async {
            while dedication.inventory().unwrap().findings > 0 {
                changes.changed().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.expect("it is gone");
        assert_eq!(dedication.refusal(), None);
        looking.abort();
    }

    #[test]
    fn a_report_holds_nothing_and_no_policy_finds_nothing() {
        let reporting = start("version = 1\nprograms.allowed = [\"/none\"]");
        assert!(reporting.inventory().unwrap().findings > 0);
        assert_eq!(reporting.refusal(), None);
        let none = Dedication::start(None).unwrap();
        assert_eq!((none.refusal(), none.inventory(), none.observed().is_some()), (None, None, false));
    }
}
