//! The server as its clients and nodes see it: real listeners on port 0, a real database in a temporary folder, nodes with
//! TPMs in software that speak real gRPC over mutual TLS. `tests/pg` runs the same on PostgreSQL.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod access;
mod accounts;
mod appraisals;
mod audit;
mod blobs;
mod drain;
mod enrolment;
mod evidence;
mod hooks;
mod incidents;
mod instances;
mod judgement;
mod limits;
mod maintenance;
mod migration;
mod node;
mod node_logs;
mod notices;
mod offers;
mod openapi;
mod platform;
mod postgres;
mod process;
mod run;
mod scopes;
mod score;
mod soft_ek;
mod store;
mod vectors;
mod watch;
mod webhooks;

/// The engine of these tests.
pub(crate) const ENGINE: postgres::Engine = postgres::Engine::Sqlite;
