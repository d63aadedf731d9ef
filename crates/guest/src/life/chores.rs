//! What the workload needs and evidence does not: done while the host verifies the guest, and at the latest before the keys
//! are used.
//!
//! One at a time, so that a challenge that comes meanwhile does not wait for all of them.

use crate::{
    fatal::{Check, Fatal, OrFatal},
    storage::{self, layers},
    workload::cgroup,
};

/// The chores that are left.
pub(super) struct Chores {
    left: Vec<Chore>,
    layers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chore {
    /// Open the scratch volume under a fresh key, with a fresh file system.
    Scratch,
    /// Put the open layers and the scratch volume together.
    Root,
    /// Make the workload's control group.
    Group,
}

impl Chores {
    /// All of them, for an image of `layers` layers that are open already.
    pub(super) fn new(layers: usize) -> Self {
        // The last one is done first.
        Self { left: vec![Chore::Group, Chore::Root, Chore::Scratch], layers }
    }

    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Does one.
    pub(super) fn next(&mut self) -> Result<(), Fatal> {
        match self.left.pop() {
            None => Ok(()),
            Some(Chore::Scratch) => storage::open_scratch(),
            Some(Chore::Root) => layers::mount_root(self.layers),
            Some(Chore::Group) => cgroup::create().or_fatal(Check::WorkloadStart, "make the control group"),
        }
    }

    /// Does all that are left.
    pub(super) fn all(mut self) -> Result<(), Fatal> {
        while !self.is_done() {
            self.next()?;
        }
        Ok(())
    }
}
