//! Logs: each entry with how much of it its digest covers.

use casemate_evidence::{
    eventlog::{Coverage, EventType, LogRef},
    ima::{Format, Reader},
    tdx::ccel::CcelLog,
    tpm::HashAlg,
};
use serde_json::{Map, Value, json};

use super::shapes::said;

const BANKS: [HashAlg; 4] = [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384, HashAlg::Sha512];
/// Most characters of an event's data that are shown.
const MAX_DATA: usize = 160;

/// The log of a TPM's firmware.
pub(super) fn firmware(bytes: &[u8]) -> Result<Value, String> {
    let log = LogRef::parse(bytes).map_err(said)?;
    // Zeros are a log of the old format, too, but nobody's.
    if !log.events.iter().any(|event| event.kind != EventType::PREBOOT_CERT && event.kind.name().is_some()) {
        return Err("none of its events is of a known type".to_owned());
    }
    let banks: Vec<HashAlg> = BANKS.into_iter().filter(|bank| log.has_bank(*bank)).collect();
    let strongest = *banks.last().ok_or("it has digests of no known bank")?;
    let mut replayed = Map::new();
    for bank in &banks {
        let values: Map<String, Value> =
            log.replay(*bank).into_iter().map(|(pcr, value)| (pcr.to_string(), json!(value.to_string()))).collect();
        replayed.insert(bank.name().to_owned(), values.into());
    }
    let event = |event: &casemate_evidence::eventlog::EventRef<'_>| {
        let covered = match event.coverage(strongest) {
            Coverage::Nothing => "nothing: not extended",
            Coverage::DigestOnly => "the digest only; the data is a label",
            Coverage::Part(_) => "a part of the data",
            Coverage::Whole(_) => "all data",
        };
        json!({
            "pcr": event.pcr,
            "type": kind(event.kind),
            "digest": event.measured(strongest).map(hex::encode),
            "covers": covered,
            "data": data(event.data),
        })
    };
    Ok(json!({ "replayed": replayed, "events": log.events.iter().map(event).collect::<Vec<_>>() }))
}

/// The log of a trust domain.
pub(super) fn ccel(bytes: &[u8]) -> Result<Value, String> {
    let log = CcelLog::parse(bytes).map_err(said)?;
    let event = |event: &casemate_evidence::tdx::ccel::CcelEvent| {
        json!({
            "rtmr": event.rtmr,
            "type": kind(event.kind),
            "digest": hex::encode(event.digest),
            "covers": if event.data_is_digested() { "all data" } else { "the digest only; the data is a label" },
            "data": data(&event.data),
        })
    };
    Ok(json!({
        "replayed": { "rtmr": log.replay().map(hex::encode) },
        "events": log.events.iter().map(event).collect::<Vec<_>>(),
    }))
}

pub(super) fn ima_ascii(bytes: &[u8]) -> Result<Value, String> {
    ima(bytes, Format::Ascii)
}

pub(super) fn ima_binary(bytes: &[u8]) -> Result<Value, String> {
    let mut problem = String::new();
    for bank in BANKS {
        match ima(bytes, Format::Binary(bank)) {
            Ok(value) => return Ok(value),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

fn ima(bytes: &[u8], format: Format) -> Result<Value, String> {
    let mut reader = Reader::new(bytes, format);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry().map_err(said)? {
        let genuine = entry.is_violation() || entry.template_digest(entry.listed_alg()) == entry.listed();
        entries.push(json!({
            "pcr": entry.pcr(),
            "digest": hex::encode(entry.digest()),
            "name": String::from_utf8_lossy(entry.name()),
            "violation": entry.is_violation(),
            "covers": if genuine { "all of the entry" } else { "NOTHING: the template digest is another one" },
        }));
    }
    if entries.is_empty() { Err("it is empty".to_owned()) } else { Ok(json!({ "entries": entries })) }
}

fn kind(kind: EventType) -> String {
    kind.name().map_or_else(|| format!("{:#010x}", kind.0), str::to_owned)
}

fn data(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).ok().map(|text| text.trim_end_matches('\0'));
    let text = text.filter(|text| !text.is_empty() && !text.chars().any(char::is_control));
    let shown = text.map_or_else(|| hex::encode(&bytes[..bytes.len().min(MAX_DATA)]), str::to_owned);
    if shown.chars().count() <= MAX_DATA { shown } else { format!("{}…", shown.chars().take(MAX_DATA).collect::<String>()) }
}
