//! The server as its clients and nodes see it: real listeners on port 0, a real database in a temporary folder, nodes with
//! TPMs in software that speak real gRPC over mutual TLS.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod appraisals;
mod blobs;
mod enrolment;
mod evidence;
mod instances;
mod judgement;
mod node;
mod node_logs;
mod openapi;
mod platform;
mod process;
mod run;
mod score;
mod soft_ek;
mod vectors;
