//! How long a node's quote, firmware log and IMA list take, on one core, beside the cryptography that they cannot do without:
//! `cargo bench -p casemate-verifier --bench node`.

#![allow(clippy::unwrap_used)]

mod raw;

use std::{collections::BTreeMap, hint::black_box};

use casemate_evidence::{
    eventlog::{Event, EventLog, EventType, LogRef},
    ima::{Format, Reader},
    tpm::{
        Attest, AttestBody, ClockInfo, Curve, Digest, HashAlg, KeyScheme, ObjectAttributes, PcrSelection, Public, PublicParams,
        Signature, Symmetric,
    },
};
use casemate_verifier::{
    boot::{BootPolicy, CommandLineRule, DigestRule, MokRule, SecureBootRule, appraise_boot},
    ima::{BootAggregateRule, FileDigest, ImaPolicy, ImaState, appraise_ima},
    quote::{AttestationKey, BankValues},
};
use p256::ecdsa::{SigningKey, signature::Signer as _};
use raw::{Signed, compare};

const ROUNDS: usize = 500;
const EVENTS: u32 = 125;
const ENTRIES: usize = 780;
const NEW_ENTRIES: usize = 10;
const BANK: HashAlg = HashAlg::Sha256;

fn main() {
    let node = Node::new();
    let full = node.quote(ENTRIES);
    let raw_full = || {
        Node::raw_quote(&full);
        raw_log(&node.log);
        raw_ima(&node.ima);
    };
    compare(&format!("quote, {EVENTS} events, {ENTRIES} IMA entries"), ROUNDS, raw_full, || node.full(&full));

    let state = node.state_after(ENTRIES - NEW_ENTRIES);
    let from = usize::try_from(state.offset()).unwrap();
    let raw_more = || {
        Node::raw_quote(&full);
        raw_ima(&node.ima[from..]);
    };
    compare(&format!("quote, {NEW_ENTRIES} more IMA entries"), ROUNDS, raw_more, || node.more(&full, &state, from));
}

struct Node {
    signer: SigningKey,
    log: Vec<u8>,
    ima: Vec<u8>,
    boot: BootPolicy,
    files: ImaPolicy,
}

struct Quote {
    attest: Vec<u8>,
    signature: Vec<u8>,
    selection: PcrSelection,
    listed: BankValues,
    signed: Signed,
}

impl Node {
    fn new() -> Self {
        let names: Vec<String> = (0..ENTRIES).map(|index| format!("/usr/lib/x86_64-linux-gnu/library-{index}.so.1")).collect();
        let known = |name: &String| {
            let digest = BANK.digest(&[name.as_bytes()]);
            (name.clone(), vec![FileDigest { kind: Default::default(), alg: BANK, digest }])
        };
        let files = ImaPolicy {
            allowed: names.iter().map(known).collect(),
            boot_aggregate: BootAggregateRule::DangerAny,
            ..ImaPolicy::strict()
        };
        let boot = BootPolicy {
            secure_boot: SecureBootRule::DangerAny,
            authorities: DigestRule::DangerAny,
            min_dbx_entries: 0,
            command_lines: CommandLineRule::DangerAny,
            shim: MokRule::DangerAny,
            ..BootPolicy::strict()
        };
        let ima = names.iter().flat_map(|name| record(name)).collect();
        Self { signer: SigningKey::from_slice(&[7; 32]).unwrap(), log: log(), ima, boot, files }
    }

    fn quote(&self, entries: usize) -> Quote {
        let mut values = LogRef::parse(&self.log).unwrap().replay(BANK);
        let mut reader = Reader::new(&self.ima, Format::Binary(HashAlg::Sha1));
        let mut pcr = Digest::zero(BANK);
        for _ in 0..entries {
            pcr = pcr.extended(BANK, reader.next_entry().unwrap().unwrap().template_digest(BANK).as_slice());
        }
        values.insert(10, pcr);
        let selection = PcrSelection { hash: BANK, pcrs: values.keys().copied().collect() };
        let parts: Vec<&[u8]> = values.values().map(Digest::as_slice).collect();
        let body = AttestBody::Quote { selections: vec![selection.clone()], pcr_digest: BANK.digest(&parts).as_slice().to_vec() };
        let clock = ClockInfo { clock_ms: 1, reset_count: 0, restart_count: 0, safe: true };
        let attest = Attest { qualified_signer: vec![], extra_data: vec![5; 32], clock, firmware_version: 0, body };
        let attest = attest.encode().unwrap();
        let signature: p256::ecdsa::Signature = self.signer.sign(&attest);
        let (r, s) = signature.split_bytes();
        let point = self.signer.verifying_key().to_sec1_point(false);
        let signed = Signed::p256(point.as_bytes(), &attest, &signature.to_bytes());
        let signature = Signature::Ecdsa { hash: BANK, r: r.to_vec(), s: s.to_vec() }.encode();
        Quote { attest, signature, selection, listed: BTreeMap::from([(BANK, values)]), signed }
    }

    fn public(&self) -> Vec<u8> {
        let point = self.signer.verifying_key().to_sec1_point(false);
        let params = PublicParams::Ecc {
            symmetric: Symmetric::Null,
            scheme: KeyScheme::Ecdsa(BANK),
            curve: Curve::P256,
            x: point.x().unwrap().to_vec(),
            y: point.y().unwrap().to_vec(),
        };
        Public { name_alg: BANK, attributes: ObjectAttributes::ATTESTATION_KEY, auth_policy: vec![], params }.encode()
    }

    fn quoted(&self, quote: &Quote) -> casemate_verifier::quote::QuotedBanks {
        let key = AttestationKey::from_public(&self.public()).unwrap();
        let authentic = key.quote(&quote.attest, &quote.signature).unwrap();
        assert!(authentic.is_for(&[5; 32]));
        authentic.banks(std::slice::from_ref(&quote.selection), &quote.listed).unwrap()
    }

    fn full(&self, quote: &Quote) {
        let quoted = self.quoted(quote);
        assert_eq!(appraise_boot(&self.log, &quoted, &self.boot).failed(), None);
        let format = Format::Binary(HashAlg::Sha1);
        assert_eq!(appraise_ima(&self.ima, format, &ImaState::start(BANK), &quoted, &self.files).failed(), None);
    }

    fn more(&self, quote: &Quote, state: &ImaState, from: usize) {
        let quoted = self.quoted(quote);
        let format = Format::Binary(HashAlg::Sha1);
        assert_eq!(appraise_ima(&self.ima[from..], format, state, &quoted, &self.files).failed(), None);
    }

    fn state_after(&self, entries: usize) -> ImaState {
        let quoted = self.quoted(&self.quote(entries));
        let appraised = appraise_ima(&self.ima, Format::Binary(HashAlg::Sha1), &ImaState::start(BANK), &quoted, &self.files);
        appraised.verified().unwrap().state().clone()
    }

    /// One signature, and the digest of the listed values.
    fn raw_quote(quote: &Quote) {
        quote.signed.verify();
        let parts: Vec<&[u8]> = quote.listed[&BANK].values().map(Digest::as_slice).collect();
        black_box(BANK.digest(&parts));
    }
}

/// Each event extended, and the digest of each variable again.
fn raw_log(log: &[u8]) {
    let mut pcr = Digest::zero(BANK);
    for event in &LogRef::parse(log).unwrap().events {
        pcr = pcr.extended(BANK, event.measured(BANK).unwrap());
        if event.kind == EventType::EFI_VARIABLE_DRIVER_CONFIG {
            black_box(BANK.digest(&[event.data]));
        }
    }
    black_box(pcr);
}

/// The list's own digest of each entry, the bank's, and the extension.
fn raw_ima(list: &[u8]) {
    let mut reader = Reader::new(list, Format::Binary(HashAlg::Sha1));
    let mut pcr = Digest::zero(BANK);
    while let Some(entry) = reader.next_entry().unwrap() {
        black_box(HashAlg::Sha1.digest(&[entry.data()]));
        pcr = pcr.extended(BANK, BANK.digest(&[entry.data()]).as_slice());
    }
    black_box(pcr);
}

/// As many events as a machine with secure boot and GRUB has, with variables as large as theirs.
fn log() -> Vec<u8> {
    let mut log = EventLog::sha256();
    let variable = |name: &str, value: &[u8]| {
        let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let len = |count: usize| u64::try_from(count).unwrap().to_le_bytes();
        let guid = [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];
        [&guid[..], &len(units.len() / 2), &len(value.len()), &units, value].concat()
    };
    for (name, size) in [("db", 5014), ("dbx", 25_078)] {
        let count = u32::try_from((size - 28) / 48).unwrap();
        let head = [&[1; 16][..], &(28 + 48 * count).to_le_bytes(), &[0; 4], &48u32.to_le_bytes()].concat();
        let value = [head, vec![7; 48 * usize::try_from(count).unwrap()]].concat();
        log.events.push(Event::of_data(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, variable(name, &value)));
    }
    log.events.extend((0..8).map(|pcr| Event::of_data(pcr, EventType::SEPARATOR, [0; 4])));
    while log.events.len() < usize::try_from(EVENTS).unwrap() {
        let text = format!("grub_cmd: insmod module-{}\0", log.events.len());
        log.events.push(Event::of_digest(8, EventType::IPL, [0x88; 32], text));
    }
    log.encode()
}

/// An `ima-ng` record whose file has the digest of its name.
fn record(name: &str) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
    let digest = BANK.digest(&[name.as_bytes()]);
    let data = [sized(&[b"sha256:\0", digest.as_slice()].concat()), sized(&[name.as_bytes(), b"\0"].concat())].concat();
    [&10u32.to_le_bytes()[..], HashAlg::Sha1.digest(&[&data]).as_slice(), &sized(b"ima-ng"), &sized(&data)].concat()
}
