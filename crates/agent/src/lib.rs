//! The root service on a node: it dials the platform, runs what the platform signed, proves what runs, wipes, and signs for it.
//!
//! What it never does: listen on a network, hold a tenant's key or plain text, judge evidence, start anything twice.
//!
//! ```text
//! enroll --> credential --> platform (mutual TLS) <== session ==> registry --> one owner task per instance
//!                                                      pumps <-- views --/         |  launch: images, measure, blueprint, driver
//!                                                                                  |  serve: link --> channel (yamux) --> guest
//!                                                                                  |  spool (records), journal, receipts
//! node TPM: one thread <-- batcher <-- leaves of evidence -------------------------/
//! ```
//!
//! One thread runs all tasks; files, conversion and the driver's work go to blocking threads, the node's TPM has its own.
//! State: `state_dir/{credential.json, receipt.key, gone.json, instances/<id>/, images/, machines/}`. All of it is written so
//! that an agent killed at any point leaves a state from which the next one goes on; [`failpoint`] is how tests show it.

#![forbid(unsafe_code)]

mod assignment;
mod blueprint;
mod channel;
mod clock;
pub mod config;
mod context;
mod credential;
mod dedicated;
mod download;
mod drivers;
mod enroll;
mod evidence;
pub mod failpoint;
mod failure;
mod files;
mod guest_os;
mod images;
mod instances;
mod inventory;
mod journal;
mod link;
mod maintenance;
mod measure;
mod monitor;
mod network;
mod platform;
mod receipts;
mod score;
mod session;
mod simulated;
mod spool;
mod tpm;
mod vtpm;

pub mod service;
