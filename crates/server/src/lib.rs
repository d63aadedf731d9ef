//! The platform: enrols and verifies nodes, schedules, relays sealed keys and records.
//!
//! `service` does the work and knows no transport; `rest` and `grpc` are thin over it; `store` keeps everything that must
//! survive a restart; `schedule` and `life` decide purely. Keys, records and evidence of tenants pass through as opaque
//! bytes: this server can neither read nor forge them.
//!
//! A server runs the roles of its configuration: `api` and `nodes` together are the platform, `verifier` appraises evidence for
//! others and can run alone. `server` is the one place that decides what runs.
//!
//! Tasks: one per listener and connection, one owner task per node session (`service::session`), one for upkeep. A change
//! of an instance is a store transaction; whoever waits for it is woken by `changes`, its node's session by `sessions`.

#![forbid(unsafe_code)]

pub mod access;
pub mod appraiser;
pub mod authority;
pub mod blobs;
pub mod changes;
pub mod clock;
pub mod config;
mod drain;
pub mod fault;
pub mod files;
pub mod grpc;
mod life;
pub mod listener;
mod peer;
mod rates;
pub mod rest;
pub mod revocations;
pub mod roles;
pub mod schedule;
pub mod server;
pub mod service;
pub mod sessions;
pub mod store;
pub mod webhooks;
