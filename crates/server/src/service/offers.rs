//! Offers: what hosters ask for their nodes, and what there is to rent.

use std::{collections::BTreeMap, sync::Arc};

use casemate_api::rest;
use casemate_lifecycle::{
    NodeId,
    schedule::{CPU_OVERCOMMIT, Lack, Level, Offer, Place, Prices, Standing, Tier},
};

use super::{Caller, Service};
use crate::{
    clock::now_ms,
    fault::Fault,
    life::clipped,
    schedule::{self, Measured},
    store::{Labels, Role, Terms},
};

/// Most labels of an offer.
const MAX_LABELS: usize = 16;
/// Longest name or value of a label.
const MAX_LABEL: usize = 63;
/// Highest price of an hour of anything: a million.
const MAX_PRICE: u64 = 1_000_000 * casemate_lifecycle::schedule::UNITS;
/// Most offers in one answer, and how many there are when nobody says.
const MAX_PAGE: usize = 1000;
const PAGE: usize = 100;

/// Which offers, in which order.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// With this isolation level or a stronger one.
    pub level: Option<String>,
    /// With such trust, or better founded.
    pub trust_tier: Option<String>,
    /// With so many free CPUs.
    pub cpus: Option<u64>,
    /// With so much free memory.
    pub memory_mib: Option<u64>,
    /// Within this place.
    pub within: Option<String>,
    /// With a GPU of this model.
    pub gpu: Option<String>,
    /// With this label, `name=value`.
    pub label: Option<String>,
    /// Not dearer in an hour of one CPU with 4 GiB of memory.
    pub most_per_hour: Option<u64>,
    /// Only those that take new work.
    pub ready: bool,
    /// `node` or `price`.
    pub sort: Option<String>,
    /// After this one.
    pub after: Option<String>,
    /// How many.
    pub limit: Option<usize>,
}

impl Service {
    /// What there is to rent.
    pub async fn offers(&self, caller: &Caller, wanted: &Wanted) -> Result<rest::Offers, Fault> {
        let filter = Filter::of(wanted)?;
        self.0.market.read_when_old(self.store()).await?;
        let mut found = self.0.market.list(|offer, terms| {
            let key = (if filter.by_price { unit_price(&offer.prices) } else { 0 }, offer.node.clone());
            let comes = filter.wants(offer) && filter.after.as_ref().is_none_or(|after| key > *after);
            comes.then(|| (key, offer.clone(), terms.cloned()))
        });
        found.sort_unstable_by(|one, two| one.0.cmp(&two.0));
        let more = found.len() > filter.limit;
        found.truncate(filter.limit);
        let last = found.last().filter(|_| more).map(|(key, ..)| format!("{}.{}", key.0, key.1));
        let offers = found.into_iter().map(|(_, offer, terms)| view(caller, &offer, terms.as_ref())).collect();
        Ok(rest::Offers { offers, next: last })
    }

    /// One of them, as it is now.
    pub async fn offer(&self, caller: &Caller, node: &str) -> Result<rest::Offer, Fault> {
        let id = node.parse::<NodeId>().map_err(|_| unknown(node))?;
        let known = self.store().offer(&id).await?.ok_or_else(|| unknown(node))?;
        let seen = schedule::offer(&known, now_ms());
        self.0.market.learn(&id, Some(&known));
        Ok(view(caller, &seen, known.terms.map(Arc::new).as_ref()))
    }

    /// Sets what the caller asks for a node of his. What was placed before keeps what it was placed on.
    pub async fn set_offer(&self, caller: &Caller, node: &str, new: rest::NewOffer) -> Result<rest::Offer, Fault> {
        let node = self.own_node(caller, node).await?;
        check(&new, &Measured::of(&node.inventory), now_ms())?;
        let terms = Terms {
            version: 0,
            set_by: caller.account.clone(),
            set_at_ms: now_ms(),
            cpus: new.cpus,
            memory_mib: new.memory_mib,
            disk_mib: new.disk_mib,
            cpu_price: new.prices.cpu,
            memory_price: new.prices.memory_gib,
            disk_price: new.prices.disk_gib,
            gpu_price: new.prices.gpu,
            place: new.place,
            labels: Labels(new.labels),
            levels: new.levels,
            ends_at_ms: new.ends_at_ms,
            withdrawn_at_ms: None,
        };
        if self.store().set_offer(&node.id, new.replaces, &terms).await?.is_none() {
            return Err(Fault::Conflict { detail: "the offer was changed meanwhile; look at it again".to_owned() });
        }
        self.offer(caller, node.id.as_str()).await
    }

    /// Takes an offer back: the node takes no new work until there is another one. What runs goes on.
    pub async fn withdraw_offer(&self, caller: &Caller, node: &str) -> Result<(), Fault> {
        let node = self.own_node(caller, node).await?;
        if !self.store().withdraw_offer(&node.id, now_ms()).await? {
            return Err(Fault::NotFound { what: "offer of node", id: node.id.to_string() });
        }
        self.offer(caller, node.id.as_str()).await.map(drop)
    }
}

/// Refuses what is no offer, or says more than was measured.
fn check(new: &rest::NewOffer, measured: &Measured, now_ms: u64) -> Result<(), Fault> {
    let invalid = |what: &'static str, detail: String| Err(Fault::Invalid { what, detail, hint: HINT });
    let of = [
        ("cpus", new.cpus, Some(measured.cpus)),
        ("memory_mib", new.memory_mib, Some(measured.memory_mib)),
        ("disk_mib", new.disk_mib, measured.disk_mib),
    ];
    for (what, claimed, has) in of {
        let Some(claimed) = claimed else { continue };
        match has {
            _ if claimed == 0 => return invalid(what, "must be more than 0; withdraw the offer instead".to_owned()),
            Some(has) if claimed > has => {
                return invalid(what, format!("the offer says {claimed}, but the node has {has} by its inventory"));
            }
            None => return invalid(what, format!("the offer says {claimed}, but nobody measured it")),
            Some(_) => {}
        }
    }
    for text in new.levels.iter().flatten() {
        let known = text.parse().ok().map(schedule::level);
        if !known.is_some_and(|level| measured.levels.contains(&level)) {
            return invalid("levels", format!("the node has no level {:?} by its inventory", clipped(text, 40)));
        }
    }
    if new.levels.as_ref().is_some_and(|levels| levels.is_empty() || levels.len() > Level::ALL.len()) {
        return invalid("levels", "leave them out for all, or name each once".to_owned());
    }
    check_gpus(&new.gpus, measured)?;
    let prices = [new.prices.cpu, new.prices.memory_gib, new.prices.disk_gib, new.prices.gpu];
    if prices.iter().any(|price| *price > MAX_PRICE) {
        return invalid("prices", format!("each is {MAX_PRICE} at the most"));
    }
    if let Err(error) = new.place.parse::<Place>() {
        return invalid("place", error.to_string());
    }
    if new.ends_at_ms.is_some_and(|end| end <= now_ms) {
        return invalid("ends_at_ms", "is over already; withdraw the offer instead".to_owned());
    }
    check_labels(&new.labels)
}

fn check_gpus(claims: &[rest::GpuClaim], measured: &Measured) -> Result<(), Fault> {
    let mut claimed = BTreeMap::<(&str, u64), u64>::new();
    for claim in claims {
        *claimed.entry((&claim.model, claim.memory_mib)).or_default() += u64::from(claim.count);
    }
    for ((model, memory_mib), count) in claimed {
        let alike = measured.gpus.iter().filter(|group| group.model == model && group.memory_mib == memory_mib);
        let has: u64 = alike.map(|group| u64::from(group.total)).sum();
        if count > has {
            let model = clipped(model, 60);
            let detail =
                format!("the offer says {count} of {model:?} with {memory_mib} MiB, but the node has {has} by its inventory");
            return Err(Fault::Invalid { what: "gpus", detail, hint: HINT });
        }
    }
    Ok(())
}

/// Refuses labels that are too many, too long, or no labels.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Fault> {
    let is_good = |text: &String| {
        (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
    };
    if labels.len() <= MAX_LABELS && labels.iter().all(|(name, value)| is_good(name) && is_good(value)) {
        return Ok(());
    }
    let detail = format!("at most {MAX_LABELS}, names and values of 1 to {MAX_LABEL} letters, digits, '-', '_', '.' and '/'");
    Err(Fault::Invalid { what: "labels", detail, hint: HINT })
}

const HINT: &str = "`casemate offers show NODE` shows what was measured";

/// A [`Wanted`] that was understood.
struct Filter<'a> {
    wanted: &'a Wanted,
    level: Option<Level>,
    tier: Tier,
    within: Place,
    label: Option<(&'a str, &'a str)>,
    by_price: bool,
    after: Option<(u64, NodeId)>,
    limit: usize,
}

impl<'a> Filter<'a> {
    fn of(wanted: &'a Wanted) -> Result<Self, Fault> {
        let invalid = |what| move |detail| Fault::Invalid { what, detail, hint: "/api/v1/openapi.json names the parameters" };
        let level = wanted.level.as_deref().map(str::parse::<casemate_api::workload::Isolation>).transpose();
        let within = wanted.within.as_deref().unwrap_or_default().parse::<Place>();
        let by_price = match wanted.sort.as_deref() {
            None | Some("node") => false,
            Some("price") => true,
            Some(_) => return Err(invalid("sort")("must be node or price".to_owned())),
        };
        let cursor = |text: &str| {
            let (price, node) = text.split_once('.')?;
            Some((price.parse().ok()?, node.parse().ok()?))
        };
        let after = wanted.after.as_deref().map(|text| cursor(text).ok_or_else(|| "must be the `next` of an answer".to_owned()));
        let limit = wanted.limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(invalid("limit")(format!("must be 1 to {MAX_PAGE}")));
        }
        let label = wanted.label.as_deref().map(|text| text.split_once('=').ok_or_else(|| "must be name=value".to_owned()));
        Ok(Self {
            wanted,
            level: level.map_err(|error| invalid("level")(error.to_string()))?.map(schedule::level),
            tier: wanted.trust_tier.as_deref().map_or(Ok(Tier::Simulated), str::parse).map_err(invalid("trust_tier"))?,
            within: within.map_err(|error| invalid("within")(error.to_string()))?,
            label: label.transpose().map_err(invalid("label"))?,
            by_price,
            after: after.transpose().map_err(invalid("after"))?,
            limit,
        })
    }

    fn wants(&self, offer: &Offer) -> bool {
        let (cpus, memory_mib) = free(offer);
        (!self.wanted.ready || offer.standing == Standing::Ready)
            && self.level.is_none_or(|level| offer.levels.at_least(level).is_some())
            && offer.tier >= self.tier
            && self.wanted.cpus.is_none_or(|wanted| cpus >= wanted)
            && self.wanted.memory_mib.is_none_or(|wanted| memory_mib >= wanted)
            && self.within.contains(&offer.place)
            && self.wanted.gpu.as_ref().is_none_or(|model| offer.gpus.iter().any(|group| group.model == *model))
            && self.label.is_none_or(|(name, value)| offer.labels.get(name).is_some_and(|has| has == value))
            && self.wanted.most_per_hour.is_none_or(|most| unit_price(&offer.prices) <= most)
    }
}

/// By which offers are compared: an hour of one CPU with 4 GiB of memory.
fn unit_price(prices: &Prices) -> u64 {
    prices.hour(1, 4 << 10, 0, 0)
}

fn free(offer: &Offer) -> (u64, u64) {
    let cpus = (offer.total.cpus * CPU_OVERCOMMIT).saturating_sub(offer.used.cpus).min(offer.total.cpus);
    (cpus, offer.total.memory_mib.saturating_sub(offer.used.memory_mib))
}

/// An offer as its readers see it; whose it is only he and operators do.
fn view(caller: &Caller, offer: &Offer, terms: Option<&Arc<Terms>>) -> rest::Offer {
    let own = |hoster: &String| caller.is(Role::Operator) || (caller.is(Role::Hoster) && *hoster == caller.account);
    let levels = |has: casemate_lifecycle::schedule::Levels| {
        Level::ALL
            .into_iter()
            .filter(|level| has.has(*level))
            .map(|level| schedule::isolation(level).as_str().to_owned())
            .collect()
    };
    let gpu = |group: &casemate_lifecycle::schedule::GpuGroup| rest::GpuClaim {
        model: group.model.clone(),
        count: group.total,
        memory_mib: group.memory_mib,
    };
    let (free_cpus, free_memory_mib) = free(offer);
    rest::Offer {
        node: offer.node.to_string(),
        hoster: offer.hoster.clone().filter(own),
        standing: Lack::Standing(offer.standing).as_str().to_owned(),
        trust_tier: offer.tier.as_str().to_owned(),
        levels: levels(offer.levels),
        levels_with_network: levels(offer.networked),
        cpus: offer.total.cpus,
        memory_mib: offer.total.memory_mib,
        disk_mib: offer.total.disk_mib,
        free_cpus,
        free_memory_mib,
        gpus: offer.gpus.iter().map(gpu).collect(),
        measured_by: "inventory".to_owned(),
        prices: prices(&offer.prices),
        place: offer.place.as_str().to_owned(),
        labels: offer.labels.clone(),
        version: terms.map_or(0, |terms| terms.version),
        ends_at_ms: terms.and_then(|terms| terms.ends_at_ms),
    }
}

pub(super) fn prices(prices: &Prices) -> rest::Prices {
    rest::Prices { cpu: prices.cpu, memory_gib: prices.memory_gib, disk_gib: prices.disk_gib, gpu: prices.gpu }
}

fn unknown(node: &str) -> Fault {
    Fault::NotFound { what: "offer of node", id: clipped(node, 80) }
}
