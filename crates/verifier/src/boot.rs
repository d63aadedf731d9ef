//! The boot chain of a node: what its firmware's event log shows.
