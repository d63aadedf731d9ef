//! Evidence as a node makes it, with TPMs in software.

use std::collections::BTreeMap;

use casemate_attester::{Attester as _, quote_bundle, sim::SoftTpm};
use casemate_evidence::{
    eventlog::{Event, EventLog, EventType},
    instance::{
        GuestKeys, InstanceEvidence, Jail, LaunchRecord, Machine, NODE_PCRS, Record as _, Vmm, guest_binding, guest_pcr,
        instance_leaf,
    },
    merkle,
};
use sha2::{Digest as _, Sha256};

use crate::{
    platform::{AGENT, INITRD, KERNEL, ROOT_HASH, VMM, command_line},
    soft_ek::seed_bytes,
};

/// The node's event log; `agent` is the digest of the agent that it measured.
pub(crate) fn event_log(agent: [u8; 32]) -> EventLog {
    let mut log = EventLog::sha256();
    log.events = vec![
        Event::of_data(0, EventType::S_CRTM_VERSION, *b"casemate simulated firmware 1"),
        Event::of_data(7, EventType::SEPARATOR, [0; 4]),
        Event::of_digest(14, EventType::IPL, agent, format!("casemate-agent sha256:{}", hex::encode(agent))),
        Event::of_digest(14, EventType::IPL, VMM, format!("casemate-vmm sha256:{}", hex::encode(VMM))),
    ];
    log
}

/// A node's TPM after a boot with this log.
pub(crate) fn node_tpm(seed: u32, log: &EventLog) -> SoftTpm {
    let mut tpm = SoftTpm::new(&seed_bytes(seed));
    for event in &log.events {
        tpm.pcr_extend(event.pcr, event.measured_sha256().unwrap()).unwrap();
    }
    tpm
}

/// The good agent.
pub(crate) fn good_log() -> EventLog {
    event_log(AGENT)
}

/// What a node answers for one instance and one nonce. `kernel` is the digest of the kernel that it booted.
pub(crate) fn instance_evidence(
    node: &mut SoftTpm,
    log: &EventLog,
    instance: &str,
    workload_digest: [u8; 32],
    nonce: [u8; 32],
    kernel: [u8; 32],
) -> Vec<u8> {
    let mut guest = SoftTpm::new(&Sha256::digest(instance).into());
    let line: [u8; 32] = Sha256::digest(command_line()).into();
    let measured = BTreeMap::from([
        (guest_pcr::KERNEL, kernel),
        (guest_pcr::COMMAND_LINE, line),
        (guest_pcr::INITRD, INITRD),
        (guest_pcr::ROOT_HASH, ROOT_HASH),
        (guest_pcr::WORKLOAD, workload_digest),
    ]);
    for (pcr, digest) in measured {
        guest.pcr_extend(pcr, digest).unwrap();
    }
    let launch = LaunchRecord {
        version: 1,
        instance: instance.to_owned(),
        workload_digest,
        kernel,
        initrd: INITRD,
        command_line: command_line(),
        root_hash: ROOT_HASH,
        vmm: Vmm { name: "qemu".into(), version: "7.2".into(), digest: VMM },
        machine: Machine { kind: "microvm".into(), accel: "tcg".into(), cpus: 1, memory_mib: 256 },
        jail: Jail {
            uid: 100_001,
            no_new_privs: true,
            seccomp: true,
            capabilities: 0,
            namespaces: ["cgroup", "ipc", "mnt", "net", "pid", "uts"].map(str::to_owned).to_vec(),
            cgroup: true,
        },
        vtpm_ak_public: guest.public().to_vec(),
        monitor: Some(casemate_evidence::instance::Monitor { class: "enforcing".into(), without: Vec::new() }),
    }
    .encode();
    let keys = GuestKeys { version: 1, hpke: [0x11; 32], tls: [0x12; 32] }.encode();
    let binding = guest_binding(&nonce, &keys, &workload_digest, instance);
    let guest = quote_bundle(&mut guest, &binding, &guest_pcr::QUOTED).unwrap();
    let leaves = [instance_leaf(&nonce, &launch, &keys, &guest.attest)];
    let root = merkle::root(&leaves).unwrap();
    InstanceEvidence {
        version: 1,
        nonce,
        launch_record: launch,
        guest_keys: keys,
        node: quote_bundle(node, &root, &NODE_PCRS).unwrap(),
        node_event_log: log.encode(),
        batch: merkle::path(&leaves, 0).unwrap(),
        guest,
    }
    .encode()
}

pub(crate) const GOOD_KERNEL: [u8; 32] = KERNEL;
