//! From reference values to a CoRIM.

use casemate_evidence::container::ContainerLevel;
use ciborium::Value;

use super::{Class, CorimMeta, PROFILE, SHA_256, SHA_384, TAG_BYTES, TAG_COMID, TAG_CORIM, TAG_OID, TAG_URI, validity};
use crate::{
    cbor,
    references::{ConfidentialGuest, GuestOs, Machine, Processor, ReferenceValues},
};

/// `tagged-unsigned-corim-map`.
pub(super) fn unsigned(values: &ReferenceValues, meta: &CorimMeta) -> Value {
    let mut triples = Vec::new();
    let reference = reference_triples(values);
    let endorsed: Vec<Value> = values.machines.values().map(machine).collect();
    for (key, list) in [(0, reference), (1, endorsed)] {
        if !list.is_empty() {
            triples.push((key, Value::Array(list)));
        }
    }
    let identity = cbor::map(vec![(0, text(&meta.id))]);
    let comid = cbor::encode(&cbor::map(vec![(1, identity), (4, cbor::map(triples))]));
    let corim = vec![
        (0, text(&meta.id)),
        (1, Value::Array(vec![tag(TAG_COMID, Value::Bytes(comid))])),
        (3, tag(TAG_URI, text(PROFILE))),
        (4, validity(meta)),
    ];
    tag(TAG_CORIM, cbor::map(corim))
}

fn reference_triples(values: &ReferenceValues) -> Vec<Value> {
    let one = |class: Class, model: &str, digest: &[u8; 32]| {
        triple(environment(class, Some(model), None), vec![measurement(None, sha_256(digest))])
    };
    let mut triples: Vec<Value> = values.guest_os.iter().map(guest_os).collect();
    triples.extend(values.agent.iter().map(|digest| one(Class::Agent, "agent", digest)));
    triples.extend(values.vmm.iter().map(|digest| one(Class::Vmm, "vmm", digest)));
    for level in [ContainerLevel::Container, ContainerLevel::Sandbox] {
        triples.extend(values.container.runtimes(level).iter().map(|digest| one(Class::Runtime, level.as_str(), digest)));
    }
    triples.extend(values.container.guest.iter().map(|digest| one(Class::ContainerGuest, "guest", digest)));
    triples.extend(values.confidential.iter().flat_map(confidential));
    for (class, list) in [(Class::Boot, &values.boot), (Class::Ima, &values.ima)] {
        for (name, digests) in list {
            triples.extend(digests.iter().map(|digest| one(class, name, digest)));
        }
    }
    triples
}

fn guest_os(os: &GuestOs) -> Value {
    let mut measurements = vec![
        measurement(Some("kernel"), sha_256(&os.kernel)),
        measurement(Some("initrd"), sha_256(&os.initrd)),
        measurement(Some("root-hash"), sha_256(&os.root_hash)),
    ];
    let line = |line: &crate::references::CommandLine| measurement(Some("command-line"), (11, text(&line.template())));
    measurements.extend(os.command_lines.iter().map(line));
    triple(environment(Class::GuestOs, Some(&os.name), None), measurements)
}

fn confidential(guest: &ConfidentialGuest) -> Vec<Value> {
    let snp = |digest: &[u8; 48]| {
        triple(environment(Class::Snp, Some(&guest.name), None), vec![measurement(Some("measurement"), sha_384(digest))])
    };
    let tdx = |tdx: &crate::references::TdxReference| {
        let mut measurements = vec![measurement(Some("mrtd"), sha_384(&tdx.mrtd))];
        for (name, digests) in super::read::RTMR.iter().zip(&tdx.rtmr) {
            measurements.extend(digests.iter().map(|digest| measurement(Some(name), sha_384(digest))));
        }
        triple(environment(Class::Tdx, Some(&guest.name), None), measurements)
    };
    guest.snp.iter().map(snp).chain(guest.tdx.iter().map(tdx)).collect()
}

fn machine(machine: &Machine) -> Value {
    let raw = |name, bytes: &[u8]| measurement(Some(name), (4, tag(TAG_BYTES, Value::Bytes(bytes.to_vec()))));
    // The EK again: an endorsed triple must endorse something, also of a machine of which nothing else is known.
    let mut measurements = vec![raw("ek", &machine.ek)];
    match &machine.processor {
        Some(Processor::SnpChip(chip)) => measurements.push(raw("chip-id", chip)),
        Some(Processor::TdxPlatform(platform)) => measurements.push(raw("platform-instance-id", platform)),
        None => {}
    }
    measurements.extend(machine.gpus.iter().map(|gpu| measurement(Some("gpu"), (8, text(gpu)))));
    triple(environment(Class::Machine, None, Some(&machine.ek)), measurements)
}

fn triple(environment: Value, measurements: Vec<Value>) -> Value {
    Value::Array(vec![environment, Value::Array(measurements)])
}

fn environment(class: Class, model: Option<&str>, instance: Option<&[u8]>) -> Value {
    let mut fields = vec![(0, tag(TAG_OID, Value::Bytes(class.oid().to_vec()))), (1, text(class.vendor()))];
    fields.extend(model.map(|model| (2, text(model))));
    let mut environment = vec![(0, cbor::map(fields))];
    environment.extend(instance.map(|instance| (1, tag(TAG_BYTES, Value::Bytes(instance.to_vec())))));
    cbor::map(environment)
}

fn measurement(key: Option<&str>, value: (i64, Value)) -> Value {
    let mut fields = Vec::new();
    fields.extend(key.map(|key| (0, text(key))));
    fields.push((1, cbor::map(vec![value])));
    cbor::map(fields)
}

fn sha_256(digest: &[u8; 32]) -> (i64, Value) {
    digests(SHA_256, digest)
}

fn sha_384(digest: &[u8; 48]) -> (i64, Value) {
    digests(SHA_384, digest)
}

fn digests(algorithm: u64, digest: &[u8]) -> (i64, Value) {
    (2, Value::Array(vec![Value::Array(vec![algorithm.into(), Value::Bytes(digest.to_vec())])]))
}

fn tag(number: u64, value: Value) -> Value {
    Value::Tag(number, Box::new(value))
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}
