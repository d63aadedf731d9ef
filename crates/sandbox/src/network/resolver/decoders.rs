//! The resolver's decoders, for fuzzing. What they promise of any bytes is asserted.

use casemate_lifecycle::network::is_forbidden;
use hickory_proto::op::{Message, Query};

use super::message::{self, Kind, MAX_LONG_MESSAGE, MAX_MESSAGE, Question, Way};

/// A question of an instance, and all that is said back.
pub(in crate::network) fn question(bytes: &[u8]) {
    for way in [Way::Datagram, Way::Stream] {
        let Some(question) = message::question(bytes, way) else { continue };
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
        assert!(question.name.bytes().all(plain), "{:?}", question.name);
        for answer in [question.refuse(), question.fail(), question.ask(7)] {
            assert!(answer.len() <= 512, "{} bytes", answer.len());
            Message::from_vec(&answer).expect("what we write can be read");
        }
    }
}

/// A server's answer to a fixed question, under the number that it has itself, so that what lies behind that check is reached.
pub(in crate::network) fn answer(bytes: &[u8]) {
    let id = bytes.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
    for (question, way) in questions().iter().flat_map(|question| [Way::Datagram, Way::Stream].map(|way| (question, way))) {
        let Ok(found) = question.judge(id, bytes, way) else { continue };
        for address in &found.addresses {
            assert!(!is_forbidden(*address) && address.is_ipv4() == (question.kind == Kind::A), "{address}");
        }
        let answer = question.answer(&found);
        let most = if way == Way::Stream { MAX_LONG_MESSAGE } else { usize::from(MAX_MESSAGE) };
        assert!(answer.len() <= most, "{} bytes", answer.len());
        Message::from_vec(&answer).expect("what we write can be read");
    }
}

fn questions() -> [Question; 2] {
    use hickory_proto::{
        op::{MessageType, OpCode},
        rr::{Name, RecordType},
    };
    [RecordType::A, RecordType::AAAA].map(|kind| {
        let mut message = Message::new(0, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("www.example.org.").expect("a name"), kind));
        let bytes = message.to_vec().expect("a message with one name");
        message::question(&bytes, Way::Datagram).expect("a question")
    })
}
