//! Containers that are connected: the runtime joins a namespace that the agent has given an interface, and has no privilege over it.

use std::sync::Arc;

use casemate_sandbox::{
    Demand, Driver, Plan, Support,
    network::Network,
    oci::{LayerMounts, Runtime},
};

use super::world::*;
use crate::{
    conformance::{Startup, new_id},
    containers::{self, Places},
    guest::Line,
};

async fn a_container_reaches_what_its_rules_allow(runtime: Runtime) {
    let world = World::new();
    let network = Arc::new(world.network());
    let empty = traces(&world);
    for port in [8000, 8001] {
        serve(&world.outside, port);
        serve(&world.router, port);
    }
    let places = Places::new(runtime, LayerMounts::Files);
    let driver = places.driver_with(Some(Arc::clone(&network)));
    assert_eq!(driver.capabilities().features.network, Support::Yes);
    let ids = [new_id(), new_id()];
    let mut lines = Vec::new();
    for id in &ids {
        let plan = Plan { demands: vec![Demand::Network], ..containers::plan(id, &places) };
        network.attach(id, &allowing(&["203.0.113.2:tcp/8000", "[2001:db8:77::2]:tcp/8000", "example.org"])).unwrap();
        driver.prepare(&plan, &Startup).await.unwrap();
        driver.start(&plan).await.unwrap();
        lines.push(Line::connect(&driver, id).await);
    }
    let neighbour = network.link(&ids[1]).unwrap();
    let own = network.link(&ids[0]).unwrap();
    let line = &mut lines[0];
    for outside in OUTSIDE {
        assert_eq!(line.ask(&format!("reach {outside} 8000 20000")).await, "!", "{outside} by {}", runtime.name());
        assert!(line.ask(&format!("reach {outside} 8001")).await.starts_with("errno"), "{outside}");
    }
    for never in NEVER.iter().chain(&HOST).chain(&NODE) {
        assert!(line.ask(&format!("reach {never} 8000")).await.starts_with("errno"), "{never}");
    }
    for inside in [own.node4.to_string(), own.node6.to_string(), neighbour.instance4.to_string(), neighbour.instance6.to_string()]
    {
        assert!(line.ask(&format!("reach {inside} 8000")).await.starts_with("errno"), "{inside}");
    }
    assert_eq!(line.ask("cat /etc/resolv.conf").await, format!("nameserver {}", own.node4));
    if runtime != Runtime::Runsc {
        // Nobody in there can change what it was given, or write packets by hand.
        for attempt in ["raw", "packet", "write /proc/sys/net/ipv4/ip_forward"] {
            assert!(line.ask(&format!("try {attempt}")).await.starts_with("errno"), "{attempt}");
        }
    }
    let sent = network.statistics(&ids[0]).unwrap();
    assert!(sent.sent.packets > 0 && sent.send_dropped.packets > 0, "{sent:?}");
    for id in &ids {
        let evidence = driver.wipe(id).await.unwrap();
        let item = &evidence.items["network"];
        assert!(item.verified && item.method == "removed", "{item:?}");
        assert_eq!(driver.wipe(id).await.unwrap().items["network"], *item, "a second wipe says the same");
        driver.forget(id).await.unwrap();
    }
    assert_eq!(traces(&world), empty);
    places.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_of_runc_reaches_what_its_rules_allow() {
    a_container_reaches_what_its_rules_allow(Runtime::Runc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_of_crun_reaches_what_its_rules_allow() {
    a_container_reaches_what_its_rules_allow(Runtime::Crun).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_of_runsc_reaches_what_its_rules_allow() {
    a_container_reaches_what_its_rules_allow(Runtime::Runsc).await;
}

/// What is asked for and not there is refused before anything is made, or ends the start and leaves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_not_there_is_refused() {
    let places = Places::new(Runtime::Crun, LayerMounts::Files);
    let driver = places.driver_with(None);
    let id = new_id();
    let plan = Plan { demands: vec![Demand::Network], ..containers::plan(&id, &places) };
    let error = driver.prepare(&plan, &Startup).await.unwrap_err().to_string();
    assert!(error.contains("a network") && error.contains("hint:"), "{error}");
    places.assert_nothing_left();

    drop(driver);
    let world = World::new();
    let network: Arc<Network> = Arc::new(world.network());
    let driver = places.driver_with(Some(network));
    let error = driver.prepare(&plan, &Startup).await.unwrap_err();
    assert!(format!("{error:?}").contains("NotAttached"), "{error:?}");
    places.assert_nothing_left();
}
