//! All offers, ready to be searched.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Demand, Fit, Lack, NoNode, Offer,
    class::{Class, Kind},
    fit::fit,
    search::Search,
};
use crate::NodeId;

/// Most classes without an offer before they are cleared away.
const MAX_EMPTY: usize = 64;

/// A node that will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub node: NodeId,
    /// What the instance gets there.
    pub fit: Fit,
}

/// All offers.
#[derive(Debug, Clone, Default)]
pub struct Market {
    classes: Vec<Class>,
    by_kind: BTreeMap<Kind, usize>,
    /// Class and slot of each.
    by_node: BTreeMap<NodeId, (usize, usize)>,
}

impl Market {
    /// A market of these. Of several offers of one node the last one counts.
    pub fn new(offers: impl IntoIterator<Item = Offer>) -> Self {
        let offers: BTreeMap<NodeId, Offer> = offers.into_iter().map(|offer| (offer.node.clone(), offer)).collect();
        let mut kinds = BTreeMap::<Kind, Vec<Offer>>::new();
        for offer in offers.into_values() {
            kinds.entry(Kind::of(&offer)).or_default().push(offer);
        }
        let mut market = Self::default();
        for (class, (kind, offers)) in kinds.into_iter().enumerate() {
            market.by_kind.insert(kind.clone(), class);
            market.classes.push(Class::new(kind, offers));
            market.find_again(class);
        }
        market
    }

    /// How many offers there are.
    pub fn len(&self) -> usize {
        self.by_node.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }

    /// What a node offers.
    pub fn get(&self, node: &NodeId) -> Option<&Offer> {
        let (class, slot) = *self.by_node.get(node)?;
        self.classes[class].get(slot)
    }

    /// All of them, in no order that means something.
    pub fn offers(&self) -> impl Iterator<Item = &Offer> {
        self.classes.iter().flat_map(Class::offers)
    }

    /// Takes an offer in, in place of what this node offered before.
    pub fn put(&mut self, offer: Offer) {
        let kind = Kind::of(&offer);
        if let Some((class, slot)) = self.by_node.get(&offer.node).copied() {
            if self.classes[class].kind == kind {
                self.classes[class].set(slot, Some(offer));
                return;
            }
            self.classes[class].set(slot, None);
        }
        let (classes, node) = (&mut self.classes, offer.node.clone());
        let class = *self.by_kind.entry(kind).or_insert_with_key(|kind| {
            classes.push(Class::new(kind.clone(), Vec::new()));
            classes.len() - 1
        });
        match classes[class].add(offer) {
            Some(slot) => drop(self.by_node.insert(node, (class, slot))),
            None => self.find_again(class),
        }
    }

    /// Takes an offer away.
    pub fn remove(&mut self, node: &NodeId) {
        if let Some((class, slot)) = self.by_node.remove(node) {
            self.classes[class].set(slot, None);
        }
    }

    /// Has these and no others from now on; what stayed as it was costs nothing but a look.
    pub fn become_these(&mut self, offers: Vec<Offer>) {
        let nodes: BTreeSet<&NodeId> = offers.iter().map(|offer| &offer.node).collect();
        let gone: Vec<NodeId> = self.by_node.keys().filter(|node| !nodes.contains(node)).cloned().collect();
        let empty = self.classes.iter().filter(|class| class.is_empty()).count();
        let fresh = offers.len() > 2 * self.len() || empty > MAX_EMPTY;
        if fresh {
            *self = Self::new(offers);
            return;
        }
        gone.iter().for_each(|node| self.remove(node));
        for offer in offers {
            if self.get(&offer.node) != Some(&offer) {
                self.put(offer);
            }
        }
    }

    /// The best node for this demand, or why none will do.
    pub fn select(&self, demand: &Demand) -> Result<Choice, NoNode> {
        if let Some(node) = &demand.node {
            return self.only(node, demand);
        }
        Search::new(demand, self.classes.iter()).next().ok_or_else(|| self.explain(demand))
    }

    fn only(&self, node: &NodeId, demand: &Demand) -> Result<Choice, NoNode> {
        let (mut why, offer) = (NoNode::default(), self.get(node));
        why.add(Lack::Other, self.len() - usize::from(offer.is_some()));
        match offer.map(|offer| fit(demand, offer)) {
            Some(Ok(fit)) => return Ok(Choice { node: node.clone(), fit }),
            Some(Err(lack)) => why.add(lack, 1),
            None => {}
        }
        Err(why)
    }

    /// Looks at each node that is not refused with its class: only who gets nothing waits for this.
    fn explain(&self, demand: &Demand) -> NoNode {
        let mut why = NoNode::default();
        self.classes.iter().for_each(|class| class.explain(demand, &class.kind.ask(demand), &mut why));
        why
    }

    /// Notes where the offers of a class are now.
    fn find_again(&mut self, class: usize) {
        let places = self.classes[class].places().map(|(slot, offer)| (offer.node.clone(), (class, slot)));
        self.by_node.extend(places);
    }
}
