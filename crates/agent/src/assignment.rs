//! Checks of an assignment before anything else is done with it. Pure.

use casemate_api::{
    assignment::{Body, Intent, signed_bytes},
    canonical, node,
    workload::{Isolation, Workload},
};
use casemate_lifecycle::{Failure, InstanceId, NodeId, Step};
use casemate_sandbox::Capabilities;
use ed25519_dalek::{Signature, VerifyingKey};

use crate::failure::{self, check};

/// Largest assignment body: a workload, escaped as a JSON string, and a little.
pub(crate) const MAX_BODY: usize = 3 * casemate_api::workload::MAX_BYTES;

/// An assignment that this platform signed for this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) id: InstanceId,
    pub(crate) body: Body,
    /// As signed; kept so that it can be judged again after a restart.
    pub(crate) signed: node::Assignment,
}

impl Order {
    /// What should be, in the words of the life cycle.
    pub(crate) fn wanted(&self) -> casemate_lifecycle::Wanted {
        let intent = match self.body.intent {
            Intent::Run => casemate_lifecycle::Intent::Run,
            Intent::Stop => casemate_lifecycle::Intent::Stop,
        };
        casemate_lifecycle::Wanted { generation: self.body.generation, intent }
    }

    pub(crate) fn workload_digest(&self) -> [u8; 32] {
        casemate_api::workload::digest_of(self.body.workload.as_bytes())
    }
}

/// Why an assignment is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Which instance it seems to be about, and in which generation.
    pub(crate) about: Option<(InstanceId, u64)>,
    pub(crate) failure: Failure,
}

/// Signature, canonical form, node and names.
pub(crate) fn authenticate(signed: &node::Assignment, me: &NodeId, platform: &VerifyingKey) -> Result<Order, Refusal> {
    let refuse = |about, check, detail: String| Refusal { about, failure: failure::at(Step::Accepted, check, detail) };
    let parsed: Result<Body, _> = canonical::from_slice(&signed.body, MAX_BODY);
    // Only for the report: nothing of an unsigned body is followed.
    let about = parsed.as_ref().ok().and_then(|body| Some((body.instance.parse::<InstanceId>().ok()?, body.generation)));
    let signature =
        Signature::from_slice(&signed.signature).map_err(|error| refuse(about.clone(), check::SIGNATURE, error.to_string()))?;
    platform
        .verify_strict(&signed_bytes(&signed.body), &signature)
        .map_err(|_| refuse(about.clone(), check::SIGNATURE, "the assignment is not signed by the platform's key".into()))?;
    let body = parsed.map_err(|error| refuse(about.clone(), check::SIGNATURE, failure::chain(&error)))?;
    if body.version != 1 {
        return Err(refuse(about, check::SIGNATURE, format!("version {} is not known", body.version)));
    }
    if body.node != me.as_str() {
        return Err(refuse(about, check::NODE, format!("it is for node {}, this is {me}", body.node)));
    }
    let id = body.instance.parse().map_err(|error| refuse(None, check::SIGNATURE, format!("{error}")))?;
    Ok(Order { id, body, signed: signed.clone() })
}

/// What this node can give in all, whoever runs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeCapacity {
    pub(crate) memory_mib: u64,
    pub(crate) cpus: u32,
    pub(crate) cpus_in_all: u32,
    pub(crate) disk_mib: u64,
    pub(crate) instances: usize,
}

impl NodeCapacity {
    /// As far as a driver with these capabilities reaches.
    pub(crate) fn of(&self, capabilities: &Capabilities) -> Capacity {
        let Self { memory_mib, cpus, cpus_in_all, disk_mib, instances } = *self;
        let (cpus, disks) = (capabilities.max_cpus.min(cpus), capabilities.max_disks);
        Capacity { memory_mib, cpus, cpus_in_all, disk_mib, instances, disks }
    }
}

/// What instances of one driver can have in all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    pub(crate) memory_mib: u64,
    /// Most virtual CPUs of one instance.
    pub(crate) cpus: u32,
    /// Virtual CPUs of all instances together.
    pub(crate) cpus_in_all: u32,
    pub(crate) disk_mib: u64,
    pub(crate) instances: usize,
    /// Read-only disks of one machine.
    pub(crate) disks: usize,
}

/// What live instances hold of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct InUse {
    pub(crate) memory_mib: u64,
    pub(crate) cpus: u32,
    pub(crate) disk_mib: u64,
    pub(crate) instances: usize,
}

impl InUse {
    /// With one more instance of this workload, at this level.
    pub(crate) fn and(self, workload: &Workload, level: Isolation) -> Self {
        // What a container writes is in memory.
        let scratch_mib = if level < Isolation::Microvm { workload.resources.scratch_mib } else { 0 };
        let memory_mib = workload.resources.memory_mib.saturating_add(scratch_mib).saturating_add(MACHINE_OVERHEAD_MIB);
        Self {
            memory_mib: self.memory_mib.saturating_add(memory_mib),
            cpus: self.cpus.saturating_add(workload.resources.cpus),
            disk_mib: self.disk_mib.saturating_add(workload.resources.scratch_mib),
            instances: self.instances + 1,
        }
    }
}

/// Memory that a VMM and a vTPM need beside the guest's.
pub(crate) const MACHINE_OVERHEAD_MIB: u64 = 160;

/// Freshness, workload, isolation level and room: all that is needed to start. `capacity` is that of the level, where the node has it.
pub(crate) fn admit(order: &Order, now_ms: u64, capacity: Option<&Capacity>, in_use: InUse) -> Result<Workload, Failure> {
    let refuse = |check, detail: String| failure::at(Step::Accepted, check, detail);
    if now_ms > order.body.start_before_ms {
        let late = now_ms - order.body.start_before_ms;
        return Err(refuse(check::STALE, format!("it was to be started {late} ms ago at the latest")));
    }
    let workload = Workload::from_canonical(order.body.workload.as_bytes())
        .map_err(|error| refuse(check::WORKLOAD, failure::chain(&error)))?;
    let level = order.body.level;
    if level < workload.isolation {
        let (least, placed) = (workload.isolation.as_str(), level.as_str());
        return Err(refuse(check::LEVEL, format!("the workload asks for level {least} at least, and was placed at {placed}")));
    }
    let Some(capacity) = capacity else {
        return Err(refuse(check::CAPACITY, format!("this node does not have isolation level {}", level.as_str())));
    };
    room(&workload, level, capacity, in_use).map_err(|detail| refuse(check::CAPACITY, detail))?;
    Ok(workload)
}

fn room(workload: &Workload, level: Isolation, capacity: &Capacity, in_use: InUse) -> Result<(), String> {
    let wanted = in_use.and(workload, level);
    let ensure = |ok: bool, what: &str, wanted: u64, limit: u64| {
        if ok { Ok(()) } else { Err(format!("{what}: {wanted} wanted in all, {limit} there")) }
    };
    let own = workload.resources.cpus;
    ensure(own <= capacity.cpus, "CPUs of one machine", own.into(), capacity.cpus.into())?;
    ensure(wanted.cpus <= capacity.cpus_in_all, "virtual CPUs", wanted.cpus.into(), capacity.cpus_in_all.into())?;
    ensure(wanted.memory_mib <= capacity.memory_mib, "memory in MiB", wanted.memory_mib, capacity.memory_mib)?;
    ensure(wanted.disk_mib <= capacity.disk_mib, "disk in MiB", wanted.disk_mib, capacity.disk_mib)?;
    ensure(wanted.instances <= capacity.instances, "instances", wanted.instances as u64, capacity.instances as u64)?;
    // Layers can share one disk, assets cannot; root and the layers' pack are always there.
    let disks = 2 + workload.assets.len();
    ensure(disks <= capacity.disks, "disks of one machine", disks as u64, capacity.disks as u64)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use casemate_api::workload::{Image, Layer, Process, Resources, format_digest};
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    pub(crate) fn workload() -> Workload {
        Workload {
            version: 1,
            name: "test".into(),
            isolation: Isolation::Microvm,
            image: Image {
                source: String::new(),
                manifest: format_digest(&[1; 32]),
                layers: vec![Layer { blob: format_digest(&[2; 32]), root_hash: hex::encode([3; 32]), data_blocks: 9 }],
            },
            process: Process { args: vec!["x".into()], env: BTreeMap::new(), cwd: "/".into(), user: String::new() },
            resources: Resources { cpus: 1, memory_mib: 256, scratch_mib: 64 },
            assets: vec![],
            network: None,
            output_path: String::new(),
            ttl_s: 600,
            tenant_key: hex::encode([5; 32]),
        }
    }

    pub(crate) fn body() -> Body {
        Body {
            version: 1,
            instance: "i-1".into(),
            node: "n-1".into(),
            generation: 1,
            intent: Intent::Run,
            level: Isolation::Microvm,
            workload: String::from_utf8(workload().to_canonical()).unwrap(),
            issued_at_ms: 1_000,
            start_before_ms: 10_000,
            grace_ms: 500,
        }
    }

    pub(crate) fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    pub(crate) fn sign(body: &Body) -> node::Assignment {
        let body = canonical::to_vec(body);
        let signature = key().sign(&signed_bytes(&body)).to_bytes().to_vec();
        node::Assignment { body, signature }
    }

    pub(crate) fn order(body: &Body) -> Order {
        authenticate(&sign(body), &"n-1".parse().unwrap(), &key().verifying_key()).unwrap()
    }

    const CAPACITY: Capacity = Capacity { memory_mib: 1024, cpus: 2, cpus_in_all: 8, disk_mib: 1000, instances: 2, disks: 4 };

    fn check_of(result: Result<Order, Refusal>) -> String {
        result.unwrap_err().failure.check
    }

    #[test]
    fn takes_only_what_the_platform_signed_for_this_node() {
        let me: NodeId = "n-1".parse().unwrap();
        let platform = key().verifying_key();
        assert!(authenticate(&sign(&body()), &me, &platform).is_ok());

        let mut changed = sign(&body());
        changed.body = canonical::to_vec(&Body { grace_ms: 501, ..body() });
        assert_eq!(check_of(authenticate(&changed, &me, &platform)), check::SIGNATURE);

        let stranger = SigningKey::from_bytes(&[8; 32]).verifying_key();
        assert_eq!(check_of(authenticate(&sign(&body()), &me, &stranger)), check::SIGNATURE);

        let cut = node::Assignment { signature: vec![0; 63], ..sign(&body()) };
        assert_eq!(check_of(authenticate(&cut, &me, &platform)), check::SIGNATURE);

        let other = sign(&Body { node: "n-2".into(), ..body() });
        assert_eq!(check_of(authenticate(&other, &me, &platform)), check::NODE);
    }

    #[test]
    fn refuses_signed_bodies_that_are_not_canonical_or_name_paths() {
        let (me, platform): (NodeId, _) = ("n-1".parse().unwrap(), key().verifying_key());
        let pretty = serde_json::to_vec_pretty(&body()).unwrap();
        let signature = key().sign(&signed_bytes(&pretty)).to_bytes().to_vec();
        assert_eq!(check_of(authenticate(&node::Assignment { body: pretty, signature }, &me, &platform)), check::SIGNATURE);
        let path = sign(&Body { instance: "../x".into(), ..body() });
        assert_eq!(check_of(authenticate(&path, &me, &platform)), check::SIGNATURE);
    }

    #[test]
    fn refuses_what_is_late_malformed_or_too_big() {
        type Break = fn(&mut Workload);
        let start = |now, in_use, break_it: Break| {
            let mut workload = workload();
            break_it(&mut workload);
            let text = String::from_utf8(workload.to_canonical()).unwrap();
            admit(&order(&Body { workload: text, ..body() }), now, Some(&CAPACITY), in_use).map_err(|failure| failure.check)
        };
        let none = InUse::default();
        assert!(start(10_000, none, |_| {}).is_ok());
        assert_eq!(start(10_001, none, |_| {}).unwrap_err(), check::STALE);
        assert_eq!(start(0, none, |w| w.ttl_s = 0).unwrap_err(), check::WORKLOAD);
        assert_eq!(start(0, none, |w| w.isolation = Isolation::Confidential).unwrap_err(), check::LEVEL);
        assert!(start(0, none, |w| w.isolation = Isolation::Container).is_ok(), "a stronger level than asked for");
        assert_eq!(start(0, none, |w| w.resources.memory_mib = 1000).unwrap_err(), check::CAPACITY);
        assert_eq!(start(0, none, |w| w.resources.cpus = 3).unwrap_err(), check::CAPACITY);
        assert_eq!(start(0, none, |w| w.resources.scratch_mib = 2000).unwrap_err(), check::CAPACITY);
        let full = InUse { instances: 2, ..none };
        assert_eq!(start(0, full, |_| {}).unwrap_err(), check::CAPACITY);
        let busy = InUse { cpus: 8, ..none };
        assert_eq!(start(0, busy, |_| {}).unwrap_err(), check::CAPACITY);
        let without = admit(&order(&body()), 0, None, none).map_err(|failure| failure.check);
        assert_eq!(without.unwrap_err(), check::CAPACITY);
    }

    #[test]
    fn what_a_container_writes_counts_as_memory() {
        let of = |level| InUse::default().and(&workload(), level).memory_mib;
        assert_eq!(of(Isolation::Container) - of(Isolation::Microvm), workload().resources.scratch_mib);
        assert_eq!(of(Isolation::Sandbox), of(Isolation::Container));
    }
}
