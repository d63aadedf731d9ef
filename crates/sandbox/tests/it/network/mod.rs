//! Real packets through the rules: each forbidden direction is tried, and each allowed one, from inside of instances.

mod connected;
mod containers;
mod machines;
mod names;
mod world;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    num::NonZeroU64,
    time::Instant,
};

use casemate_lifecycle::network::{Policy, Protocol, Published};
use casemate_sandbox::network::{NetworkConfig, NetworkError, Place, make_router};
pub(crate) use world::*;

#[test]
fn an_instance_reaches_what_its_rules_allow_and_nothing_else() {
    let world = World::new();
    let network = world.network();
    let empty = traces(&world);
    world.route_to_instances();
    for port in [8000, 8001] {
        serve(&world.outside, port);
        serve(&world.router, port);
    }
    let published = Published { protocol: Protocol::Tcp, node_port: 8080, port: 80 };
    let open = Policy { published: vec![published], ..allowing(&["0.0.0.0/0", "::/0"]) };
    let open = Instance::new(&network, "open", &open);
    let narrow = Instance::new(&network, "narrow", &allowing(&["203.0.113.2:tcp/8000", "[2001:db8:77::2]:tcp/8000"]));
    let closed = Instance::new(&network, "closed", &Policy::default());
    for instance in [&open, &narrow, &closed] {
        serve(&instance.namespace, 80);
    }

    for outside in OUTSIDE {
        open.may_reach(at(outside, 8001));
        narrow.may_reach(at(outside, 8000));
        narrow.may_not_reach(at(outside, 8001));
        closed.may_not_reach(at(outside, 8000));
    }
    for never in NEVER.iter().chain(&HOST).chain(&GATEWAY) {
        open.may_not_reach(at(never, 8000));
    }
    for node in NODE.map(str::to_owned).into_iter().chain([open.link.node4.to_string(), open.link.node6.to_string()]) {
        open.may_not_reach_the_node(at(&node, 8000));
        // By a published port neither.
        open.may_not_reach_the_node(at(&node, 8080));
        narrow.may_not_reach_the_node(at(&node, 8080));
    }
    for other in [IpAddr::from(closed.link.instance4), closed.link.instance6.into()] {
        open.may_not_reach(SocketAddr::new(other, 80));
    }
    for other in [IpAddr::from(open.link.instance4), open.link.instance6.into()] {
        narrow.may_not_reach(SocketAddr::new(other, 80));
        assert!(!reaches(&world.outside, SocketAddr::new(other, 80), DENIED), "nobody gets in but by a published port");
        assert!(!reaches(&world.router, SocketAddr::new(other, 80), DENIED), "not even the node");
    }
    for node in NODE {
        assert!(reaches(&world.outside, at(node, 8080), PATIENCE), "the published port of {node}");
    }
    nothing_spoofed_leaves(&world, &open);

    let statistics = network.statistics(&open.id).unwrap();
    assert!(
        statistics.sent.packets > 0 && statistics.received.bytes > 0 && statistics.send_dropped.packets > 0,
        "{statistics:?}"
    );
    for instance in [&open, &narrow, &closed] {
        assert!(network.detach(&instance.id).unwrap());
        assert!(!network.detach(&instance.id).unwrap());
    }
    assert_eq!(traces(&world), empty);
}

/// An instance that is root in its namespace can give itself any address. Nothing leaves with one that is not its own.
fn nothing_spoofed_leaves(world: &World, instance: &Instance<'_>) {
    let heard = within(&world.outside, || UdpSocket::bind("[::]:9000").unwrap());
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    let say = |word: &'static [u8], source: &str, to: &str| {
        let (source, to) = (source.to_owned(), at(to, 9000));
        within(&instance.namespace, move || {
            let socket = UdpSocket::bind((source.as_str(), 0)).unwrap();
            socket.send_to(word, to).unwrap();
        });
    };
    let (own4, own6) = (instance.link.instance4.to_string(), instance.link.instance6.to_string());
    let mut word = [0; 16];
    for (own, to) in [(&own4, OUTSIDE[0]), (&own6, OUTSIDE[1])] {
        say(b"own", own, to);
        assert_eq!(heard.recv(&mut word).unwrap(), 3);
    }
    let before = instance.dropped();
    for (spoofed, to) in [("203.0.113.77", OUTSIDE[0]), ("100.127.0.99", OUTSIDE[0]), ("2001:db8:77::77", OUTSIDE[1])] {
        let suffix = if spoofed.contains(':') { "/128 dev eth0 nodad" } else { "/32 dev eth0" };
        ip(&format!("-n {} addr add {spoofed}{suffix}", instance.namespace));
        say(b"spoofed", spoofed, to);
    }
    assert!(instance.dropped() > before);
    let before = instance.dropped();
    ip(&format!("-n {} link set eth0 address 02:00:00:00:00:99", instance.namespace));
    say(b"other hardware", &own4, OUTSIDE[0]);
    ip(&format!("-n {} link set eth0 address {}", instance.namespace, instance.link.mac));
    assert!(instance.dropped() > before);
    // What comes next is what was said last: nothing in between arrived.
    say(b"own again", &own4, OUTSIDE[0]);
    let length = heard.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"own again");
}

#[test]
fn what_an_agent_left_half_way_is_swept() {
    let world = World::new();
    let network = world.network();
    let empty = traces(&world);
    let kept = Instance::new(&network, "kept", &allowing(&["203.0.113.2"]));
    let with_kept = traces(&world);
    serve(&world.outside, 8000);

    for cut in ["link", "record", "rules", "damage"] {
        let lost = Instance::new(&network, cut, &allowing(&["0.0.0.0/0", "example.org"]));
        let record = world.state.path().join(format!("{}.json", lost.id));
        // As if an agent had died in the middle of `attach` or `detach`.
        match cut {
            "link" => ip(&format!("-n {} link del {}", world.router, lost.link.interface)),
            "record" => std::fs::remove_file(&record).unwrap(),
            "damage" => std::fs::write(&record, "{").unwrap(),
            _ => {
                let own = &lost.link.interface;
                ip(&format!("netns exec {} nft delete element inet casemate from {{ {own} : jump from_{own} }}", world.router));
            }
        }
        let again = network.attach(&lost.id, &Policy::default());
        assert!(matches!(again, Err(NetworkError::Attached(_))), "{cut}: {again:?}");
        if cut == "rules" {
            assert!(!reaches(&lost.namespace, at(OUTSIDE[0], 8000), DENIED), "without its rules an instance reaches nothing");
        }
        let keep = BTreeSet::from([kept.id.clone()]);
        match cut {
            // The next agent knows nothing of this one's.
            "record" | "damage" => world.network().sweep(&keep).unwrap(),
            _ => network.sweep(&keep).unwrap(),
        }
        network.detach(&lost.id).unwrap();
        assert_eq!(traces(&world), with_kept, "{cut}");
    }
    assert_eq!(network.attached().unwrap(), BTreeSet::from([kept.id.clone()]));
    kept.may_reach(at(OUTSIDE[0], 8000));
    // The container is gone, and with it the link; the rest goes when it is taken away.
    ip(&format!("netns del {}", kept.namespace));
    network.detach(&kept.id).unwrap();
    assert_eq!(traces(&world), empty);
}

#[test]
fn limits_hold() {
    let world = World::new();
    let network = world.network();
    let limit = NonZeroU64::new;
    let policy = Policy { new_connections_limit: limit(5), send_limit: limit(20_000), ..allowing(&["0.0.0.0/0"]) };
    let instance = Instance::new(&network, "limited", &policy);
    let heard = within(&world.outside, || UdpSocket::bind("0.0.0.0:9000").unwrap());
    heard.set_read_timeout(Some(DENIED)).unwrap();
    // A link that has just come up may lose its first packets.
    serve(&world.outside, 8000);
    instance.may_reach(at(OUTSIDE[0], 8000));

    // One flow: bytes are limited.
    let began = Instant::now();
    within(&instance.namespace, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..400).for_each(|_| drop(socket.send_to(&[0; 1000], at(OUTSIDE[0], 9000))));
    });
    let mut bytes = 0_u64;
    let mut packet = [0; 2000];
    while let Ok(length) = heard.recv(&mut packet) {
        bytes += length as u64;
    }
    // The burst of the limiter comes beside the rate; slowness of this machine only gives it more time.
    let allowed = 20_000 * (began.elapsed().as_secs() + 1) + (128 << 10);
    assert!((50_000..=allowed).contains(&bytes) && bytes < 400_000, "{bytes} of 400000 bytes, {allowed} allowed");

    // Many flows: their number is.
    let dropped = |instance: &Instance<'_>| network.statistics(&instance.id).unwrap().send_dropped.packets;
    let many = Instance::new(&network, "many", &Policy { new_connections_limit: limit(5), ..allowing(&["0.0.0.0/0"]) });
    many.may_reach(at(OUTSIDE[0], 8000));
    within(&many.namespace, || {
        for _ in 0..200 {
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", at(OUTSIDE[0], 9000)).ok();
        }
    });
    assert!(dropped(&many) > 50, "{} of 200 new flows were dropped", dropped(&many));
}

#[test]
fn the_host_stays_as_it_is_and_an_uplink_that_is_missing_is_named() {
    let world = World::new();
    let forwards = || within(&world.host, || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
    let before = forwards();
    let host = Place::named(&world.host).unwrap();
    let mut uplink = world.uplink();
    uplink.interface = "missing0".to_owned();
    let error = make_router(&host, &world.router, &uplink).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("missing0") && text.contains("hint:"), "{text}");

    let network = world.network();
    let _instance = Instance::new(&network, "one", &allowing(&["0.0.0.0/0"]));
    assert_eq!(forwards(), before);
    let rules = within(&world.host, || {
        let output = std::process::Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    assert_eq!(rules, "");
}

#[test]
fn a_port_of_the_node_leads_to_one_instance() {
    let world = World::new();
    let network = world.network();
    let policy = Policy { published: vec!["8080:tcp/80".parse().unwrap()], ..Policy::default() };
    let first = Instance::new(&network, "first", &policy);
    let before = traces(&world);
    let second = "i-second".parse().unwrap();
    let error = network.attach(&second, &policy).unwrap_err();
    assert_eq!(error.to_string(), format!("port 8080 of the node is published by instance {}", first.id));
    assert_eq!(traces(&world), before);
    let forbidden = Policy { egress: vec!["10.0.0.0/8".parse().unwrap()], ..Policy::default() };
    assert!(matches!(network.attach(&second, &forbidden), Err(NetworkError::Policy(_))));
    assert_eq!(traces(&world), before);
}

#[test]
fn a_state_directory_that_cannot_be_is_named() {
    let world = World::new();
    let host = Place::named(&world.host).unwrap();
    let router = make_router(&host, &world.router, &world.uplink()).unwrap();
    let file = world.state.path().join("file");
    std::fs::write(&file, "").unwrap();
    let config = NetworkConfig { state_dir: file.join("below"), host, router, resolvers: vec![] };
    assert!(matches!(casemate_sandbox::network::Network::open(config), Err(NetworkError::Record { .. })));
}
