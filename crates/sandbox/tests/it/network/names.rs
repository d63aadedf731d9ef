//! Rules by name: only what a rule names is found, and only what was found is open.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    thread,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::CNAME},
};

use super::world::*;

/// A server that says whatever a test wants of a name. What one datagram does not hold it says over TCP.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    asked_by_tcp: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn new(answers: fn(&str) -> Vec<Record>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(address).unwrap();
        let asked_by_tcp = answer_streams(listener, answers);
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
                if name.starts_with("large") {
                    answer.answers.clear();
                    answer.metadata.truncation = true;
                }
                // Somebody who guesses comes first, with the wrong number.
                let mut guessed = answer.clone();
                guessed.metadata.id = question.metadata.id.wrapping_add(1);
                guessed.answers = vec![a(&name, [198, 51, 100, 66], 60)];
                for message in [guessed, answer] {
                    socket.send_to(&message.to_vec().unwrap(), from).ok();
                }
            }
        });
        Self { address, asked, asked_by_tcp }
    }
}

fn answer_streams(listener: TcpListener, answers: fn(&str) -> Vec<Record>) -> Arc<Mutex<Vec<String>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let question = Message::from_vec(&read_message(&mut stream).unwrap()).unwrap();
            let name = question.queries[0].name().to_ascii();
            seen.lock().unwrap().push(name.clone());
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_query(question.queries[0].clone());
            answer.add_answers(answers(name.trim_end_matches('.')));
            let text = answer.to_vec().unwrap();
            match name.as_str() {
                // More than it has.
                "large-lie.example.org." => stream.write_all(&[0xff, 0xff, 1]).unwrap(),
                _ => write_message(&mut stream, &text),
            }
        }
    });
    asked
}

fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).map(|()| message)
}

fn write_message(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, message].concat()).unwrap();
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
        "large.example.org" => (1..=12).map(|number| a(name, [203, 0, 113, number], 60)).collect(),
        "large-inside.example.org" => vec![a(name, [10, 0, 0, 1], 60)],
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
fn what_one_datagram_does_not_hold_comes_over_tcp() {
    let world = World::new();
    let server = Server::new(world_of_names);
    let network = world.network_asking(&[server.address]);
    serve(&world.outside, 8000);
    let instance = Instance::new(&network, "streams", &allowing(&["*.example.org:tcp/8000"]));
    let deaf = Instance::new(&network, "deaf", &allowing(&["198.51.100.0/24"]));
    let outside = at(OUTSIDE[0], 8000);

    for hostile in ["large-inside.example.org.", "large-lie.example.org."] {
        assert_eq!(asked(&instance, hostile), (ResponseCode::ServFail, vec![]), "{hostile}");
    }
    instance.may_not_reach(outside);
    // The instance's own datagram holds some of them, and is told that there are more.
    let answer = Message::from_vec(&instance.ask(&question("large.example.org.")).unwrap()).unwrap();
    assert!(answer.metadata.truncation && answer.answers.len() == 8, "{answer:?}");
    instance.may_reach(outside);
    let expected = ["large-inside.example.org.", "large-lie.example.org.", "large.example.org."];
    assert_eq!(*server.asked_by_tcp.lock().unwrap(), expected, "what was found is remembered");

    let node = SocketAddr::new(instance.link.node4.into(), 53);
    let answers = within(&instance.namespace, || {
        let mut stream = TcpStream::connect_timeout(&node, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Several questions over one connection.
        ["large.example.org.", "example.net."].map(|name| {
            write_message(&mut stream, &question(name));
            Message::from_vec(&read_message(&mut stream).unwrap()).unwrap()
        })
    });
    assert!(!answers[0].metadata.truncation && answers[0].answers.len() == 12, "{:?}", answers[0]);
    assert_eq!(answers[1].metadata.response_code, ResponseCode::Refused);

    // What is no question ends the connection, and only that.
    within(&instance.namespace, || {
        let mut stream = TcpStream::connect_timeout(&node, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write_message(&mut stream, &[0xff; 40]);
        assert!(read_message(&mut stream).is_err());
    });
    assert_eq!(asked(&instance, "www.example.org.").0, ResponseCode::NoError);
    // Who has no rule by name has no resolver over TCP either, and nobody has another's.
    let unheard = within(&deaf.namespace, || {
        [deaf.link.node4, instance.link.node4]
            .iter()
            .all(|node| TcpStream::connect_timeout(&SocketAddr::new((*node).into(), 53), DENIED).is_err())
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
