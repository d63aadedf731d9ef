//! The other end of a machine's network card: a descriptor, by which frames of a guest come that may hold anything.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    sync::Arc,
};

use casemate_lifecycle::network::Policy;
use casemate_sandbox::{Demand, Plan, network::Link};

use super::{connected, world::*};
use crate::{
    conformance::{Startup, new_id},
    guest::Line,
    monitors,
    places::field,
    qemu,
};

/// A datagram as a guest's card sends it: a header of virtio that asks for nothing, Ethernet, IPv4, UDP without a checksum.
fn frame(from_mac: [u8; 6], to_mac: [u8; 6], from: Ipv4Addr, to: Ipv4Addr, word: &[u8]) -> Vec<u8> {
    let length = u16::try_from(28 + word.len()).unwrap();
    let mut ip = [0x45, 0, 0, 0, 0, 7, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    ip[2..4].copy_from_slice(&length.to_be_bytes());
    ip[12..16].copy_from_slice(&from.octets());
    ip[16..20].copy_from_slice(&to.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = [5000_u16, 9000, length - 20, 0].map(u16::to_be_bytes).concat();
    [&[0; 10][..], &to_mac, &from_mac, &[8, 0], &ip, &udp, word].concat()
}

/// Hardware address of the node's end.
fn node_mac(world: &World, link: &Link) -> [u8; 6] {
    let output = Command::new("ip").args(["-n", &world.router, "-j", "link", "show", &link.interface]).output().unwrap();
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes: Vec<u8> = hex::decode(told[0]["address"].as_str().unwrap().replace(':', "")).unwrap();
    bytes.try_into().unwrap()
}

#[test]
fn of_a_machines_frames_only_its_own_and_allowed_ones_leave() {
    let world = World::new();
    let network = world.network();
    let empty = traces(&world);
    let id = new_id();
    let link = network.attach(&id, &allowing(&["203.0.113.2:udp/9000"])).unwrap();
    let neighbour = Instance::new(&network, "neighbour", &Policy::default());
    let mut card = File::from(network.plug_machine(&id).unwrap());
    let heard = within(&world.outside, || UdpSocket::bind("0.0.0.0:9000").unwrap());
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    let at_neighbour = within(&neighbour.namespace, || UdpSocket::bind("0.0.0.0:9000").unwrap());
    at_neighbour.set_nonblocking(true).unwrap();

    let (node, outside) = (node_mac(&world, &link), OUTSIDE[0].parse().unwrap());
    let mut send = |from_mac, from, to, word: &[u8]| card.write_all(&frame(from_mac, node, from, to, word)).unwrap();
    let own_mac = link.mac.bytes();
    let mut word = [0; 32];
    send(own_mac, link.instance4, outside, b"own");
    assert_eq!(heard.recv(&mut word).unwrap(), 3);
    send([2, 0, 0, 0, 0, 9], link.instance4, outside, b"other card");
    send(own_mac, neighbour.link.instance4, outside, b"as the neighbour");
    send(own_mac, NODE[0].parse().unwrap(), outside, b"as the node");
    send(own_mac, link.instance4, neighbour.link.instance4, b"to the neighbour");
    send(own_mac, link.instance4, "10.9.9.9".parse().unwrap(), b"to a private network");
    send(own_mac, link.instance4, link.node4, b"to the node");
    // Not even a frame.
    card.write_all(&[0; 24]).ok();
    card.write_all(&[0xff; 600]).ok();
    let mut send = |from_mac, from, to, word: &[u8]| card.write_all(&frame(from_mac, node, from, to, word)).unwrap();
    send(own_mac, link.instance4, outside, b"own again");
    let length = heard.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"own again", "nothing in between arrived");
    assert!(at_neighbour.recv(&mut word).is_err());
    let dropped = network.statistics(&id).unwrap().send_dropped.packets;
    // The kernel itself drops what comes with the node's own address.
    assert!(dropped >= 3, "{dropped}");

    // The interface ends with the machine; what guarded it is taken away.
    drop(card);
    network.detach(&id).unwrap();
    network.detach(&neighbour.id).unwrap();
    assert_eq!(traces(&world), empty);
}

/// A machine's jail has no device by which it could make itself another connection, and its guest's frames go where they may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_connected_for_as_long_as_it_runs() {
    let world = World::new();
    let network = Arc::new(world.network());
    let bench = qemu::bench_with(Some(Arc::clone(&network)));
    connected::a_connected_machine_reaches_whom_it_may(&bench.subject, &world, &network).await;
    let plan = Plan { demands: vec![Demand::Vtpm, Demand::Network], ..bench.subject.new_plan() };
    network.attach(&plan.id, &Policy::default()).unwrap();
    bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
    bench.subject.driver.start(&plan).await.unwrap();
    for status in bench.places.processes() {
        let pid = field(&status, "Pid");
        assert!(!fs::exists(format!("/proc/{pid}/root/dev/net")).unwrap_or_default());
    }
    bench.end(&plan).await;
}

/// These open their card themselves, in a namespace of their own with nothing in it but a way for frames.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_monitor_with_an_api_has_a_card_and_nothing_else() {
    for monitor in monitors::BOTH {
        let world = World::new();
        let network = Arc::new(world.network());
        let empty = traces(&world);
        let bench = monitors::bench_with(monitor, "", Some(Arc::clone(&network)));
        let (driver, mut plan) = (&*bench.subject.driver, bench.subject.new_plan());
        plan.demands.push(Demand::Network);
        let link = network.attach(&plan.id, &allowing(&["203.0.113.2:udp/9000"])).unwrap();
        driver.prepare(&plan, &Startup).await.unwrap();
        assert_eq!(driver.start(&plan).await.unwrap().jail.capabilities, 0);
        let mut line = Line::connect(driver, &plan.id).await;

        let heard = within(&world.outside, || UdpSocket::bind("0.0.0.0:9000").unwrap());
        heard.set_read_timeout(Some(PATIENCE)).unwrap();
        let (node, outside) = (node_mac(&world, &link), OUTSIDE[0].parse().unwrap());
        let own = link.mac.bytes();
        // The played monitor puts a header of its own in front.
        let order = |mac, from, to, word: &[u8]| format!("frame {}", hex::encode(&frame(mac, node, from, to, word)[10..]));
        for order in [
            order(own, link.instance4, "10.9.9.9".parse().unwrap(), b"to a private network"),
            order(own, "100.127.3.3".parse().unwrap(), outside, b"as somebody else"),
            order([2, 0, 0, 0, 0, 9], link.instance4, outside, b"other card"),
            order(own, link.instance4, outside, b"own"),
        ] {
            assert_eq!(line.ask(&order).await, "sent", "{monitor:?}");
        }
        let mut word = [0; 32];
        let length = heard.recv(&mut word).unwrap();
        assert_eq!(&word[..length], b"own", "{monitor:?}: nothing before it arrived");
        // Another card is beyond its privileges, also where it can open the device.
        assert_ne!(line.ask("card tap1").await, "opened", "{monitor:?}");

        driver.kill(&plan.id).await.unwrap();
        driver.wait(&plan.id).await.unwrap();
        let evidence = driver.wipe(&plan.id).await.unwrap();
        assert!(evidence.items["network"].verified, "{monitor:?}: {evidence:?}");
        driver.forget(&plan.id).await.unwrap();
        assert_eq!(traces(&world), empty);
        bench.places.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_the_monitor_did_not_take_is_missed() {
    let world = World::new();
    let network = Arc::new(world.network());
    let bench = monitors::bench_with(monitors::Monitor::CloudHypervisor, "forgets-net", Some(Arc::clone(&network)));
    let (driver, mut plan) = (&*bench.subject.driver, bench.subject.new_plan());
    plan.demands.push(Demand::Network);
    network.attach(&plan.id, &Policy::default()).unwrap();
    driver.prepare(&plan, &Startup).await.unwrap();
    let refused = driver.start(&plan).await.unwrap_err().to_string();
    assert!(refused.contains("did not take net as asked"), "{refused}");
    bench.end(&plan).await;
}
