//! The score card, with a node that says more than it may.

use casemate_api::{
    node::{InstanceReport, Observation, from_node},
    rest::{ScoreCard, ScoreState},
};
use casemate_server::store::Role;

use crate::{
    node::{SoftNode, report},
    platform::Platform,
};

fn said(item: &str, held: bool, seen: &str) -> Observation {
    Observation { item: item.into(), held, seen: seen.into() }
}

#[tokio::test]
async fn a_line_is_held_only_if_its_own_observer_saw_it() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    let tenant = platform.token(Role::Tenant).await;
    let id = tenant.create().await.id;
    session.assignment().await;
    let path = format!("/instances/{id}/score-card");

    let empty: ScoreCard = tenant.get(&path).await.json(200);
    assert!(empty.observed_at_ms.is_none());
    assert!(empty.lines.len() > 30 && empty.lines.iter().all(|line| line.state == ScoreState::NotObserved));

    let observed = [
        said("jail-seccomp", true, "every thread"),
        said("iommu", false, "\u{1b}[31mnone"),
        said("iommu", true, "a second word"),
        // Neither is the node's to say.
        said("tpm-verified", true, "trust me"),
        said("guest-lockdown", true, "trust me"),
        said("no such line", true, ""),
    ];
    let guest = [said("guest-no-swap", true, &"x".repeat(100_000)), said("jail-cgroup", true, "says the guest")];
    let news = InstanceReport {
        observed: observed.to_vec(),
        guest_observed: guest.to_vec(),
        observed_at_ms: 7,
        ..report(&id, "prepared")
    };
    session.send(from_node::Message::Instance(news)).await;
    session.stored().await;

    let card: ScoreCard = tenant.get(&path).await.json(200);
    let line = |name: &str| card.lines.iter().find(|line| line.item == name).unwrap();
    assert_eq!((card.instance.as_str(), card.observed_at_ms, card.lines.len()), (id.as_str(), Some(7), empty.lines.len()));
    assert_eq!((line("jail-seccomp").state, line("jail-seccomp").observer.as_str()), (ScoreState::Held, "agent"));
    assert_eq!((line("iommu").state, line("iommu").seen.as_str()), (ScoreState::Missing, " [31mnone"));
    assert_eq!((line("guest-no-swap").state, line("guest-no-swap").seen.len()), (ScoreState::Held, 200));
    for item in ["tpm-verified", "guest-lockdown", "jail-cgroup"] {
        assert_eq!(line(item).state, ScoreState::NotObserved, "{item}");
    }
    // A later report without observations takes nothing away.
    session.send(from_node::Message::Instance(report(&id, "prepared"))).await;
    session.stored().await;
    assert_eq!(tenant.get(&path).await.json::<ScoreCard>(200), card);

    let stranger = platform.token(Role::Tenant).await;
    assert_eq!(stranger.get(&path).await.status, 404);
}
