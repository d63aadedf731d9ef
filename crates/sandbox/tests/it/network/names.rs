//! Rules by name: only what a rule names is found, and only what was found is open.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::CNAME},
};

use super::world::*;

/// A server that says whatever a test wants of a name.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(answers: fn(&str) -> Vec<Record>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let query = question.queries[0].clone();
                let name = query.name().to_ascii();
                seen.lock().unwrap().push(name.clone());
                let mut answer = Message::response(question.metadata.id, OpCode::Query);
                answer.add_query(query);
                answer.add_answers(answers(name.trim_end_matches('.')));
                // Somebody who guesses comes first, with the wrong number.
                let mut guessed = answer.clone();
                guessed.metadata.id = question.metadata.id.wrapping_add(1);
                guessed.answers = vec![a(&name, [198, 51, 100, 66], 60)];
                for message in [guessed, answer] {
                    socket.send_to(&message.to_vec().unwrap(), from).ok();
                }
            }
        });
        Self { address, asked }
    }
}

fn a(name: &str, address: [u8; 4], ttl: u32) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, RData::A(Ipv4Addr::from(address).into()))
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn asked(instance: &Instance<'_>, name: &str) -> (ResponseCode, Vec<IpAddr>) {
    let answer = instance.ask(&question(name)).unwrap_or_else(|| panic!("no answer about {name}"));
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, 77);
    let addresses = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(a) => Some(IpAddr::from(a.0)),
        _ => None,
    });
    (answer.metadata.response_code, addresses.collect())
}

fn world_of_names(name: &str) -> Vec<Record> {
    let alias =
        |to: &str| Record::from_rdata(Name::from_ascii(name).unwrap(), 60, RData::CNAME(CNAME(Name::from_ascii(to).unwrap())));
    match name {
        "www.example.org" => vec![alias("cdn.example.net"), a("cdn.example.net", [203, 0, 113, 2], 60)],
        "rebind.example.org" => vec![a(name, [203, 0, 113, 2], 60), a(name, [169, 254, 169, 254], 60)],
        "host.example.org" => vec![a(name, [192, 0, 2, 99], 60)],
        "circle.example.org" => vec![alias("circle.example.org")],
        "many.example.org" => (0..=64).map(|number| a(name, [198, 51, 100, number], 60)).collect(),
        "foreign.example.org" => vec![a("www.example.org", [203, 0, 113, 2], 60)],
        _ => vec![a(name, [203, 0, 113, 2], 60)],
    }
}

#[test]
fn what_is_found_by_an_allowed_name_is_open_and_nothing_else() {
    let world = World::new();
    let server = Server::new(world_of_names);
    let network = world.network_asking(&[server.address]);
    for port in [8000, 8001] {
        serve(&world.outside, port);
    }
    let instance = Instance::new(&network, "asks", &allowing(&["*.example.org:tcp/8000"]));
    let deaf = Instance::new(&network, "deaf", &allowing(&["198.51.100.0/24"]));
    let (outside, other_port) = (at(OUTSIDE[0], 8000), at(OUTSIDE[0], 8001));

    instance.may_not_reach(outside);
    assert_eq!(asked(&instance, "www.example.net."), (ResponseCode::Refused, vec![]));
    assert_eq!(asked(&instance, "example.org."), (ResponseCode::Refused, vec![]));
    assert_eq!(server.asked.lock().unwrap().len(), 0, "what is not allowed does not leave the node");
    for (hostile, code) in [
        ("rebind.example.org.", ResponseCode::ServFail),
        ("circle.example.org.", ResponseCode::ServFail),
        ("many.example.org.", ResponseCode::ServFail),
        ("foreign.example.org.", ResponseCode::NoError),
    ] {
        assert_eq!(asked(&instance, hostile), (code, vec![]), "{hostile}");
        instance.may_not_reach(outside);
    }
    // The host's own address is public here: it is found, and stays closed.
    assert_eq!(asked(&instance, "host.example.org.").0, ResponseCode::NoError);
    instance.may_not_reach(at(HOST[0], 8000));

    assert_eq!(asked(&instance, "WWW.example.ORG."), (ResponseCode::NoError, vec![OUTSIDE[0].parse().unwrap()]));
    instance.may_reach(outside);
    instance.may_not_reach(other_port);
    deaf.may_not_reach(outside);
    let names = network.statistics(&instance.id).unwrap().names;
    assert_eq!((names.asked, names.refused, names.failed), (8, 2, 3));

    // Who has no rule by name has no resolver either; and nobody has another one.
    let unheard = within(&deaf.namespace, || {
        let socket = UdpSocket::bind((deaf.link.instance4, 0)).unwrap();
        socket.set_read_timeout(Some(DENIED)).unwrap();
        [deaf.link.node4, instance.link.node4].iter().all(|node| {
            socket.send_to(&question("www.example.org."), (*node, 53)).unwrap();
            socket.recv(&mut [0; 512]).is_err()
        })
    });
    assert!(unheard);
}

#[test]
fn an_agent_that_starts_again_answers_those_that_run() {
    let world = World::new();
    let server = Server::new(world_of_names);
    let first = world.network_asking(&[server.address]);
    let id = Instance::new(&first, "adopted", &allowing(&["www.example.org"])).id.clone();
    drop(first);
    let begin = std::time::Instant::now();
    while !traces(&world).1.is_empty() && begin.elapsed() < PATIENCE {
        thread::sleep(std::time::Duration::from_millis(10));
    }
    // The container of the instance was this test's; another one takes its place at the same link.
    let second = world.network_asking(&[server.address]);
    assert_eq!(second.attached().unwrap(), std::collections::BTreeSet::from([id.clone()]));
    let namespace = format!("cmtest-again-{}", unique());
    ip(&format!("netns add {namespace}"));
    second.plug(&id, &casemate_sandbox::network::Place::named(&namespace).unwrap()).unwrap();
    let instance = Instance { network: &second, link: second.link(&id).unwrap(), id, namespace };
    assert_eq!(asked(&instance, "www.example.org.").0, ResponseCode::NoError);
}
