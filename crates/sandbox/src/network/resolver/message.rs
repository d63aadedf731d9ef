//! The messages of the resolver: what an instance asks, what the network answers. Pure; the parser is a kept library's, the judgement ours.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use casemate_lifecycle::network::is_forbidden;
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
};

/// Largest message of either side, as the flag day of 2020 recommends: it crosses every network in one piece.
pub(super) const MAX_MESSAGE: u16 = 1232;
/// Largest answer over TCP: all records that are taken, each with the longest name.
pub(super) const MAX_LONG_MESSAGE: usize = 32 << 10;
/// Largest question; it has one name.
pub(super) const MAX_QUESTION: usize = 512;
/// Most records of an answer, of whatever kind.
const MAX_RECORDS: usize = 64;
/// Most addresses of an answer.
const MAX_ADDRESSES: usize = 32;
/// Most of them that fit into 512 bytes with the longest name, for clients without EDNS; they are told that there are more.
const MAX_SHORT: usize = 8;
/// Most aliases between a name and its addresses.
const MAX_ALIASES: usize = 8;
/// How long an answer is believed.
const LEAST_LIFE: Duration = Duration::from_secs(5);
const LONGEST_LIFE: Duration = Duration::from_secs(3600);

/// What an instance asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    id: u16,
    query: Query,
    /// In lower case, without the last dot.
    pub(super) name: String,
    pub(super) kind: Kind,
    wants_recursion: bool,
    takes_long_answers: bool,
    way: Way,
}

/// How messages come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// UDP.
    Datagram,
    /// TCP.
    Stream,
}

/// What is asked about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    A,
    Aaaa,
    /// Of which there is nothing here: only addresses can be opened.
    Other,
}

/// What of an answer did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    None,
    OverTcp,
}

/// What is known about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    /// There is no such name, instead of no such address.
    pub(super) is_no_name: bool,
    pub(super) life: Duration,
}

/// Why the network's answer is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Hostile {
    #[error("it is no DNS message")]
    Garbage,
    #[error("it answers something else")]
    Other,
    #[error("it is longer than {MAX_MESSAGE} bytes, or {MAX_LONG_MESSAGE} over TCP")]
    Length,
    #[error("it is cut off")]
    Cut,
    #[error("it has more than {MAX_RECORDS} records or {MAX_ADDRESSES} addresses")]
    TooMany,
    #[error("its aliases go in a circle, or on for more than {MAX_ALIASES}")]
    Aliases,
    #[error("it has {0}, which no instance may reach")]
    Forbidden(IpAddr),
    #[error("the server failed: {0}")]
    Server(ResponseCode),
}

/// What is asked in a message; `None` is not worth an answer.
pub(super) fn question(bytes: &[u8], way: Way) -> Option<Question> {
    if bytes.len() > MAX_QUESTION {
        return None;
    }
    let message = Message::from_vec(bytes).ok()?;
    let meta = &message.metadata;
    let [query] = message.queries.as_slice() else { return None };
    let plain = meta.message_type == MessageType::Query && meta.op_code == OpCode::Query && message.answers.is_empty();
    if !plain || query.query_class() != DNSClass::IN {
        return None;
    }
    let kind = match query.query_type() {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        _ => Kind::Other,
    };
    Some(Question {
        id: meta.id,
        name: plain_name(query.name())?,
        query: query.clone(),
        kind,
        wants_recursion: meta.recursion_desired,
        takes_long_answers: message.edns.as_ref().is_some_and(|edns| edns.max_payload() >= MAX_MESSAGE),
        way,
    })
}

/// As rules write names; `None` where a label has a byte that none of them has, such as a dot.
fn plain_name(name: &Name) -> Option<String> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let labels: Option<Vec<String>> =
        name.iter().map(|label| label.iter().all(plain).then(|| String::from_utf8_lossy(label).to_ascii_lowercase())).collect();
    labels.filter(|labels| !labels.is_empty()).map(|labels| labels.join("."))
}

impl Question {
    /// The same question in our own words, for a server; nothing else of the instance's message leaves the node.
    pub(super) fn ask(&self, id: u16) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_MESSAGE);
        message.set_edns(edns);
        message.to_vec().expect("it has one name, which was read from a message")
    }

    /// What a server's message says. `Err(Hostile::Other)` may be somebody else's, by UDP: the true answer can still come.
    pub(super) fn judge(&self, id: u16, bytes: &[u8], way: Way) -> Result<Found, Hostile> {
        let most = match way {
            Way::Datagram => usize::from(MAX_MESSAGE),
            Way::Stream => MAX_LONG_MESSAGE,
        };
        if bytes.len() > most {
            return Err(Hostile::Length);
        }
        let message = Message::from_vec(bytes).map_err(|_| Hostile::Garbage)?;
        let meta = &message.metadata;
        let answers_this = meta.id == id
            && meta.message_type == MessageType::Response
            && meta.op_code == OpCode::Query
            && message.queries.as_slice() == [self.query.clone()];
        if !answers_this {
            return Err(Hostile::Other);
        }
        if meta.truncation {
            return Err(Hostile::Cut);
        }
        match meta.response_code {
            ResponseCode::NoError => self.addresses(&message.answers),
            ResponseCode::NXDomain => Ok(Found { addresses: Vec::new(), is_no_name: true, life: LEAST_LIFE }),
            code => Err(Hostile::Server(code)),
        }
    }

    /// Only what belongs to the name that was asked for, or to its aliases.
    fn addresses(&self, answers: &[Record]) -> Result<Found, Hostile> {
        if answers.len() > MAX_RECORDS {
            return Err(Hostile::TooMany);
        }
        let mut aliases: BTreeMap<Name, (Name, u32)> = BTreeMap::new();
        for record in answers {
            let RData::CNAME(alias) = &record.data else { continue };
            if aliases.insert(record.name.to_lowercase(), (alias.0.to_lowercase(), record.ttl)).is_some() {
                return Err(Hostile::Aliases);
            }
        }
        let (mut owner, mut ttl) = (self.query.name().to_lowercase(), u32::MAX);
        let mut followed = 0;
        while let Some((next, life)) = aliases.get(&owner) {
            (owner, ttl) = (next.clone(), ttl.min(*life));
            followed += 1;
            if followed > MAX_ALIASES {
                return Err(Hostile::Aliases);
            }
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for record in answers.iter().filter(|record| record.name.to_lowercase() == owner && record.dns_class == DNSClass::IN) {
            let address = match (&record.data, self.kind) {
                (RData::A(found), Kind::A) => IpAddr::V4(found.0),
                (RData::AAAA(found), Kind::Aaaa) => IpAddr::V6(found.0),
                _ => continue,
            };
            // A name of the outside that leads inside is an attack, or a mistake that looks like one.
            if is_forbidden(address) {
                return Err(Hostile::Forbidden(address));
            }
            ttl = ttl.min(record.ttl);
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(Hostile::TooMany);
        }
        let life =
            if addresses.is_empty() { LEAST_LIFE } else { Duration::from_secs(ttl.into()).clamp(LEAST_LIFE, LONGEST_LIFE) };
        Ok(Found { addresses, is_no_name: false, life })
    }

    /// The answer to the instance, with nothing in it that we did not write.
    pub(super) fn answer(&self, found: &Found) -> Vec<u8> {
        let code = if found.is_no_name { ResponseCode::NXDomain } else { ResponseCode::NoError };
        let long = self.takes_long_answers || self.way == Way::Stream;
        let most = if long { MAX_ADDRESSES } else { MAX_SHORT };
        let ttl = u32::try_from(found.life.as_secs()).unwrap_or(u32::MAX);
        let records = found.addresses.iter().take(most).map(|address| {
            let data = match address {
                IpAddr::V4(v4) => RData::A(Ipv4Addr::into(*v4)),
                IpAddr::V6(v6) => RData::AAAA(Ipv6Addr::into(*v6)),
            };
            Record::from_rdata(self.query.name().clone(), ttl, data)
        });
        let rest = if found.addresses.len() > most { Rest::OverTcp } else { Rest::None };
        self.respond(code, records.collect(), rest)
    }

    /// No rule allows the name.
    pub(super) fn refuse(&self) -> Vec<u8> {
        self.respond(ResponseCode::Refused, Vec::new(), Rest::None)
    }

    /// There is no answer that could be passed on.
    pub(super) fn fail(&self) -> Vec<u8> {
        self.respond(ResponseCode::ServFail, Vec::new(), Rest::None)
    }

    fn respond(&self, code: ResponseCode, records: Vec<Record>, rest: Rest) -> Vec<u8> {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.truncation = rest == Rest::OverTcp;
        message.metadata.recursion_desired = self.wants_recursion;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        message.add_answers(records);
        if self.takes_long_answers {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_MESSAGE);
            message.set_edns(edns);
        }
        message.to_vec().expect("it has names and addresses that were read from messages")
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
