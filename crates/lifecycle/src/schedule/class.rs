//! Offers that are alike in what hardly ever changes, with a tree over what does.

use super::{
    Demand, Lack, Levels, NoNode, Offer, Place, Prices, Rank, Standing, Tier,
    fit::{
        Ask, FULL, STRANDS_GPUS, Shares, ask, bucket, free_cpus, free_disk, free_memory, has_free_gpu, hour, load, more, rank,
        room, shares,
    },
};
use crate::NodeId;

/// What the offers of a class have in common.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    tier: Tier,
    levels: Levels,
    networked: Levels,
    place: Place,
    /// Model and memory, each once, in order.
    gpus: Vec<(String, u64)>,
}

impl Kind {
    pub(super) fn of(offer: &Offer) -> Self {
        let mut gpus: Vec<_> = offer.gpus.iter().map(|group| (group.model.clone(), group.memory_mib)).collect();
        gpus.sort_unstable();
        gpus.dedup();
        Self { tier: offer.tier, levels: offer.levels, networked: offer.networked, place: offer.place.clone(), gpus }
    }

    pub(super) fn ask(&self, demand: &Demand) -> Result<Ask, Lack> {
        let kinds = self.gpus.iter().map(|(model, memory_mib)| (model.as_str(), *memory_mib));
        let ask = ask(demand, (self.tier, self.levels, self.networked), &self.place, kinds)?;
        Ok(Ask { labels: label_bits(demand), ..ask })
    }
}

/// What the offers of a subtree that take work have at the most, and cost at the least.
#[derive(Debug, Clone, Copy)]
struct Bound {
    /// The slot with the smallest id.
    first: usize,
    prices: Prices,
    cpus: u64,
    memory_mib: u64,
    disk_mib: u64,
    gpus: u32,
    /// How full each is at least, of 1000.
    full: Shares,
    /// CPUs and memory of the largest.
    largest: Shares,
    /// Whether each has a free GPU that other work would strand.
    strands: bool,
    /// A bit for each label, by a hash.
    labels: u64,
}

impl Bound {
    fn of(slot: usize, offer: &Offer) -> Option<Self> {
        let free = |group: &super::GpuGroup| group.total.saturating_sub(group.used);
        (offer.standing == Standing::Ready).then(|| Self {
            first: slot,
            prices: offer.prices,
            cpus: free_cpus(offer).min(offer.total.cpus),
            memory_mib: free_memory(offer),
            disk_mib: free_disk(offer),
            gpus: offer.gpus.iter().map(free).fold(0, u32::saturating_add),
            full: shares(offer, 0, 0),
            largest: Shares { cpus: offer.total.cpus, memory: offer.total.memory_mib },
            strands: has_free_gpu(offer),
            labels: offer.labels.iter().fold(0, |bits, (name, value)| bits | label_bit(name, value)),
        })
    }

    fn join(one: Option<Self>, two: Option<Self>, slots: &[Option<Offer>]) -> Option<Self> {
        let (Some(one), Some(two)) = (one, two) else { return one.or(two) };
        let id = |bound: &Self| slots[bound.first].as_ref().map(|offer| &offer.node);
        Some(Self {
            first: if id(&one) <= id(&two) { one.first } else { two.first },
            prices: one.prices.least(&two.prices),
            cpus: one.cpus.max(two.cpus),
            memory_mib: one.memory_mib.max(two.memory_mib),
            disk_mib: one.disk_mib.max(two.disk_mib),
            gpus: one.gpus.max(two.gpus),
            full: Shares { cpus: one.full.cpus.min(two.full.cpus), memory: one.full.memory.min(two.full.memory) },
            largest: Shares { cpus: one.largest.cpus.max(two.largest.cpus), memory: one.largest.memory.max(two.largest.memory) },
            strands: one.strands && two.strands,
            labels: one.labels | two.labels,
        })
    }

    /// Whether one of them might do.
    fn may(&self, demand: &Demand, ask: &Ask) -> bool {
        demand.cpus <= self.cpus
            && ask.memory_mib <= self.memory_mib
            && ask.disk_mib <= self.disk_mib
            && ask.gpus <= self.gpus
            && ask.labels & !self.labels == 0
            && demand.most_per_hour.is_none_or(|most| hour(demand, ask, &self.prices) <= most)
    }

    /// None of them does better than this.
    fn best(&self, demand: &Demand, ask: &Ask) -> Rank {
        let more = more(self.largest, demand.cpus, ask.memory_mib);
        let load = (self.full.cpus + more.cpus).max(self.full.memory + more.memory).min(FULL);
        let stranded = if self.strands && demand.gpus.is_none() { STRANDS_GPUS } else { 0 };
        rank(demand, ask, hour(demand, ask, &self.prices), load + ask.distance + stranded)
    }
}

/// How far apart offers are, in each way that a demand may look at them; prices and sizes by their doublings.
type Point = [u64; 8];

fn point(offer: &Offer) -> Point {
    let gpus: u64 = offer.gpus.iter().map(|group| u64::from(group.total.saturating_sub(group.used))).sum();
    let prices = &offer.prices;
    [
        bucket(prices.cpu),
        bucket(prices.memory_gib),
        bucket(prices.disk_gib) / 2,
        bucket(prices.gpu),
        load(offer, 0, 0) / 16,
        bucket(free_memory(offer)) / 2,
        bucket(free_cpus(offer)) / 2,
        gpus * 8,
    ]
}

/// Offers in such an order that those of a subtree are much alike: its bound then says something of each of them.
fn neighbours(mut offers: Vec<Offer>, width: usize) -> Vec<Offer> {
    offers.sort_unstable_by(|one, two| one.node.cmp(&two.node));
    let mut points: Vec<(Point, usize)> = offers.iter().map(point).zip(0..).collect();
    halve(&mut points, width);
    let mut offers: Vec<Option<Offer>> = offers.into_iter().map(Some).collect();
    points.into_iter().filter_map(|(_, index)| offers[index].take()).collect()
}

/// Parts them where they are furthest apart, and each half again.
fn halve(points: &mut [(Point, usize)], width: usize) {
    let half = width / 2;
    if points.len() > half && half > 0 {
        let spread = |axis: usize| {
            let values = || points.iter().map(|(point, _)| point[axis]);
            values().max().unwrap_or(0) - values().min().unwrap_or(0)
        };
        let widest = (0..Point::default().len()).max_by_key(|axis| spread(*axis)).unwrap_or(0);
        points.select_nth_unstable_by_key(half, |(point, index)| (point[widest], *index));
    }
    if points.len() > 1 {
        let (cheap, dear) = points.split_at_mut(half.min(points.len()));
        halve(cheap, half);
        halve(dear, half);
    }
}

/// The labels of a demand, as a bit for each.
fn label_bits(demand: &Demand) -> u64 {
    demand.labels.iter().fold(0, |bits, (name, value)| bits | label_bit(name, value))
}

/// FNV-1a, folded to one of 64.
fn label_bit(name: &str, value: &str) -> u64 {
    let bytes = name.bytes().chain([0]).chain(value.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    1 << (hash >> 58)
}

/// A part of a class's tree that may hold a node that will do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) at: usize,
    pub(super) best: Rank,
    pub(super) first: &'a NodeId,
}

/// The offers of one kind. Slots are the leaves of a binary tree, next to those that are alike when it was built.
#[derive(Debug, Clone)]
pub(super) struct Class {
    pub(super) kind: Kind,
    slots: Vec<Option<Offer>>,
    vacant: Vec<usize>,
    /// The root is 1, the children of `n` are `2n` and `2n + 1`, the leaves come from `width` on.
    tree: Vec<Option<Bound>>,
    width: usize,
    /// Slots that were filled after the last building, out of order.
    late: usize,
    standings: [usize; Standing::COUNT],
}

/// The root of every tree.
pub(super) const ROOT: usize = 1;

impl Class {
    pub(super) fn new(kind: Kind, offers: Vec<Offer>) -> Self {
        let standings = [0; Standing::COUNT];
        let mut class = Self { kind, slots: Vec::new(), vacant: Vec::new(), tree: Vec::new(), width: 0, late: 0, standings };
        class.build(offers);
        class
    }

    fn build(&mut self, offers: Vec<Offer>) {
        self.width = (offers.len() + offers.len() / 4 + 1).next_power_of_two();
        let offers = neighbours(offers, self.width);
        self.standings = [0; Standing::COUNT];
        offers.iter().for_each(|offer| self.standings[offer.standing as usize] += 1);
        self.slots = offers.into_iter().map(Some).collect();
        (self.vacant, self.late) = (Vec::new(), 0);
        self.tree = vec![None; 2 * self.width];
        for (slot, offer) in self.slots.iter().enumerate() {
            self.tree[self.width + slot] = offer.as_ref().and_then(|offer| Bound::of(slot, offer));
        }
        for at in (ROOT..self.width).rev() {
            self.tree[at] = Bound::join(self.tree[2 * at], self.tree[2 * at + 1], &self.slots);
        }
    }

    pub(super) fn offers(&self) -> impl Iterator<Item = &Offer> {
        self.slots.iter().flatten()
    }

    /// Offers with their slots.
    pub(super) fn places(&self) -> impl Iterator<Item = (usize, &Offer)> {
        self.slots.iter().enumerate().filter_map(|(slot, offer)| Some((slot, offer.as_ref()?)))
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Offer> {
        self.slots.get(slot)?.as_ref()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.standings.iter().all(|count| *count == 0)
    }

    /// Puts an offer into a slot of its own; `None` when that moved the others.
    pub(super) fn add(&mut self, offer: Offer) -> Option<usize> {
        let slot = self.vacant.pop().unwrap_or(self.slots.len());
        self.late += 1;
        if slot == self.width || self.late > self.width / 2 {
            let offers = std::mem::take(&mut self.slots).into_iter().flatten().chain([offer]).collect();
            self.build(offers);
            return None;
        }
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.set(slot, Some(offer));
        Some(slot)
    }

    /// Replaces the offer in a slot.
    pub(super) fn set(&mut self, slot: usize, offer: Option<Offer>) {
        if let Some(before) = &self.slots[slot] {
            self.standings[before.standing as usize] -= 1;
        }
        match &offer {
            Some(offer) => self.standings[offer.standing as usize] += 1,
            None => self.vacant.push(slot),
        }
        self.slots[slot] = offer;
        let mut at = self.width + slot;
        self.tree[at] = self.slots[slot].as_ref().and_then(|offer| Bound::of(slot, offer));
        while at > ROOT {
            at /= 2;
            self.tree[at] = Bound::join(self.tree[2 * at], self.tree[2 * at + 1], &self.slots);
        }
    }

    /// This part of the tree, if a node in it might do.
    pub(super) fn part(&self, at: usize, demand: &Demand, ask: &Ask) -> Option<Part<'_>> {
        let bound = self.tree[at].as_ref().filter(|bound| bound.may(demand, ask))?;
        let first = &self.slots[bound.first].as_ref()?.node;
        Some(Part { at, best: bound.best(demand, ask), first })
    }

    /// The offer of a leaf; `None` for what has parts.
    pub(super) fn leaf(&self, at: usize) -> Option<&Offer> {
        self.get(at.checked_sub(self.width)?)
    }

    /// Why none of them will do; with `ask` of those that take work.
    pub(super) fn explain(&self, demand: &Demand, ask: &Result<Ask, Lack>, out: &mut NoNode) {
        let standings = [
            Standing::Suspended,
            Standing::Maintenance,
            Standing::Untrusted,
            Standing::Drains,
            Standing::Disconnected,
            Standing::Held,
            Standing::Withdrawn,
        ];
        standings.into_iter().for_each(|standing| out.add(Lack::Standing(standing), self.standings[standing as usize]));
        match ask {
            Err(lack) => out.add(*lack, self.standings[Standing::Ready as usize]),
            Ok(ask) => {
                let ready = self.offers().filter(|offer| offer.standing == Standing::Ready);
                ready.filter_map(|offer| room(demand, ask, offer).err()).for_each(|lack| out.add(lack, 1));
            }
        }
    }
}
