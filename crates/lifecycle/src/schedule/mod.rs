//! Where an instance goes: of all offers the best one that is suitable, or for each why it is not.
//!
//! ```text
//! Demand --+                                   +--> Choice: node, level, price
//!          +--> Market (classes of offers,  ---+
//! Offers --+     a tree of bounds in each)     +--> NoNode: how many lack what
//! ```
//!
//! [`fit()`] decides about one node, and is all that is true. [`Market`] finds the best of many by it without asking each: offers that are
//! alike in what never changes are a class, refused or searched as a whole, and within a class a tree knows of every
//! subtree the most that is free and the least that it costs. The answer is that of a plain scan, whatever the order in which offers came.
//!
//! What is known here may be old. Whoever places asks [`fit()`] again, of the node as it is in the transaction that takes its room.

mod class;
mod demand;
mod fit;
mod lack;
mod market;
mod offer;
mod search;

pub use demand::{Beside, Demand, GpuDemand, Prefer};
pub use fit::{Fit, Rank, fit};
pub use lack::{Lack, NoNode};
pub use market::{Choice, Market};
pub use offer::{GpuGroup, Level, Levels, Offer, Place, PlaceError, Prices, Room, Standing, Tier, UNITS};

/// Virtual CPUs that may be promised per CPU of a node.
pub const CPU_OVERCOMMIT: u64 = 4;
/// Memory that a machine needs beside its guest's (VMM, vTPM).
pub const MACHINE_OVERHEAD_MIB: u64 = 64;
