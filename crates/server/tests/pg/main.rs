//! The tests of `tests/it` once more, on PostgreSQL, and those that need several replicas.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

#[path = "../it/access.rs"]
mod access;
#[path = "../it/accounts.rs"]
mod accounts;
#[path = "../it/appraisals.rs"]
mod appraisals;
#[path = "../it/audit.rs"]
mod audit;
#[path = "../it/blobs.rs"]
mod blobs;
#[path = "../it/drain.rs"]
mod drain;
#[path = "../it/enrolment.rs"]
mod enrolment;
#[path = "../it/evidence.rs"]
mod evidence;
#[path = "../it/hooks.rs"]
mod hooks;
#[path = "../it/incidents.rs"]
mod incidents;
#[path = "../it/instances.rs"]
mod instances;
#[path = "../it/judgement.rs"]
mod judgement;
#[path = "../it/limits.rs"]
mod limits;
#[path = "../it/maintenance.rs"]
mod maintenance;
#[path = "../it/migration.rs"]
mod migration;
#[path = "../it/node.rs"]
mod node;
#[path = "../it/node_logs.rs"]
mod node_logs;
#[path = "../it/notices.rs"]
mod notices;
#[path = "../it/offers.rs"]
mod offers;
#[path = "../it/platform.rs"]
mod platform;
#[path = "../it/postgres.rs"]
mod postgres;
#[path = "../it/process.rs"]
mod process;
mod replicas;
#[path = "../it/run.rs"]
mod run;
mod schema;
#[path = "../it/scopes.rs"]
mod scopes;
#[path = "../it/score.rs"]
mod score;
#[path = "../it/soft_ek.rs"]
mod soft_ek;
#[path = "../it/store.rs"]
mod store;
mod tls;
#[path = "../it/watch.rs"]
mod watch;
#[path = "../it/webhooks.rs"]
mod webhooks;

/// The engine of these tests.
pub(crate) const ENGINE: postgres::Engine = postgres::Engine::Postgres;
