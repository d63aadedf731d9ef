//! What this node's kernel lets the monitor promise. Probed by loading, not read from a version.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{detector::Group, kernel::Attached};

/// The class, best first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "name", rename_all = "snake_case")]
pub enum Class {
    /// Every group's every hook denies.
    Enforcing,
    /// Hooks deny, but some group lacks one.
    EnforcingWithout {
        /// The incomplete groups.
        groups: Vec<Group>,
    },
    /// Nothing can be refused; what is seen ends the instances.
    ObserveAndKill {
        /// The groups of which nothing is seen.
        blind: Vec<Group>,
    },
    /// Not even labels can be kept: the record says what else is known.
    DetectOnly,
}

impl Class {
    /// From what became of the hooks, and the groups in which the canary was not met although all of them are there.
    pub fn of(attached: &Attached, blind: &BTreeSet<Group>) -> Self {
        let all =
            |group: &Group| !blind.contains(group) && attached.get(group).is_some_and(|hooks| hooks.iter().all(Result::is_ok));
        let any = |group: &Group, wanted: fn(&str) -> bool| {
            attached.get(group).is_some_and(|hooks| hooks.iter().flatten().any(|name| wanted(name)))
        };
        let denies = |name: &str| !name.starts_with("tp_btf/");
        if any(&Group::Labels, denies) && any(&Group::Ptrace, denies) {
            let groups: Vec<Group> = Group::ALL.into_iter().filter(|group| !all(group)).collect();
            return if groups.is_empty() { Self::Enforcing } else { Self::EnforcingWithout { groups } };
        }
        if any(&Group::Labels, |_| true) {
            let blind = Group::ALL.into_iter().filter(|group| blind.contains(group) || !any(group, |_| true)).collect();
            return Self::ObserveAndKill { blind };
        }
        Self::DetectOnly
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(there: &[&str], missing: &[&str]) -> Vec<Result<String, String>> {
        let there = there.iter().map(|name| Ok((*name).to_owned()));
        there.chain(missing.iter().map(|name| Err((*name).to_owned()))).collect()
    }

    fn full() -> Attached {
        Group::ALL.into_iter().map(|group| (group, hooks(&["hook"], &[]))).collect()
    }

    #[test]
    fn a_canary_that_was_not_met_is_said_by_its_group() {
        for group in Group::ALL {
            let blind = BTreeSet::from([group]);
            assert_eq!(Class::of(&full(), &blind), Class::EnforcingWithout { groups: vec![group] });
            let mut attached = full();
            attached.insert(Group::Labels, hooks(&["tp_btf/sched_process_fork"], &["task_alloc"]));
            assert_eq!(Class::of(&attached, &blind), Class::ObserveAndKill { blind: vec![group] });
        }
    }

    #[test]
    fn one_missing_hook_is_said_by_its_group() {
        assert_eq!(Class::of(&full(), &BTreeSet::new()), Class::Enforcing);
        for group in Group::ALL {
            let mut attached = full();
            attached.insert(group, hooks(&["hook"], &["lost"]));
            assert_eq!(Class::of(&attached, &BTreeSet::new()), Class::EnforcingWithout { groups: vec![group] });
        }
    }

    #[test]
    fn without_hooks_that_deny_nothing_is_called_enforcing() {
        let mut attached: Attached = Group::ALL.into_iter().map(|group| (group, hooks(&[], &["lost"]))).collect();
        assert_eq!(Class::of(&attached, &BTreeSet::new()), Class::DetectOnly);
        attached.insert(Group::Labels, hooks(&["tp_btf/sched_process_fork"], &["task_alloc"]));
        attached.insert(Group::Signals, hooks(&["tp_btf/signal_generate"], &["task_kill"]));
        let Class::ObserveAndKill { blind } = Class::of(&attached, &BTreeSet::new()) else {
            panic!("{:?}", Class::of(&attached, &BTreeSet::new()))
        };
        assert!(blind.contains(&Group::Ptrace) && !blind.contains(&Group::Signals), "{blind:?}");
        assert_eq!(Class::of(&Attached::new(), &BTreeSet::new()), Class::DetectOnly);
    }
}
