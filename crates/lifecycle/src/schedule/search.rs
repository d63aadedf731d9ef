//! The search through the classes' trees: the part that may hold the best node first.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::{
    Choice, Demand, Rank,
    class::{Class, ROOT},
    fit::{Ask, Fit, room},
};
use crate::NodeId;

/// Nodes that will do, the best one first. Each is found when it is asked for.
pub(super) struct Search<'a> {
    demand: &'a Demand,
    classes: Vec<(&'a Class, Ask)>,
    queue: BinaryHeap<Reverse<Entry<'a>>>,
}

/// A part of a tree, or a node that will do. Ordered by rank, then by id: a part by the least of both that may be in it.
#[derive(Debug)]
struct Entry<'a> {
    rank: Rank,
    id: &'a NodeId,
    class: usize,
    at: usize,
    fit: Option<Fit>,
}

impl<'a> Search<'a> {
    pub(super) fn new(demand: &'a Demand, classes: impl Iterator<Item = &'a Class>) -> Self {
        let classes: Vec<_> = classes.filter_map(|class| Some((class, class.kind.ask(demand).ok()?))).collect();
        let mut search = Self { demand, classes, queue: BinaryHeap::new() };
        (0..search.classes.len()).for_each(|class| search.look_at(class, ROOT));
        search
    }

    fn look_at(&mut self, class: usize, at: usize) {
        let (found, ask) = self.classes[class];
        if let Some(part) = found.part(at, self.demand, &ask) {
            self.queue.push(Reverse(Entry { rank: part.best, id: part.first, class, at: part.at, fit: None }));
        }
    }
}

impl Iterator for Search<'_> {
    type Item = Choice;

    fn next(&mut self) -> Option<Choice> {
        while let Some(Reverse(Entry { id, class, at, fit, .. })) = self.queue.pop() {
            if let Some(fit) = fit {
                return Some(Choice { node: id.clone(), fit });
            }
            let (found, ask) = self.classes[class];
            let Some(offer) = found.leaf(at) else {
                self.look_at(class, 2 * at);
                self.look_at(class, 2 * at + 1);
                continue;
            };
            if let Ok(fit) = room(self.demand, &ask, offer) {
                self.queue.push(Reverse(Entry { rank: fit.rank, id, class, at, fit: Some(fit) }));
            }
        }
        None
    }
}

impl Ord for Entry<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.rank, self.id, self.class, self.at).cmp(&(other.rank, other.id, other.class, other.at))
    }
}

impl PartialOrd for Entry<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry<'_> {}
