//! Reference values as CoRIM: the same values come back, and nothing else is believed.

use casemate_verifier::{
    CborError, ReferenceValues, UnixTime,
    corim::{CorimError, CorimMeta, MAX_CORIM, sign_corim, verify_corim},
};
use ciborium::Value;
use ed25519_dalek::{Signer as _, SigningKey};

use crate::{
    references::{full, of},
    world::{NOW, reference_key},
};

fn values() -> ReferenceValues {
    of(&full()).unwrap()
}

fn meta() -> CorimMeta {
    CorimMeta {
        id: "casemate reference values 1".into(),
        signer: "Casemate".into(),
        not_before: UnixTime(NOW.0 - 10),
        not_after: UnixTime(NOW.0 + 10),
    }
}

fn corim() -> Vec<u8> {
    sign_corim(&values(), &meta(), &reference_key())
}

fn read(bytes: &[u8]) -> Result<ReferenceValues, CorimError> {
    verify_corim(bytes, &reference_key().verifying_key().to_bytes(), NOW)
}

fn decode(bytes: &[u8]) -> Value {
    ciborium::from_reader(bytes).unwrap()
}

fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn parts(bytes: &[u8]) -> Vec<Value> {
    let Value::Tag(18, inner) = decode(bytes) else { panic!("COSE_Sign1 is tagged") };
    inner.into_array().unwrap()
}

/// A message with other headers or another payload, by the right key.
fn signed(protected: &Value, payload: &Value) -> Vec<u8> {
    let (protected, payload) = (encode(protected), encode(payload));
    let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
    let message = encode(&Value::Array(vec!["Signature1".into(), bytes(&protected), bytes(&[]), bytes(&payload)]));
    let signature = reference_key().sign(&message).to_bytes();
    let parts = vec![bytes(&protected), Value::Map(vec![]), bytes(&payload), bytes(&signature)];
    encode(&Value::Tag(18, Box::new(Value::Array(parts))))
}

fn inner(part: &Value) -> Value {
    decode(part.as_bytes().unwrap())
}

fn entry(map: &mut Value, key: i64) -> &mut Value {
    let entries = map.as_map_mut().unwrap();
    &mut entries.iter_mut().find(|(seen, _)| *seen == Value::from(key)).unwrap().1
}

fn untag(value: &mut Value) -> &mut Value {
    let Value::Tag(_, inner) = value else { panic!("a tag") };
    inner
}

fn with_headers(change: impl FnOnce(&mut Value)) -> Result<ReferenceValues, CorimError> {
    let parts = parts(&corim());
    let mut headers = inner(&parts[0]);
    change(&mut headers);
    read(&signed(&headers, &inner(&parts[2])))
}

fn with_manifest(change: impl FnOnce(&mut Value)) -> Result<ReferenceValues, CorimError> {
    let parts = parts(&corim());
    let mut manifest = inner(&parts[2]);
    change(untag(&mut manifest));
    read(&signed(&inner(&parts[0]), &manifest))
}

fn with_triples(change: impl FnOnce(&mut Value)) -> Result<ReferenceValues, CorimError> {
    with_manifest(|manifest| {
        let comid = untag(&mut entry(manifest, 1).as_array_mut().unwrap()[0]);
        let mut module = inner(comid);
        change(entry(&mut module, 4));
        *comid = Value::Bytes(encode(&module));
    })
}

/// Changes triple number `at` of a kind.
fn with_triple(kind: i64, at: usize, change: impl FnOnce(&mut Value)) -> Result<ReferenceValues, CorimError> {
    with_triples(|triples| change(&mut entry(triples, kind).as_array_mut().unwrap()[at]))
}

#[test]
fn the_same_values_come_back() {
    assert_eq!(read(&corim()).unwrap(), values());
    assert_eq!(corim(), corim());
    let some = of(&serde_json::json!({"version": 1, "node_software": {"agent": ["a6".repeat(32)], "vmm": []}})).unwrap();
    assert_eq!(read(&sign_corim(&some, &meta(), &reference_key())).unwrap(), some);
}

#[test]
fn it_has_the_shape_of_the_draft() {
    let parts = parts(&corim());
    let mut headers = inner(&parts[0]);
    assert_eq!(*entry(&mut headers, 1), Value::from(-8));
    assert_eq!(*entry(&mut headers, 3), Value::from("application/rim+cbor"));
    let mut about = inner(entry(&mut headers, 8));
    assert_eq!(*entry(entry(&mut about, 0), 0), Value::from("Casemate"));
    let mut payload = inner(&parts[2]);
    assert!(matches!(payload, Value::Tag(501, _)));
    let tags = entry(untag(&mut payload), 1).as_array().unwrap().clone();
    let Value::Tag(506, comid) = &tags[0] else { panic!("a CoMID") };
    let mut comid = inner(comid);
    let triples = entry(&mut comid, 4);
    let first = entry(triples, 0).as_array().unwrap()[0].as_array().unwrap().clone();
    let (mut environment, mut measurements) = (first[0].clone(), first[1].as_array().unwrap().clone());
    let class = entry(&mut environment, 0);
    assert!(matches!(entry(class, 0), Value::Tag(111, _)));
    assert_eq!((entry(class, 1).clone(), entry(class, 2).clone()), (Value::from("Casemate"), Value::from("other")));
    assert_eq!(*entry(&mut measurements[0], 0), Value::from("kernel"));
    let digest = entry(entry(&mut measurements[0], 1), 2).as_array().unwrap()[0].as_array().unwrap().clone();
    assert_eq!(digest, [Value::from(1), Value::Bytes(vec![1; 32])]);
    assert_eq!(entry(triples, 1).as_array().unwrap().len(), 3);
}

#[test]
fn no_byte_can_change() {
    let good = corim();
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(read(&changed).is_err(), "byte {at}");
        assert!(read(&good[..at]).is_err());
    }
    assert!(read(&[good, vec![0]].concat()).is_err());
    assert!(matches!(read(&vec![0; MAX_CORIM + 1]), Err(CorimError::Cbor(CborError::TooLong { .. }))));
}

#[test]
fn another_key_is_refused() {
    let other = SigningKey::from_bytes(&[1; 32]);
    assert!(matches!(read(&sign_corim(&values(), &meta(), &other)), Err(CorimError::OtherKey)));
    // The right key's name, another's signature.
    let mut parts = parts(&corim());
    let theirs = self::parts(&sign_corim(&values(), &meta(), &other));
    parts[3] = theirs[3].clone();
    assert!(matches!(read(&encode(&Value::Tag(18, Box::new(Value::Array(parts))))), Err(CorimError::Signature)));
}

#[test]
fn the_headers_choose_nothing() {
    assert!(with_headers(|_| ()).is_ok());
    for algorithm in [-7, -19, -35, 5, 0] {
        let refused = with_headers(|headers| *entry(headers, 1) = algorithm.into());
        assert!(matches!(refused, Err(CorimError::Header { field: "algorithm", .. })), "{algorithm}");
    }
    let content = with_headers(|headers| *entry(headers, 3) = "application/cbor".into());
    assert!(matches!(content, Err(CorimError::Header { field: "content type", .. })));
    let critical = with_headers(|headers| headers.as_map_mut().unwrap().push((2.into(), Value::Array(vec![]))));
    assert!(matches!(critical, Err(CorimError::Cbor(CborError::Key { .. }))));
    for at in 0..4 {
        let missing = with_headers(|headers| drop(headers.as_map_mut().unwrap().remove(at)));
        assert!(matches!(missing, Err(CorimError::Cbor(CborError::Missing { .. }))), "{at}");
    }
}

#[test]
fn it_is_valid_from_its_first_to_its_last_second() {
    let key = reference_key().verifying_key().to_bytes();
    for (offset, good) in [(-10_i64, true), (10, true), (-11, false), (11, false), (1_000_000, false)] {
        let read = verify_corim(&corim(), &key, UnixTime(NOW.0.saturating_add_signed(offset)));
        assert_eq!(read.is_ok(), good, "{offset}");
        assert!(good || matches!(read, Err(CorimError::Validity { .. })));
    }
    // The manifest's own period, where the signature's is longer.
    let short = Value::Map(vec![(1.into(), Value::Tag(1, Box::new(Value::from(NOW.0 - 1))))]);
    assert!(matches!(with_manifest(|manifest| *entry(manifest, 4) = short), Err(CorimError::Validity { .. })));
    let never = with_manifest(|manifest| manifest.as_map_mut().unwrap().retain(|(key, _)| *key != Value::from(4)));
    assert!(matches!(never, Err(CorimError::Cbor(CborError::Missing { key: 4, .. }))));
}

#[test]
fn what_is_not_understood_is_refused() {
    assert!(matches!(with_manifest(|manifest| *entry(manifest, 3) = Value::Null), Err(CorimError::Profile)));
    for tag in [505, 508, 507] {
        let refused = with_manifest(|manifest| {
            entry(manifest, 1).as_array_mut().unwrap().push(Value::Tag(tag, Box::new(Value::Bytes(vec![0xa0]))));
        });
        assert!(matches!(refused, Err(CorimError::Unknown(_))), "{tag}: {refused:?}");
    }
    let identity = with_triples(|triples| triples.as_map_mut().unwrap().push((2.into(), Value::Array(vec![]))));
    assert!(matches!(identity, Err(CorimError::Cbor(CborError::Key { .. }))));
    let class = with_triple(0, 0, |triple| {
        let class = entry(&mut triple.as_array_mut().unwrap()[0], 0);
        *entry(class, 0) = Value::Tag(111, Box::new(Value::Bytes(vec![0x2b, 6])));
    });
    assert!(matches!(class, Err(CorimError::Unknown(_))));
    let vendor = with_triple(0, 0, |triple| *entry(entry(&mut triple.as_array_mut().unwrap()[0], 0), 1) = "AMD".into());
    assert!(matches!(vendor, Err(CorimError::Unknown(_))));
    let svn = with_triple(0, 0, |triple| {
        let measurement = &mut triple.as_array_mut().unwrap()[1].as_array_mut().unwrap()[0];
        entry(measurement, 1).as_map_mut().unwrap().push((1.into(), 3.into()));
    });
    assert!(matches!(svn, Err(CorimError::Cbor(CborError::Key { .. }))));
    // An endorsement among the reference values.
    let moved = with_triples(|triples| {
        let machine = entry(triples, 1).as_array().unwrap()[0].clone();
        entry(triples, 0).as_array_mut().unwrap().push(machine);
    });
    assert!(matches!(moved, Err(CorimError::Unknown(_))));
}

#[test]
fn measurements_of_another_shape_are_refused() {
    fn measurements(triple: &mut Value) -> &mut Vec<Value> {
        triple.as_array_mut().unwrap()[1].as_array_mut().unwrap()
    }
    fn digest(measurement: &mut Value) -> &mut Vec<Value> {
        entry(entry(measurement, 1), 2).as_array_mut().unwrap()[0].as_array_mut().unwrap()
    }
    assert!(with_triple(0, 0, |triple| digest(&mut measurements(triple)[0])[0] = 7.into()).is_err());
    assert!(with_triple(0, 0, |triple| digest(&mut measurements(triple)[0])[0] = 8.into()).is_err());
    assert!(with_triple(0, 0, |triple| digest(&mut measurements(triple)[0])[1] = Value::Bytes(vec![0; 31])).is_err());
    assert!(with_triple(0, 0, |triple| measurements(triple).clear()).is_err());
    assert!(with_triple(0, 0, |triple| drop(measurements(triple).remove(0))).is_err(), "no kernel");
    assert!(with_triple(0, 0, |triple| measurements(triple).extend_from_within(0..1)).is_err(), "two kernels");
    assert!(with_triple(0, 0, |triple| *entry(&mut measurements(triple)[0], 0) = "other".into()).is_err());
    assert!(with_triple(0, 0, |triple| measurements(triple).extend_from_within(3..4)).is_ok(), "one more command line");
    let template = with_triple(0, 0, |triple| *entry(entry(&mut measurements(triple)[3], 1), 11) = "{tsc_khz}{tsc_khz}".into());
    assert!(matches!(template, Err(CorimError::Values(_))));
    // Machine 0: EK, chip, two GPUs.
    assert!(with_triple(1, 0, |triple| drop(measurements(triple).remove(0))).is_err(), "no EK");
    assert!(with_triple(1, 0, |triple| measurements(triple).extend_from_within(1..2)).is_err(), "two chips");
    assert!(with_triple(1, 0, |triple| measurements(triple).extend_from_within(2..3)).is_err(), "a GPU twice");
    assert!(with_triples(|triples| entry(triples, 1).as_array_mut().unwrap().extend_from_within(0..1)).is_err());
}

#[test]
fn a_trust_domain_has_one_initial_measurement() {
    let with = |change: fn(&mut Vec<Value>)| {
        with_triples(|triples| {
            let named = (Value::from(0), Value::from("mrtd"));
            let all = entry(triples, 0).as_array_mut().unwrap().iter_mut();
            let mut all = all.map(|triple| triple.as_array_mut().unwrap()[1].as_array_mut().unwrap());
            change(all.find(|of_one| of_one[0].as_map().unwrap().contains(&named)).unwrap());
        })
    };
    assert!(with(|_| ()).is_ok());
    let refused = |result: Result<_, CorimError>| assert!(matches!(result, Err(CorimError::Unknown(_))), "{result:?}");
    refused(with(|measurements| measurements.extend_from_within(0..1)));
    refused(with(|measurements| *entry(&mut measurements[0], 0) = "other".into()));
    refused(with(|measurements| drop(measurements.remove(0))));
}

/// For a check by hand with other libraries: `CASEMATE_CORIM_OUT=FILE cargo nextest run -p casemate-verifier corim_for`.
#[test]
fn a_corim_for_other_libraries_can_be_written() {
    let bytes = corim();
    assert!(read(&bytes).is_ok());
    let Some(file) = std::env::var_os("CASEMATE_CORIM_OUT") else { return };
    std::fs::write(file, bytes).unwrap();
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        proptest::prop_assert!(read(&bytes).is_err());
    }

    /// By the right key, so that the decoder behind the signature is reached, too.
    #[test]
    fn no_signed_manifest_makes_the_reader_panic(at in 0_usize..4000, byte in proptest::num::u8::ANY) {
        let parts = parts(&corim());
        let mut payload = parts[2].as_bytes().unwrap().clone();
        let at = at % payload.len();
        let same = payload[at] == byte;
        payload[at] = byte;
        let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
        let message = encode(&Value::Array(vec!["Signature1".into(), parts[0].clone(), bytes(&[]), bytes(&payload)]));
        let signature = bytes(&reference_key().sign(&message).to_bytes());
        let whole = vec![parts[0].clone(), parts[1].clone(), bytes(&payload), signature];
        let found = read(&encode(&Value::Tag(18, Box::new(Value::Array(whole)))));
        // A changed digest is another digest; a changed length is an error. Never the same values, but for the id.
        proptest::prop_assert!(found.is_err() || !same || found.is_ok_and(|found| found == values()));
    }
}

#[test]
fn a_module_is_named_by_text_or_by_a_uuid() {
    let named = |id: Value| {
        with_manifest(|manifest| {
            let comid = untag(&mut entry(manifest, 1).as_array_mut().unwrap()[0]);
            let mut module = inner(comid);
            *entry(entry(&mut module, 1), 0) = id;
            *comid = Value::Bytes(encode(&module));
        })
    };
    assert!(named("another".into()).is_ok());
    for (len, is_uuid) in [(0, false), (15, false), (16, true), (17, false)] {
        assert_eq!(named(Value::Bytes(vec![1; len])).is_ok(), is_uuid, "{len} bytes");
    }
}

/// Every text `from` becomes `to`.
fn rename(value: &mut Value, from: &str, to: &str) -> usize {
    match value {
        Value::Text(text) if text == from => {
            to.clone_into(text);
            1
        }
        Value::Array(items) => items.iter_mut().map(|item| rename(item, from, to)).sum(),
        Value::Map(entries) => entries.iter_mut().map(|(key, value)| rename(key, from, to) + rename(value, from, to)).sum(),
        Value::Tag(_, inner) => rename(inner, from, to),
        _ => 0,
    }
}

#[test]
fn a_measurement_of_a_guest_has_its_one_name() {
    assert!(with_triples(|triples| assert!(rename(triples, "measurement", "measurement") > 0)).is_ok());
    assert!(with_triples(|triples| assert!(rename(triples, "measurement", "measured") > 0)).is_err());
}
