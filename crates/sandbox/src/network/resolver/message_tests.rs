use hickory_proto::rr::rdata::CNAME;

use super::*;

fn asked(name: &str, kind: RecordType) -> Question {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    question(&message.to_vec().unwrap(), Way::Datagram).unwrap()
}

fn record(name: &str, data: RData) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), 60, data)
}

fn a(name: &str, address: [u8; 4]) -> Record {
    record(name, RData::A(Ipv4Addr::from(address).into()))
}

fn alias(name: &str, to: &str) -> Record {
    record(name, RData::CNAME(CNAME(Name::from_ascii(to).unwrap())))
}

/// What the server says, and how it is judged.
fn judged(question: &Question, records: Vec<Record>) -> Result<Found, Hostile> {
    judged_as(question, records, |_| {})
}

fn judged_as(question: &Question, records: Vec<Record>, change: impl FnOnce(&mut Message)) -> Result<Found, Hostile> {
    let mut message = Message::response(9, OpCode::Query);
    message.add_query(question.query.clone());
    message.add_answers(records);
    change(&mut message);
    question.judge(9, &message.to_vec().unwrap(), Way::Datagram)
}

#[test]
fn a_question_is_read_and_asked_in_our_own_words() {
    let question = asked("WWW.Example.org.", RecordType::A);
    assert_eq!((question.name.as_str(), question.kind), ("www.example.org", Kind::A));
    let sent = Message::from_vec(&question.ask(9)).unwrap();
    assert_eq!((sent.metadata.id, sent.queries.len()), (9, 1));
    assert_eq!(sent.max_payload(), MAX_MESSAGE);
}

#[test]
fn what_is_no_question_gets_no_answer() {
    let good = asked("example.org.", RecordType::A).ask(1);
    assert!(question(&good, Way::Datagram).is_some());
    assert!(question(&[], Way::Datagram).is_none());
    assert!(question(&[0xff; 40], Way::Datagram).is_none());
    assert!(question(&vec![0; MAX_QUESTION + 1], Way::Datagram).is_none());
    for cut in 0..good.len() {
        // A question without its last, optional part is still one.
        let _ = question(&good[..cut], Way::Datagram);
    }
    let mut response = good.clone();
    response[2] |= 0x80;
    assert!(question(&response, Way::Datagram).is_none(), "a response is no question");
    let mut update = good.clone();
    update[2] = (update[2] & 0x87) | (5 << 3);
    assert!(question(&update, Way::Datagram).is_none(), "an update is no question");
    // A compression pointer to itself.
    let mut circle = good[..12].to_vec();
    circle.extend([0xc0, 12, 0, 1, 0, 1]);
    assert!(question(&circle, Way::Datagram).is_none());
    let two = {
        let mut message = Message::from_vec(&good).unwrap();
        let query = message.queries[0].clone();
        message.add_query(query);
        message.to_vec().unwrap()
    };
    assert!(question(&two, Way::Datagram).is_none(), "two questions");
}

#[test]
fn a_label_with_a_dot_in_it_is_no_name_of_a_rule() {
    let name = Name::from_labels(vec![b"example.org".as_slice(), b"evil".as_slice(), b"net".as_slice()]).unwrap();
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name, RecordType::A));
    assert!(question(&message.to_vec().unwrap(), Way::Datagram).is_none());
}

#[test]
fn addresses_of_the_name_and_its_aliases_are_found() {
    let question = asked("a.example.org.", RecordType::A);
    let records = vec![
        alias("A.example.org.", "b.example.net."),
        a("b.example.net.", [203, 0, 113, 1]),
        a("b.example.net.", [203, 0, 113, 1]),
        a("unasked.example.net.", [203, 0, 113, 66]),
    ];
    let found = judged(&question, records).unwrap();
    assert_eq!(found.addresses, [IpAddr::from([203, 0, 113, 1])]);
    assert_eq!(found.life, Duration::from_secs(60));
    let answer = Message::from_vec(&question.answer(&found)).unwrap();
    assert_eq!((answer.metadata.id, answer.answers.len()), (7, 1));
    assert_eq!(plain_name(&answer.answers[0].name).unwrap(), "a.example.org");
}

#[test]
fn an_answer_that_leads_inside_is_refused_whole() {
    let question = asked("example.org.", RecordType::A);
    for inside in [[10, 0, 0, 1], [169, 254, 169, 254], [127, 0, 0, 1], [100, 64, 0, 1], [0, 0, 0, 0]] {
        let records = vec![a("example.org.", [203, 0, 113, 1]), a("example.org.", inside)];
        assert_eq!(judged(&question, records), Err(Hostile::Forbidden(inside.into())));
    }
    let question = asked("example.org.", RecordType::AAAA);
    for inside in ["::1", "fd00:ec2::254", "::ffff:10.0.0.1", "fe80::1", "64:ff9b::a00:1"] {
        let address: Ipv6Addr = inside.parse().unwrap();
        let records = vec![record("example.org.", RData::AAAA(address.into()))];
        assert_eq!(judged(&question, records), Err(Hostile::Forbidden(address.into())), "{inside}");
    }
}

#[test]
fn hostile_answers_are_refused_by_their_kind() {
    let question = asked("example.org.", RecordType::A);
    let good = || vec![a("example.org.", [203, 0, 113, 1])];
    assert!(judged(&question, good()).is_ok());
    assert_eq!(judged_as(&question, good(), |message| message.metadata.truncation = true), Err(Hostile::Cut));
    assert_eq!(judged_as(&question, good(), |message| message.metadata.id = 8), Err(Hostile::Other));
    assert_eq!(judged_as(&question, good(), |message| message.queries.clear()), Err(Hostile::Other));
    let other = Query::query(Name::from_ascii("example.net.").unwrap(), RecordType::A);
    assert_eq!(judged_as(&question, good(), |message| message.queries = vec![other]), Err(Hostile::Other));
    let failed = judged_as(&question, vec![], |message| message.metadata.response_code = ResponseCode::ServFail);
    assert_eq!(failed, Err(Hostile::Server(ResponseCode::ServFail)));
    let circle = vec![alias("example.org.", "b.org."), alias("b.org.", "example.org.")];
    assert_eq!(judged(&question, circle), Err(Hostile::Aliases));
    let two_ways = vec![alias("example.org.", "b.org."), alias("example.org.", "c.org.")];
    assert_eq!(judged(&question, two_ways), Err(Hostile::Aliases));
    let long = (0..=MAX_ALIASES)
        .map(|n| alias(&if n == 0 { "example.org.".into() } else { format!("n{n}.org.") }, &format!("n{}.org.", n + 1)));
    assert_eq!(judged(&question, long.collect()), Err(Hostile::Aliases));
    let many = |count: u8| (0..count).map(|n| a("example.org.", [203, 0, 113, n])).collect();
    assert_eq!(judged(&question, many(33)), Err(Hostile::TooMany));
    assert_eq!(judged(&question, many(65)), Err(Hostile::TooMany));
    assert_eq!(judged(&question, many(32)).unwrap().addresses.len(), 32);
    assert_eq!(question.judge(9, &vec![0; 1233], Way::Datagram), Err(Hostile::Length));
    assert_eq!(question.judge(9, b"what?", Way::Datagram), Err(Hostile::Garbage));
}

#[test]
fn the_life_of_an_answer_is_bounded() {
    let question = asked("example.org.", RecordType::A);
    for (ttl, life) in [(0, LEAST_LIFE), (300, Duration::from_secs(300)), (u32::MAX, LONGEST_LIFE)] {
        let mut one = a("example.org.", [203, 0, 113, 1]);
        one.ttl = ttl;
        assert_eq!(judged(&question, vec![one]).unwrap().life, life);
    }
}

#[test]
fn a_short_client_gets_what_fits() {
    let question = asked(&format!("{0}.{0}.{0}.{1}.", "a".repeat(63), "b".repeat(59)), RecordType::AAAA);
    let addresses = (0..32).map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])).collect();
    let found = Found { addresses, is_no_name: false, life: LEAST_LIFE };
    assert!(question.answer(&found).len() <= 512, "{}", question.answer(&found).len());
    let long = Question { takes_long_answers: true, ..question };
    let answer = long.answer(&found);
    assert!(answer.len() <= usize::from(MAX_MESSAGE), "{}", answer.len());
    assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 32);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
        let _ = question(&bytes, Way::Datagram);
        let _ = asked("example.org.", RecordType::A).judge(9, &bytes, Way::Datagram);
    }
}
