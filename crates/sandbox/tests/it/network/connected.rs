//! What a connected machine is promised, by frames of its own card; of every driver of machines.

use std::net::UdpSocket;

use casemate_sandbox::{Demand, network::Network};

use super::world::{NEVER, OUTSIDE, PATIENCE, World, allowing, traces, within};
use crate::{
    conformance::{Startup, Subject},
    guest::Line,
};

/// The driver of `subject` gets its links from `network`, which is a part of `world`.
pub(crate) async fn a_connected_machine_reaches_whom_it_may(subject: &Subject, world: &World, network: &Network) {
    let empty = traces(world);
    let (driver, mut plan) = (&*subject.driver, subject.new_plan());
    plan.demands.push(Demand::Network);
    let link = network.attach(&plan.id, &allowing(&["203.0.113.2:udp/9000"])).unwrap();
    driver.prepare(&plan, &Startup).await.unwrap();
    assert_eq!(driver.start(&plan).await.unwrap().jail.capabilities, 0);
    assert_eq!(traces(world).1.len(), 1);
    let mut line = Line::connect(driver, &plan.id).await;
    assert_eq!(line.ask(&format!("net {} {}", link.instance4, link.node4)).await, "up");

    let listening = |port: u16| within(&world.outside, || UdpSocket::bind(("0.0.0.0", port)).unwrap());
    let (heard, unheard) = (listening(9000), listening(9001));
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    unheard.set_nonblocking(true).unwrap();
    let node = link.node4.to_string();
    for (address, port) in [(OUTSIDE[0], 9001), (NEVER[0], 9000), (NEVER[1], 9000), (node.as_str(), 9000)] {
        assert_eq!(line.ask(&format!("send {address} {port} no")).await, "sent");
    }
    assert_eq!(line.ask(&format!("send {} 9000 yes", OUTSIDE[0])).await, "sent");
    let mut word = [0; 32];
    let length = heard.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"yes", "nothing before it arrived");
    assert!(unheard.recv(&mut word).is_err());
    let dropped = network.statistics(&plan.id).unwrap().send_dropped.packets;
    assert!(dropped >= 3, "{dropped}");

    driver.kill(&plan.id).await.unwrap();
    driver.wait(&plan.id).await.unwrap();
    let evidence = driver.wipe(&plan.id).await.unwrap();
    assert!(evidence.items["network"].verified, "{evidence:?}");
    driver.forget(&plan.id).await.unwrap();
    assert_eq!(traces(world), empty);
    (subject.nothing_left)();
}
