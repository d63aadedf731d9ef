//! Events to bytes.

use super::{Event, EventLog, EventType, LogFormat, SPEC_ID_03, SpecId};
use crate::tpm::alg_id;

pub(super) fn log(log: &EventLog) -> Vec<u8> {
    let mut out = Vec::new();
    match &log.format {
        LogFormat::Sha1 => log.events.iter().for_each(|event| sha1_event(&mut out, event)),
        LogFormat::CryptoAgile(spec) => {
            sha1_event(&mut out, &header(spec));
            log.events.iter().for_each(|event| agile_event(&mut out, spec, event));
        }
    }
    out
}

fn header(spec: &SpecId) -> Event {
    let mut data = SPEC_ID_03.to_vec();
    data.extend(spec.platform_class.to_le_bytes());
    data.extend(spec.version);
    data.push(spec.uintn_size);
    data.extend(length(&spec.banks));
    for bank in &spec.banks {
        data.extend(bank.alg.to_le_bytes());
        data.extend(bank.digest_size.to_le_bytes());
    }
    data.push(u8::try_from(spec.vendor_info.len()).expect("vendor info is shorter than 256 bytes"));
    data.extend(&spec.vendor_info);
    Event { pcr: 0, kind: EventType::NO_ACTION, digests: [(alg_id::SHA1, vec![0; 20])].into(), data }
}

fn sha1_event(out: &mut Vec<u8>, event: &Event) {
    out.extend(event.pcr.to_le_bytes());
    out.extend(event.kind.0.to_le_bytes());
    out.extend(event.digests.get(&alg_id::SHA1).map_or(&[0; 20][..], Vec::as_slice));
    out.extend(length(&event.data));
    out.extend(&event.data);
}

/// Digests come in the order of the header's banks.
fn agile_event(out: &mut Vec<u8>, spec: &SpecId, event: &Event) {
    out.extend(event.pcr.to_le_bytes());
    out.extend(event.kind.0.to_le_bytes());
    let digests: Vec<_> = spec.banks.iter().filter_map(|bank| Some((bank.alg, event.digests.get(&bank.alg)?))).collect();
    out.extend(length(&digests));
    for (alg, digest) in digests {
        out.extend(alg.to_le_bytes());
        out.extend(digest);
    }
    out.extend(length(&event.data));
    out.extend(&event.data);
}

fn length<T>(items: &[T]) -> [u8; 4] {
    u32::try_from(items.len()).expect("an event log is shorter than 4 GiB").to_le_bytes()
}
