//! Whether a node will do, and how well.

use super::{
    CPU_OVERCOMMIT, Demand, GpuDemand, GpuGroup, Lack, Level, Levels, MACHINE_OVERHEAD_MIB, Offer, Place, Prefer, Standing,
};

/// What an instance gets at a node that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// At this level: the weakest of the node's that is not below what was asked for.
    pub level: Level,
    /// What it takes of the node's memory, the machine's overhead included.
    pub memory_mib: u64,
    /// What it takes of the node's disk.
    pub disk_mib: u64,
    /// What an hour costs, in the smallest unit of money.
    pub price_per_hour: u64,
    /// How well it does; less is better.
    pub rank: Rank,
}

/// How well a node does; less is better. Equal ones are told apart by their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// Nobody is given more isolation than he asked for, where there is another node: who asks for a container gets one.
    level: Level,
    first: u64,
    second: u64,
    price: u64,
}

/// What a node of some class would have to give, without looking at the node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) level: Level,
    pub(super) memory_mib: u64,
    pub(super) disk_mib: u64,
    pub(super) gpus: u32,
    /// What the place costs in rank.
    pub(super) distance: u64,
    /// Its labels, as a bit for each.
    pub(super) labels: u64,
}

/// Whether this node will do, or the first thing that stands in the way.
pub fn fit(demand: &Demand, offer: &Offer) -> Result<Fit, Lack> {
    if demand.node.as_ref().is_some_and(|node| *node != offer.node) {
        return Err(Lack::Other);
    }
    if offer.standing != Standing::Ready {
        return Err(Lack::Standing(offer.standing));
    }
    let kinds = offer.gpus.iter().map(|group| (group.model.as_str(), group.memory_mib));
    let ask = ask(demand, (offer.tier, offer.levels, offer.networked), &offer.place, kinds)?;
    room(demand, &ask, offer)
}

/// The part that is the same for all nodes of a class.
pub(super) fn ask<'a>(
    demand: &Demand,
    (tier, levels, networked): (super::Tier, Levels, Levels),
    place: &Place,
    mut kinds: impl Iterator<Item = (&'a str, u64)>,
) -> Result<Ask, Lack> {
    if tier < demand.tier {
        return Err(Lack::Tier);
    }
    if !demand.within.contains(place) {
        return Err(Lack::Place);
    }
    let offered = if demand.network { networked } else { levels };
    let level = match offered.at_least(demand.level) {
        Some(level) => level,
        None if levels.at_least(demand.level).is_some() => return Err(Lack::Network),
        None => return Err(Lack::Level),
    };
    if demand.gpus.as_ref().is_some_and(|wanted| !kinds.any(|(model, memory_mib)| is_kind(wanted, model, memory_mib))) {
        return Err(Lack::GpuKind);
    }
    // What a container writes is in memory.
    let (scratch_memory, disk_mib) = if level < Level::Microvm { (demand.scratch_mib, 0) } else { (0, demand.scratch_mib) };
    Ok(Ask {
        level,
        memory_mib: demand.memory_mib.saturating_add(scratch_memory).saturating_add(MACHINE_OVERHEAD_MIB),
        disk_mib,
        gpus: demand.gpus.as_ref().map_or(0, |wanted| wanted.count),
        distance: (demand.near.parts() - demand.near.common(place)) as u64 * PER_DISTANCE,
        labels: 0,
    })
}

/// The part that each node answers for itself.
pub(super) fn room(demand: &Demand, ask: &Ask, offer: &Offer) -> Result<Fit, Lack> {
    let price = hour(demand, ask, &offer.prices);
    if demand.most_per_hour.is_some_and(|most| price > most) {
        return Err(Lack::Price);
    }
    if demand.labels.iter().any(|(name, value)| offer.labels.get(name) != Some(value)) {
        return Err(Lack::Labels);
    }
    if demand.cpus > offer.total.cpus || demand.cpus > free_cpus(offer) {
        return Err(Lack::Cpus);
    }
    if ask.memory_mib > free_memory(offer) {
        return Err(Lack::Memory);
    }
    if ask.disk_mib > free_disk(offer) {
        return Err(Lack::Disk);
    }
    let gpus = match &demand.gpus {
        None => u64::from(has_free_gpu(offer)) * STRANDS_GPUS,
        Some(wanted) => gpus(wanted, &offer.gpus)?,
    };
    let company = |count: Option<&u32>, each: u64| u64::from(count.copied().unwrap_or(0).min(MOST_COMPANY)) * each;
    let nodes = company(demand.beside.nodes.get(&offer.node), PER_SAME_NODE);
    let hoster = offer.hoster.as_ref().and_then(|hoster| demand.beside.hosters.get(hoster));
    let soft = load(offer, demand.cpus, ask.memory_mib) + ask.distance + gpus + nodes + company(hoster, PER_SAME_HOSTER);
    let rank = rank(demand, ask, price, soft);
    Ok(Fit { level: ask.level, memory_mib: ask.memory_mib, disk_mib: ask.disk_mib, price_per_hour: price, rank })
}

pub(super) fn hour(demand: &Demand, ask: &Ask, prices: &super::Prices) -> u64 {
    // The machine's overhead is the hoster's.
    let memory_mib = ask.memory_mib.saturating_sub(MACHINE_OVERHEAD_MIB);
    prices.hour(demand.cpus, memory_mib, ask.disk_mib, u64::from(ask.gpus))
}

/// Grows with each part, so that the least of each part gives a lower bound.
pub(super) fn rank(demand: &Demand, ask: &Ask, price: u64, soft: u64) -> Rank {
    let (first, second) = match demand.prefer {
        Prefer::Price => (bucket(price), soft),
        Prefer::Spread => (soft, bucket(price)),
    };
    Rank { level: ask.level, first, second, price }
}

/// Prices that are much alike are equal: the buckets grow with the price, 16 to each doubling.
pub(super) fn bucket(price: u64) -> u64 {
    const FINE_BITS: u32 = 4;
    let bits = u64::BITS - price.leading_zeros();
    if bits <= FINE_BITS {
        return price;
    }
    let shift = bits - 1 - FINE_BITS;
    (u64::from(shift) << FINE_BITS) + (price >> shift)
}

pub(super) fn free_cpus(offer: &Offer) -> u64 {
    offer.total.cpus.saturating_mul(CPU_OVERCOMMIT).saturating_sub(offer.used.cpus)
}

pub(super) fn free_memory(offer: &Offer) -> u64 {
    offer.total.memory_mib.saturating_sub(offer.used.memory_mib)
}

/// A disk that nobody measured limits nothing here; the node looks itself before it begins.
pub(super) fn free_disk(offer: &Offer) -> u64 {
    offer.total.disk_mib.map_or(u64::MAX, |total| total.saturating_sub(offer.used.disk_mib.unwrap_or(0)))
}

/// Parts of a node's CPUs and memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    pub(super) cpus: u64,
    pub(super) memory: u64,
}

/// How full a node is with so much more: by what it has least of.
pub(super) fn load(offer: &Offer, cpus: u64, memory_mib: u64) -> u64 {
    let Shares { cpus, memory } = shares(offer, cpus, memory_mib);
    cpus.max(memory)
}

/// How full a node is with so much more, of [`FULL`].
pub(super) fn shares(offer: &Offer, cpus: u64, memory_mib: u64) -> Shares {
    Shares {
        cpus: share(offer.used.cpus.saturating_add(cpus), offer.total.cpus.saturating_mul(CPU_OVERCOMMIT)),
        memory: share(offer.used.memory_mib.saturating_add(memory_mib), offer.total.memory_mib),
    }
}

/// What so much more comes to at the least, where the largest node has `largest`.
pub(super) fn more(largest: Shares, cpus: u64, memory_mib: u64) -> Shares {
    let cpus = share(cpus, largest.cpus.saturating_mul(CPU_OVERCOMMIT));
    Shares { cpus, memory: share(memory_mib, largest.memory) }
}

fn share(part: u64, whole: u64) -> u64 {
    let share = (u128::from(part) * u128::from(FULL)).checked_div(u128::from(whole));
    share.map_or(FULL, |share| u64::try_from(share).unwrap_or(FULL).min(FULL))
}

pub(super) fn has_free_gpu(offer: &Offer) -> bool {
    offer.gpus.iter().any(|group| group.used < group.total)
}

fn is_kind(wanted: &GpuDemand, model: &str, memory_mib: u64) -> bool {
    memory_mib >= wanted.memory_mib && wanted.model.as_ref().is_none_or(|name| name == model)
}

/// What taking the GPUs costs in rank: little where they are linked and few are left over.
fn gpus(wanted: &GpuDemand, groups: &[GpuGroup]) -> Result<u64, Lack> {
    let kind = |group: &&GpuGroup| is_kind(wanted, &group.model, group.memory_mib);
    let mut lack = Lack::Gpus;
    let mut best = None;
    for group in groups.iter().filter(kind) {
        let alike = |other: &&GpuGroup| (&other.model, other.memory_mib) == (&group.model, group.memory_mib);
        let free = |group: &GpuGroup| u64::from(group.total.saturating_sub(group.used));
        let linked: u64 = groups.iter().filter(|other| other.island == group.island).filter(alike).map(free).sum();
        let all: u64 = groups.iter().filter(alike).map(free).sum();
        let count = u64::from(wanted.count);
        let cost = if linked >= count {
            (linked - count).min(MOST_LEFT_OVER) * PER_GPU_LEFT_OVER
        } else if all >= count && !wanted.linked {
            NOT_LINKED
        } else {
            if all >= count {
                lack = Lack::GpuLinks;
            }
            continue;
        };
        best = Some(best.map_or(cost, |known: u64| known.min(cost)));
    }
    best.ok_or(lack)
}

/// As full as a node can be.
pub(super) const FULL: u64 = 1000;
/// For each part of the wished place that is another one.
const PER_DISTANCE: u64 = 200;
const PER_SAME_NODE: u64 = 400;
const PER_SAME_HOSTER: u64 = 100;
const MOST_COMPANY: u32 = 10;
/// Work that needs none keeps away from free GPUs.
pub(super) const STRANDS_GPUS: u64 = 500;
const PER_GPU_LEFT_OVER: u64 = 20;
const MOST_LEFT_OVER: u64 = 16;
const NOT_LINKED: u64 = 600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_grow_with_the_price_and_are_at_most_a_sixteenth_wide() {
        let mut before = 0;
        for price in (0..70).chain([100, 1000, 1_000_000, u64::MAX - 1, u64::MAX]) {
            assert!(bucket(price) >= before, "{price}");
            before = bucket(price);
        }
        assert!(bucket(1_000_000) < bucket(1_070_000));
        for price in 0..5000 {
            assert!(bucket(price + price / 16 + 1) > bucket(price), "{price}");
            assert!(bucket(price) <= bucket(price + 1));
        }
    }
}
