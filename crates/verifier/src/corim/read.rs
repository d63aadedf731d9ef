//! From a CoRIM, whose signature was verified, to reference values.

use std::collections::BTreeSet;

use ciborium::Value;

use super::{
    Class, CorimError, MAX_CORIM, PROFILE, SHA_256, SHA_384, TAG_BYTES, TAG_COMID, TAG_CORIM, TAG_OID, TAG_URI, Validity,
};
use crate::{
    cbor::{self, CborError, Fields},
    references::{CommandLine, ConfidentialGuest, GuestOs, Machine, Processor, ReferenceValues, TdxReference},
    time::UnixTime,
};

/// Keys of the run-time measurements of a trust domain.
pub(super) const RTMR: [&str; 4] = ["rtmr0", "rtmr1", "rtmr2", "rtmr3"];

/// `tagged-unsigned-corim-map`.
pub(crate) fn unsigned(payload: &[u8], now: UnixTime) -> Result<ReferenceValues, CorimError> {
    let corim = cbor::decode(payload, MAX_CORIM).map_err(CorimError::Cbor)?;
    let corim = cbor::tagged(corim, TAG_CORIM, "the manifest").map_err(CorimError::Cbor)?;
    let mut corim = Fields::new(corim, "the manifest", &[0, 1, 3, 4]).map_err(CorimError::Cbor)?;
    let mut field = |key| corim.required(key).map_err(CorimError::Cbor);
    identifier(field(0)?).map_err(CorimError::Cbor)?;
    let (tags, profile, validity) = (field(1)?, field(3)?, field(4)?);
    if profile != Value::Tag(TAG_URI, Box::new(Value::Text(PROFILE.to_owned()))) {
        return Err(CorimError::Profile);
    }
    Validity::read(validity).map_err(CorimError::Cbor)?.at(now)?;
    let tags = cbor::array(tags, "the tags").map_err(CorimError::Cbor)?;
    let mut values = ReferenceValues::default();
    for tag in tags {
        match tag {
            Value::Tag(TAG_COMID, comid) => module(*comid, &mut values)?,
            Value::Tag(other, _) => return Err(CorimError::Unknown(format!("tag {other}"))),
            _ => return Err(CorimError::Cbor(CborError::Type { what: "an entry of the tags", expected: "a tag" })),
        }
    }
    values.consistent().map_err(CorimError::Values)
}

/// `concise-mid-tag`.
fn module(comid: Value, values: &mut ReferenceValues) -> Result<(), CorimError> {
    let mut triples = triples(comid).map_err(CorimError::Cbor)?;
    for (key, class_is_machine) in [(0, false), (1, true)] {
        let Some(list) = triples.optional(key) else { continue };
        for triple in cbor::array(list, "the triples").map_err(CorimError::Cbor)? {
            let triple = Triple::read(triple).map_err(CorimError::Cbor)?;
            let class = triple.class()?;
            if (class == Class::Machine) != class_is_machine {
                return Err(CorimError::Unknown(format!("a triple of kind {key} about {class:?}")));
            }
            add(class, triple, values)?;
        }
    }
    Ok(())
}

fn triples(comid: Value) -> Result<Fields, CborError> {
    let bytes = cbor::bytes(comid, "a CoMID")?;
    let mut comid = Fields::new(cbor::decode(&bytes, bytes.len())?, "a CoMID", &[1, 4])?;
    let mut identity = Fields::new(comid.required(1)?, "the identity of a CoMID", &[0, 1])?;
    identifier(identity.required(0)?)?;
    Fields::new(comid.required(4)?, "the triples of a CoMID", &[0, 1])
}

fn identifier(value: Value) -> Result<(), CborError> {
    match value {
        Value::Text(_) => Ok(()),
        Value::Bytes(uuid) if uuid.len() == 16 => Ok(()),
        _ => Err(CborError::Type { what: "an identifier", expected: "text or a UUID" }),
    }
}

/// An environment and its measurements.
struct Triple {
    oid: Vec<u8>,
    vendor: String,
    model: Option<String>,
    instance: Option<Vec<u8>>,
    measurements: Vec<Measurement>,
}

struct Measurement {
    key: Option<String>,
    value: Measured,
}

enum Measured {
    Sha256([u8; 32]),
    Sha384([u8; 48]),
    Raw(Vec<u8>),
    Serial(String),
    Name(String),
}

impl Triple {
    fn read(value: Value) -> Result<Self, CborError> {
        let Ok([environment, measurements]) = <[Value; 2]>::try_from(cbor::array(value, "a triple")?) else {
            return Err(CborError::Type { what: "a triple", expected: "an array of two" });
        };
        let mut environment = Fields::new(environment, "an environment", &[0, 1])?;
        let mut class = Fields::new(environment.required(0)?, "a class", &[0, 1, 2])?;
        let oid = cbor::bytes(cbor::tagged(class.required(0)?, TAG_OID, "a class id")?, "a class id")?;
        let raw = |value| cbor::bytes(cbor::tagged(value, TAG_BYTES, "an instance")?, "an instance");
        let list = cbor::array(measurements, "the measurements")?;
        if list.is_empty() {
            return Err(CborError::Type { what: "the measurements", expected: "one or more" });
        }
        Ok(Self {
            oid,
            vendor: cbor::text(class.required(1)?, "a vendor")?,
            model: class.optional(2).map(|model| cbor::text(model, "a model")).transpose()?,
            instance: environment.optional(1).map(raw).transpose()?,
            measurements: list.into_iter().map(Measurement::read).collect::<Result<_, _>>()?,
        })
    }

    fn class(&self) -> Result<Class, CorimError> {
        let unknown = || CorimError::Unknown(format!("class {} of {}", hex::encode(&self.oid), self.vendor.escape_debug()));
        Class::of(&self.oid, &self.vendor).ok_or_else(unknown)
    }

    fn unexpected(class: Class) -> CorimError {
        CorimError::Unknown(format!("a measurement of {class:?} of another shape"))
    }

    /// The model, where there is no instance.
    fn named(&mut self, class: Class) -> Result<String, CorimError> {
        if self.instance.is_some() {
            return Err(Self::unexpected(class));
        }
        self.model.take().ok_or_else(|| Self::unexpected(class))
    }
}

impl Measurement {
    fn read(value: Value) -> Result<Self, CborError> {
        let mut fields = Fields::new(value, "a measurement", &[0, 1])?;
        let key = fields.optional(0).map(|key| cbor::text(key, "the key of a measurement")).transpose()?;
        let mut values = Fields::new(fields.required(1)?, "a measurement's values", &[2, 4, 8, 11])?;
        let all = [2, 4, 8, 11].map(|label| values.optional(label).map(|value| Measured::read(label, value)));
        let mut found = all.into_iter().flatten();
        match (found.next(), found.next()) {
            (Some(value), None) => Ok(Self { key, value: value? }),
            _ => Err(CborError::Type { what: "a measurement's values", expected: "exactly one" }),
        }
    }
}

impl Measured {
    fn read(label: i64, value: Value) -> Result<Self, CborError> {
        Ok(match label {
            2 => Self::digest(value)?,
            4 => Self::Raw(cbor::bytes(cbor::tagged(value, TAG_BYTES, "a raw value")?, "a raw value")?),
            8 => Self::Serial(cbor::text(value, "a serial number")?),
            _ => Self::Name(cbor::text(value, "a name")?),
        })
    }

    fn digest(value: Value) -> Result<Self, CborError> {
        let shape = CborError::Type { what: "the digests", expected: "one of SHA-256 (1) or SHA-384 (7)" };
        let Ok([digest]) = <[Value; 1]>::try_from(cbor::array(value, "the digests")?) else { return Err(shape) };
        let Ok([algorithm, digest]) = <[Value; 2]>::try_from(cbor::array(digest, "a digest")?) else { return Err(shape) };
        let digest = cbor::bytes(digest, "a digest")?;
        let found = match cbor::unsigned(&algorithm, "an algorithm")? {
            SHA_256 => digest.try_into().ok().map(Self::Sha256),
            SHA_384 => digest.try_into().ok().map(Self::Sha384),
            _ => None,
        };
        found.ok_or(shape)
    }
}

fn add(class: Class, triple: Triple, values: &mut ReferenceValues) -> Result<(), CorimError> {
    match class {
        Class::GuestOs => values.guest_os.push(guest_os(triple)?),
        Class::Agent => values.agent.push(single(class, triple)?.1),
        Class::Vmm => values.vmm.push(single(class, triple)?.1),
        Class::Runtime => {
            let (level, digest) = single(class, triple)?;
            match level.as_str() {
                "container" => values.container.container_runtime.push(digest),
                "sandbox" => values.container.sandbox_runtime.push(digest),
                _ => return Err(Triple::unexpected(class)),
            }
        }
        Class::ContainerGuest => values.container.guest.push(single(class, triple)?.1),
        Class::Boot => {
            let (name, digest) = single(class, triple)?;
            values.boot.entry(name).or_default().insert(digest);
        }
        Class::Ima => {
            let (path, digest) = single(class, triple)?;
            values.ima.entry(path).or_default().insert(digest);
        }
        Class::Snp | Class::Tdx => confidential(class, triple, values)?,
        Class::Machine => values.add_machine(machine(triple)?).map_err(CorimError::Values)?,
    }
    Ok(())
}

/// A class whose triples have one digest without a key.
fn single(class: Class, mut triple: Triple) -> Result<(String, [u8; 32]), CorimError> {
    let name = triple.named(class)?;
    match triple.measurements.as_slice() {
        [Measurement { key: None, value: Measured::Sha256(digest) }] => Ok((name, *digest)),
        _ => Err(Triple::unexpected(class)),
    }
}

fn guest_os(mut triple: Triple) -> Result<GuestOs, CorimError> {
    let name = triple.named(Class::GuestOs)?;
    let (mut kernel, mut initrd, mut root_hash, mut command_lines) = (None, None, None, Vec::new());
    for measurement in triple.measurements {
        let slot = match (measurement.key.as_deref(), &measurement.value) {
            (Some("kernel"), _) => &mut kernel,
            (Some("initrd"), _) => &mut initrd,
            (Some("root-hash"), _) => &mut root_hash,
            (Some("command-line"), Measured::Name(line)) => {
                command_lines.push(CommandLine::of_guest_os(&name, line.clone()).map_err(CorimError::Values)?);
                continue;
            }
            _ => return Err(Triple::unexpected(Class::GuestOs)),
        };
        match (slot.is_some(), measurement.value) {
            (false, Measured::Sha256(digest)) => *slot = Some(digest),
            _ => return Err(Triple::unexpected(Class::GuestOs)),
        }
    }
    match (kernel, initrd, root_hash) {
        (Some(kernel), Some(initrd), Some(root_hash)) => Ok(GuestOs { name, kernel, initrd, root_hash, command_lines }),
        _ => Err(Triple::unexpected(Class::GuestOs)),
    }
}

fn confidential(class: Class, mut triple: Triple, values: &mut ReferenceValues) -> Result<(), CorimError> {
    let name = triple.named(class)?;
    let at = values.confidential.iter().position(|guest| guest.name == name).unwrap_or_else(|| {
        values.confidential.push(ConfidentialGuest { name, snp: Vec::new(), tdx: Vec::new() });
        values.confidential.len() - 1
    });
    if class == Class::Tdx {
        values.confidential[at].tdx.push(tdx(triple)?);
        return Ok(());
    }
    match triple.measurements.as_slice() {
        [Measurement { key: Some(key), value: Measured::Sha384(digest) }] if key == "measurement" => {
            values.confidential[at].snp.push(*digest);
            Ok(())
        }
        _ => Err(Triple::unexpected(class)),
    }
}

fn tdx(triple: Triple) -> Result<TdxReference, CorimError> {
    let mut mrtd = None;
    let mut rtmr: [Vec<[u8; 48]>; 4] = Default::default();
    for measurement in triple.measurements {
        let (Some(key), Measured::Sha384(digest)) = (measurement.key, measurement.value) else {
            return Err(Triple::unexpected(Class::Tdx));
        };
        match RTMR.iter().position(|name| *name == key) {
            Some(register) => rtmr[register].push(digest),
            None if key == "mrtd" && mrtd.is_none() => mrtd = Some(digest),
            None => return Err(Triple::unexpected(Class::Tdx)),
        }
    }
    Ok(TdxReference { mrtd: mrtd.ok_or_else(|| Triple::unexpected(Class::Tdx))?, rtmr })
}

fn machine(triple: Triple) -> Result<Machine, CorimError> {
    let unexpected = || Triple::unexpected(Class::Machine);
    let instance = triple.instance.filter(|_| triple.model.is_none());
    let ek: [u8; 32] = instance.and_then(|ek| ek.try_into().ok()).ok_or_else(unexpected)?;
    let (mut same_ek, mut processor, mut gpus) = (false, None, BTreeSet::new());
    for measurement in triple.measurements {
        let fresh = match (measurement.key.as_deref(), measurement.value) {
            (Some("ek"), Measured::Raw(raw)) if raw == ek => !std::mem::replace(&mut same_ek, true),
            (Some("chip-id"), Measured::Raw(raw)) => {
                processor.replace(Processor::SnpChip(raw.try_into().map_err(|_| unexpected())?)).is_none()
            }
            (Some("platform-instance-id"), Measured::Raw(raw)) => {
                processor.replace(Processor::TdxPlatform(raw.try_into().map_err(|_| unexpected())?)).is_none()
            }
            (Some("gpu"), Measured::Serial(gpu)) => gpus.insert(gpu),
            _ => false,
        };
        if !fresh {
            return Err(unexpected());
        }
    }
    if same_ek { Ok(Machine { ek, processor, gpus }) } else { Err(unexpected()) }
}
