//! What this replica knows of all offers: a view that is searched in memory, and may be old.
//!
//! Nothing is promised by it. Whoever places takes the room in a transaction that looks at the one node as it is; where that was
//! different, the view learns it and the next node is tried. Nobody is refused by a view that is older than his request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use casemate_api::rest;
use casemate_lifecycle::{
    NodeId,
    schedule::{Choice, Demand, Fit, Market, NoNode, Offer, Place, Prefer},
};
use tokio::time::{Duration, Instant};

use super::offers;
use crate::{
    clock::now_ms,
    fault::Fault,
    schedule,
    store::{self, Store, Terms},
};

/// A view is read again when it is as many times as old as reading it took: at most a twentieth of the time goes into reading.
const AGE: u32 = 20;

/// All offers, as far as is known here.
#[derive(Debug, Default)]
pub(super) struct View {
    seen: Mutex<Seen>,
    /// Who reads; others wait for what he brings.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Seen {
    market: Market,
    terms: BTreeMap<NodeId, Arc<Terms>>,
    /// When the reading began, and how long it took.
    read: Option<(Instant, Duration)>,
}

impl View {
    /// Reads everything, unless somebody began to after `since`.
    pub(super) async fn read_after(&self, store: &Store, since: Instant) -> Result<(), Fault> {
        let _reading = self.reading.lock().await;
        if self.seen().read.is_some_and(|(began, _)| began >= since) {
            return Ok(());
        }
        let began = Instant::now();
        let offers = store.offers().await?;
        let now_ms = now_ms();
        let seen = offers.iter().map(|known| schedule::offer(known, now_ms)).collect();
        let terms = offers.into_iter().filter_map(|known| Some((known.id, Arc::new(known.terms?)))).collect();
        let mut known = self.seen();
        known.market.become_these(seen);
        (known.terms, known.read) = (terms, Some((began, began.elapsed())));
        Ok(())
    }

    /// Reads everything if what is known is too old to begin with.
    pub(super) async fn read_when_old(&self, store: &Store) -> Result<(), Fault> {
        let read = self.seen().read;
        match read {
            Some((began, took)) if began.elapsed() <= took * AGE => Ok(()),
            _ => self.read_after(store, Instant::now()).await,
        }
    }

    /// The best node, with its room taken in this view, so that the next one who asks finds another.
    pub(super) fn choose(&self, demand: &Demand) -> Result<Choice, NoNode> {
        let mut seen = self.seen();
        let choice = seen.market.select(demand)?;
        if let Some(mut offer) = seen.market.get(&choice.node).cloned() {
            offer.used.cpus += demand.cpus;
            offer.used.memory_mib = offer.used.memory_mib.saturating_add(choice.fit.memory_mib);
            offer.used.disk_mib = Some(offer.used.disk_mib.unwrap_or(0).saturating_add(choice.fit.disk_mib));
            seen.market.put(offer);
        }
        Ok(choice)
    }

    /// Gives back what [`View::choose`] took, where nothing came of it.
    pub(super) fn give_back(&self, demand: &Demand, choice: &Choice) {
        let mut seen = self.seen();
        if let Some(mut offer) = seen.market.get(&choice.node).cloned() {
            offer.used.cpus = offer.used.cpus.saturating_sub(demand.cpus);
            offer.used.memory_mib = offer.used.memory_mib.saturating_sub(choice.fit.memory_mib);
            offer.used.disk_mib = offer.used.disk_mib.map(|used| used.saturating_sub(choice.fit.disk_mib));
            seen.market.put(offer);
        }
    }

    /// How a node is, as somebody found out.
    pub(super) fn learn(&self, node: &NodeId, known: Option<&store::Offer>) {
        let mut seen = self.seen();
        match known {
            Some(known) => seen.market.put(schedule::offer(known, now_ms())),
            None => seen.market.remove(node),
        }
    }

    /// Every offer that `keep` wants, with its hoster's terms.
    pub(super) fn list<T>(&self, mut keep: impl FnMut(&Offer, Option<&Arc<Terms>>) -> Option<T>) -> Vec<T> {
        let seen = self.seen();
        seen.market.offers().filter_map(|offer| keep(offer, seen.terms.get(&offer.node))).collect()
    }

    /// Whoever held the lock only replaced values; what he left is good.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The demand with what was said about where.
pub(super) fn wishes(demand: Demand, placement: Option<&rest::Placement>) -> Result<Demand, Fault> {
    let Some(wish) = placement else { return Ok(demand) };
    let invalid = |what: &'static str| {
        move |detail: String| Fault::Invalid { what, detail, hint: "`casemate offers list` shows what there is" }
    };
    let place = |what, text: &Option<String>| {
        text.as_deref().unwrap_or_default().parse::<Place>().map_err(|error| invalid(what)(error.to_string()))
    };
    offers::check_labels(&wish.labels)?;
    Ok(Demand {
        tier: match &wish.trust_tier {
            Some(tier) => tier.parse().map_err(invalid("placement.trust_tier"))?,
            None => demand.tier,
        },
        within: place("placement.within", &wish.within)?,
        near: place("placement.near", &wish.near)?,
        most_per_hour: wish.most_per_hour,
        labels: wish.labels.clone(),
        prefer: match wish.prefer.as_deref() {
            None | Some("price") => Prefer::Price,
            Some("spread") => Prefer::Spread,
            Some(_) => return Err(invalid("placement.prefer")("must be price or spread".to_owned())),
        },
        ..demand
    })
}

/// What an instance keeps of the offer that it was placed on.
pub(super) fn snapshot(known: &store::Offer, fit: &Fit) -> String {
    let seen = schedule::offer(known, 0);
    let taken = rest::OfferTaken {
        version: known.terms.as_ref().map_or(0, |terms| terms.version),
        trust_tier: seen.tier.as_str().to_owned(),
        place: seen.place.as_str().to_owned(),
        prices: offers::prices(&seen.prices),
        price_per_hour: fit.price_per_hour,
    };
    serde_json::to_string(&taken).expect("plain data always serialises")
}
