//! What the store knows of nodes and workloads, as the scheduler of [`casemate_lifecycle::schedule`] takes it.

use casemate_api::workload::{Isolation, Workload};
use casemate_lifecycle::schedule::{
    Demand, GpuGroup, Level, Levels, MACHINE_OVERHEAD_MIB, Offer, Place, Prices, Room, Standing, Tier,
};
use serde_json::Value;

use crate::store;

/// Most groups of GPUs that are read of an inventory.
const MAX_GPU_GROUPS: usize = 64;

/// What a node offers, as the scheduler sees it.
pub fn offer(known: &store::Offer, now_ms: u64) -> Offer {
    let measured = Measured::of(&known.inventory);
    let terms = known.terms.as_ref();
    let of = |own: u64, offered: Option<u64>| offered.map_or(own, |offered| offered.min(own));
    let offered = terms.and_then(|terms| terms.levels.as_ref()).map(|levels| levels_of(levels.iter().map(String::as_str)));
    let both = |levels: Vec<Level>| -> Levels {
        levels.into_iter().filter(|level| offered.as_ref().is_none_or(|offered| offered.contains(level))).collect()
    };
    Offer {
        node: known.id.clone(),
        hoster: known.hoster.clone(),
        standing: standing(known, now_ms),
        tier: if known.simulated { Tier::Simulated } else { Tier::Attested },
        levels: both(measured.levels),
        networked: both(measured.networked),
        total: Room {
            cpus: of(measured.cpus, terms.and_then(|terms| terms.cpus)),
            memory_mib: of(measured.memory_mib, terms.and_then(|terms| terms.memory_mib)),
            disk_mib: measured.disk_mib.map(|disk| of(disk, terms.and_then(|terms| terms.disk_mib))),
        },
        used: Room {
            cpus: known.used_cpus,
            memory_mib: known.used_memory_mib.saturating_add(u64::from(known.instances) * MACHINE_OVERHEAD_MIB),
            disk_mib: Some(known.used_disk_mib),
        },
        gpus: measured.gpus,
        place: terms.and_then(|terms| terms.place.parse().ok()).unwrap_or_default(),
        prices: terms.map_or_else(Prices::default, |terms| Prices {
            cpu: terms.cpu_price,
            memory_gib: terms.memory_price,
            disk_gib: terms.disk_price,
            gpu: terms.gpu_price,
        }),
        labels: terms.map(|terms| terms.labels.0.clone()).unwrap_or_default(),
    }
}

/// What stands most in the way of new work.
fn standing(known: &store::Offer, now_ms: u64) -> Standing {
    let over = |terms: &store::Terms| terms.withdrawn_at_ms.is_some() || terms.ends_at_ms.is_some_and(|end| end <= now_ms);
    if known.suspended {
        Standing::Suspended
    } else if known.maintenance {
        Standing::Maintenance
    } else if !known.trusted {
        Standing::Untrusted
    } else if known.drains {
        Standing::Drains
    } else if !known.connected {
        Standing::Disconnected
    } else if known.inventory["dedicated"]["held"] == true {
        Standing::Held
    } else if known.terms.as_ref().is_some_and(over) {
        Standing::Withdrawn
    } else {
        Standing::Ready
    }
}

/// What a node has by its own inventory.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// CPUs.
    pub cpus: u64,
    /// Memory for instances.
    pub memory_mib: u64,
    /// Disk for instances, where it was told.
    pub disk_mib: Option<u64>,
    /// Isolation levels.
    pub levels: Vec<Level>,
    /// Those whose instances can have a network.
    pub networked: Vec<Level>,
    /// GPUs. No agent tells of any yet.
    pub gpus: Vec<GpuGroup>,
}

impl Measured {
    /// Reads an inventory. What is not there, the node does not have.
    pub fn of(inventory: &Value) -> Self {
        let number = |name: &str| inventory.get(name).and_then(Value::as_u64);
        let texts = |list: &Value| -> Vec<Level> { levels_of(list.as_array().into_iter().flatten().filter_map(Value::as_str)) };
        let drivers = inventory["drivers"].as_array().into_iter().flatten();
        let networked = drivers.filter(|driver| driver["network"] == true).filter_map(|driver| driver["level"].as_str());
        let gpus = inventory["gpus"].as_array().into_iter().flatten().take(MAX_GPU_GROUPS);
        Self {
            cpus: number("cpus").unwrap_or(0),
            memory_mib: number("memory_mib").unwrap_or(0),
            disk_mib: number("disk_mib"),
            levels: texts(&inventory["isolation_levels"]),
            networked: levels_of(networked),
            gpus: gpus.filter_map(gpu_group).collect(),
        }
    }
}

fn gpu_group(value: &Value) -> Option<GpuGroup> {
    let small = |name: &str| value.get(name).and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
    Some(GpuGroup {
        model: value.get("model")?.as_str()?.to_owned(),
        memory_mib: value.get("memory_mib")?.as_u64()?,
        island: small("island").unwrap_or(0),
        total: small("count")?,
        used: 0,
    })
}

fn levels_of<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Level> {
    texts.filter_map(|text| text.parse::<Isolation>().ok()).map(level).collect()
}

/// What a workload asks for, before any wish about where.
pub fn demand(workload: &Workload) -> Demand {
    Demand {
        level: level(workload.isolation),
        tier: Tier::Simulated,
        cpus: u64::from(workload.resources.cpus),
        memory_mib: workload.resources.memory_mib,
        scratch_mib: workload.resources.scratch_mib,
        network: workload.network.is_some(),
        gpus: None,
        node: None,
        within: Place::default(),
        most_per_hour: None,
        labels: std::collections::BTreeMap::new(),
        near: Place::default(),
        prefer: casemate_lifecycle::schedule::Prefer::default(),
        beside: casemate_lifecycle::schedule::Beside::default(),
    }
}

/// The level as the scheduler has it.
pub fn level(isolation: Isolation) -> Level {
    match isolation {
        Isolation::Container => Level::Container,
        Isolation::Sandbox => Level::Sandbox,
        Isolation::Microvm => Level::Microvm,
        Isolation::Confidential => Level::Confidential,
    }
}

/// The level as workloads have it.
pub fn isolation(level: Level) -> Isolation {
    match level {
        Level::Container => Isolation::Container,
        Level::Sandbox => Isolation::Sandbox,
        Level::Microvm => Isolation::Microvm,
        Level::Confidential => Isolation::Confidential,
    }
}

#[cfg(test)]
mod tests {
    use casemate_lifecycle::schedule::{Lack, fit};
    use serde_json::json;

    use super::*;
    use crate::store::{Labels, Terms};

    fn known() -> store::Offer {
        store::Offer {
            id: "n-a".parse().unwrap(),
            hoster: None,
            simulated: true,
            terms: None,
            trusted: true,
            suspended: false,
            maintenance: false,
            drains: false,
            connected: true,
            inventory: json!({
                "cpus": 2, "memory_mib": 4096, "disk_mib": 1000, "isolation_levels": ["container", "microvm", "quantum"],
                "drivers": [{ "level": "microvm", "network": true }, { "level": "container", "network": false }],
            }),
            instances: 0,
            used_cpus: 0,
            used_memory_mib: 0,
            used_disk_mib: 0,
        }
    }

    fn terms() -> Terms {
        Terms {
            version: 1,
            set_by: "h".into(),
            set_at_ms: 0,
            cpus: Some(64),
            memory_mib: Some(1024),
            disk_mib: None,
            cpu_price: 1,
            memory_price: 2,
            disk_price: 3,
            gpu_price: 4,
            place: "eu".into(),
            labels: Labels::default(),
            levels: Some(vec!["microvm".into(), "confidential".into()]),
            ends_at_ms: Some(100),
            withdrawn_at_ms: None,
        }
    }

    fn wanted() -> Demand {
        Demand {
            level: Level::Container,
            tier: Tier::Simulated,
            cpus: 1,
            memory_mib: 512,
            scratch_mib: 64,
            network: false,
            gpus: None,
            node: None,
            within: Place::default(),
            most_per_hour: None,
            labels: Default::default(),
            near: Place::default(),
            prefer: Default::default(),
            beside: Default::default(),
        }
    }

    #[test]
    fn each_reason_is_told_the_weightiest_first() {
        let lack = |known: store::Offer| fit(&wanted(), &offer(&known, 5)).err();
        assert_eq!(lack(known()), None);
        let all = store::Offer { suspended: true, maintenance: true, trusted: false, drains: true, connected: false, ..known() };
        assert_eq!(lack(all.clone()), Some(Lack::Standing(Standing::Suspended)));
        let all = store::Offer { suspended: false, ..all };
        assert_eq!(lack(all.clone()), Some(Lack::Standing(Standing::Maintenance)));
        let all = store::Offer { maintenance: false, ..all };
        assert_eq!(lack(all.clone()), Some(Lack::Standing(Standing::Untrusted)));
        let all = store::Offer { trusted: true, ..all };
        assert_eq!(lack(all.clone()), Some(Lack::Standing(Standing::Drains)));
        assert_eq!(lack(store::Offer { drains: false, ..all }), Some(Lack::Standing(Standing::Disconnected)));
        let mut held = known();
        held.inventory["dedicated"]["held"] = true.into();
        assert_eq!(lack(held), Some(Lack::Standing(Standing::Held)));
        assert_eq!(lack(store::Offer { used_memory_mib: 4000, ..known() }), Some(Lack::Memory));
        assert_eq!(lack(store::Offer { instances: 60, ..known() }), Some(Lack::Memory), "each machine has an overhead");
        assert_eq!(lack(store::Offer { used_cpus: 8, ..known() }), Some(Lack::Cpus));
        assert_eq!(lack(store::Offer { inventory: json!({}), ..known() }), Some(Lack::Level), "what is not told is not there");
        assert_eq!(lack(store::Offer { inventory: json!("?"), ..known() }), Some(Lack::Level));
    }

    #[test]
    fn the_level_asked_for_is_given_where_it_is_and_a_network_where_there_is_one() {
        let given = |network| fit(&Demand { network, ..wanted() }, &offer(&known(), 5)).unwrap();
        assert_eq!((given(false).level, given(true).level), (Level::Container, Level::Microvm));
        // What a container writes is in memory.
        assert_eq!((given(false).memory_mib, given(false).disk_mib), (512 + 64 + MACHINE_OVERHEAD_MIB, 0));
        assert_eq!((given(true).memory_mib, given(true).disk_mib), (512 + MACHINE_OVERHEAD_MIB, 64));
        let full = store::Offer { used_disk_mib: 990, ..known() };
        assert_eq!(fit(&Demand { network: true, ..wanted() }, &offer(&full, 5)).err(), Some(Lack::Disk));
    }

    #[test]
    fn an_offer_never_makes_more_of_a_node_than_was_measured() {
        let sold = store::Offer { terms: Some(terms()), ..known() };
        let seen = offer(&sold, 99);
        assert_eq!((seen.total.cpus, seen.total.memory_mib, seen.standing), (2, 1024, Standing::Ready));
        assert!(!seen.levels.has(Level::Container) && seen.levels.has(Level::Microvm) && !seen.levels.has(Level::Confidential));
        assert_eq!(offer(&sold, 100).standing, Standing::Withdrawn, "its time is over");
        let back = store::Offer { terms: Some(Terms { withdrawn_at_ms: Some(1), ends_at_ms: None, ..terms() }), ..known() };
        assert_eq!(offer(&back, 0).standing, Standing::Withdrawn);
    }
}
