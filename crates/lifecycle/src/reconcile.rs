//! What a node does about the difference between what it holds and what should be.
//!
//! | held \ wanted | run                  | stop                   | not named (whole picture) |
//! |---------------|----------------------|------------------------|---------------------------|
//! | nothing       | start                | record that it ended   | -                         |
//! | live          | note a newer order   | stop                   | stop                      |
//! | ending, ended | note a newer order   | note a newer order     | nothing                   |
//! | forgotten     | tell that it is gone | tell that it is gone   | nothing                   |
//!
//! An order that is not newer than the one held changes nothing.

use std::collections::BTreeMap;

use crate::{InstanceId, Intent};

/// What a node holds of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Held {
    /// Generation of the newest order that it followed.
    pub generation: u64,
    /// How much of it there is.
    pub hold: Hold,
}

/// How much of an instance a node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// It is being started, or runs.
    Live,
    /// It is on its way down, or down; its record waits for the platform.
    Ending,
    /// Only the memory that it once was here.
    Forgotten,
}

/// What should be of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Generation of the order.
    pub generation: u64,
    /// Its intent.
    pub intent: Intent,
}

/// Whether the orders are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// An instance that is not named should not exist.
    Whole,
    /// Nothing is said about instances that are not named.
    Named,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Begin a new instance.
    Start(InstanceId),
    /// Nothing of it exists and nothing should: make the record of its end.
    RecordEnd(InstanceId),
    /// Take over the newer order; what runs goes on.
    Note(InstanceId),
    /// Take over the newer order and end the instance.
    Stop(InstanceId),
    /// End an instance that nobody wants any more.
    StopUnwanted(InstanceId),
    /// Say that it is gone.
    TellGone(InstanceId),
}

/// Decides what to do; does nothing.
pub fn reconcile(held: &BTreeMap<InstanceId, Held>, wanted: &BTreeMap<InstanceId, Wanted>, scope: Scope) -> Vec<Action> {
    let named = wanted.iter().filter_map(|(id, wanted)| named(id, held.get(id), wanted));
    let unwanted = held
        .iter()
        .filter(|(id, held)| scope == Scope::Whole && held.hold == Hold::Live && !wanted.contains_key(*id))
        .map(|(id, _)| Action::StopUnwanted(id.clone()));
    // Ends come first: what they free may be needed by what starts.
    let mut actions: Vec<Action> = unwanted.chain(named).collect();
    actions.sort_by_key(|action| matches!(action, Action::Start(_)));
    actions
}

fn named(id: &InstanceId, held: Option<&Held>, wanted: &Wanted) -> Option<Action> {
    let id = id.clone();
    match (held, wanted.intent) {
        (None, Intent::Run) => Some(Action::Start(id)),
        (None, Intent::Stop | Intent::Delete) => Some(Action::RecordEnd(id)),
        (Some(Held { hold: Hold::Forgotten, .. }), _) => Some(Action::TellGone(id)),
        (Some(held), _) if wanted.generation <= held.generation => None,
        (Some(Held { hold: Hold::Live, .. }), Intent::Stop | Intent::Delete) => Some(Action::Stop(id)),
        (Some(_), _) => Some(Action::Note(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> InstanceId {
        format!("i-{n}").parse().unwrap()
    }

    fn any_hold() -> impl Strategy<Value = Hold> {
        prop_oneof![Just(Hold::Live), Just(Hold::Ending), Just(Hold::Forgotten)]
    }

    fn any_intent() -> impl Strategy<Value = Intent> {
        prop_oneof![Just(Intent::Run), Just(Intent::Stop), Just(Intent::Delete)]
    }

    proptest! {
        #[test]
        fn starts_only_what_was_never_here(
            held in prop::collection::btree_map(0u8..6, (0u64..4, any_hold()), 0..6),
            wanted in prop::collection::btree_map(0u8..6, (0u64..4, any_intent()), 0..6),
            whole in any::<bool>(),
        ) {
            let held: BTreeMap<_, _> = held.into_iter().map(|(n, (generation, hold))| (id(n), Held { generation, hold })).collect();
            let wanted: BTreeMap<_, _> = wanted.into_iter().map(|(n, (generation, intent))| (id(n), Wanted { generation, intent })).collect();
            let scope = if whole { Scope::Whole } else { Scope::Named };
            for action in reconcile(&held, &wanted, scope) {
                match action {
                    Action::Start(id) => {
                        prop_assert!(!held.contains_key(&id));
                        prop_assert_eq!(wanted[&id].intent, Intent::Run);
                    }
                    Action::Stop(id) | Action::Note(id) => prop_assert!(wanted[&id].generation > held[&id].generation),
                    Action::StopUnwanted(id) => prop_assert!(whole && !wanted.contains_key(&id)),
                    Action::RecordEnd(id) => prop_assert!(!held.contains_key(&id)),
                    Action::TellGone(id) => prop_assert_eq!(held[&id].hold, Hold::Forgotten),
                }
            }
        }
    }

    #[test]
    fn a_stale_stop_and_a_repeated_run_change_nothing() {
        let held = BTreeMap::from([(id(1), Held { generation: 5, hold: Hold::Live })]);
        for (generation, intent) in [(4, Intent::Stop), (5, Intent::Run), (5, Intent::Stop)] {
            let wanted = BTreeMap::from([(id(1), Wanted { generation, intent })]);
            assert_eq!(reconcile(&held, &wanted, Scope::Whole), [], "{generation} {intent:?}");
        }
    }

    #[test]
    fn ends_come_before_starts() {
        let held = BTreeMap::from([(id(9), Held { generation: 1, hold: Hold::Live })]);
        let wanted = BTreeMap::from([(id(1), Wanted { generation: 1, intent: Intent::Run })]);
        assert_eq!(reconcile(&held, &wanted, Scope::Whole), [Action::StopUnwanted(id(9)), Action::Start(id(1))]);
    }
}
