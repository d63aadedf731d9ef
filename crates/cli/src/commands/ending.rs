//! The end of an instance: stop, wipe, receipt.

use std::time::Duration;

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_api::{receipt::Body, rest::Receipt};

use crate::{
    client::Client,
    commands::follow::Follower,
    exit::{Hinted, Refused},
    instance_keys::InstanceKeys,
    printer::Printer,
    trust::{self, Trust},
};

/// What every receipt of a started machine must account for.
const MUST_BE_WIPED: [&str; 5] = ["guest-ram", "scratch", "vtpm", "jail", "cgroup"];

/// Asks for the stop and waits for the receipt, at most `limit`.
pub(crate) async fn stop_and_wait(
    client: &Client,
    follower: &mut Follower<'_>,
    instance: &str,
    limit: Duration,
) -> anyhow::Result<()> {
    client.stop(instance).await?;
    match tokio::time::timeout(limit, follower.until_end()).await {
        Ok(done) => done,
        Err(_) => {
            let message = format!("{instance} was not wiped within {} s", limit.as_secs());
            let hint = format!("it is still being stopped; look again with `casemate inspect {instance}`");
            Err(Hinted { message, hint }.into())
        }
    }
}

/// Fetches and checks the receipt; prints what was wiped.
pub(crate) async fn check_receipt(client: &Client, trust: &Trust, printer: &Printer, instance: &str) -> anyhow::Result<Body> {
    let receipt = client.receipt(instance).await.context("fetch the receipt")?;
    let body = verify(trust, &receipt, instance)?;
    for (what, wiped) in &body.wiped {
        printer.done("receipt", &format!("{what:<10} {} ({}, {} ms)", wiped.method, wiped.detail, wiped.duration_ms));
    }
    printer.done("receipt", &format!("signed by node {}, {}", body.node, body.reason));
    Ok(body)
}

/// Signature, node and content of a receipt.
pub(crate) fn verify(trust: &Trust, receipt: &Receipt, instance: &str) -> anyhow::Result<Body> {
    let refused = |check: &str, detail: String| Refused { check: check.into(), detail };
    let signature = BASE64.decode(&receipt.signature).map_err(|e| refused("receipt.signature", e.to_string()))?;
    let chain = trust::decode_all(&receipt.node_chain)?;
    let verified = casemate_verifier::verify_receipt(receipt.body.as_bytes(), &signature, &chain, trust.anchors(), trust::now());
    let verified = verified.map_err(|error| refused(error.check(), error.to_string()))?;
    let body: Body =
        casemate_api::canonical::from_slice(verified.body(), 64 << 10).map_err(|e| refused("receipt.content", e.to_string()))?;
    check_content(&body, instance, verified.node()).map_err(|detail| refused("receipt.content", detail))?;
    // What this tenant verified at the start must be what was wiped at the end.
    if let Ok(keys) = InstanceKeys::load(instance) {
        let same = body.workload_digest == keys.workload_digest;
        let same_launch = keys.launch_record_digest.as_ref().is_none_or(|digest| *digest == body.launch_record_digest);
        if !same || !same_launch {
            return Err(
                refused("receipt.content", "the receipt is of another workload or launch than was verified".into()).into()
            );
        }
    }
    Ok(body)
}

fn check_content(body: &Body, instance: &str, node: &str) -> Result<(), String> {
    if body.version != 1 || body.instance != instance {
        return Err(format!("it is for instance {} (version {})", body.instance, body.version));
    }
    if body.node != node {
        return Err(format!("it names node {}, but node {node} signed it", body.node));
    }
    for what in MUST_BE_WIPED {
        match body.wiped.get(what) {
            None => return Err(format!("it says nothing of {what}")),
            Some(wiped) if !wiped.verified => return Err(format!("{what} was not verified to be gone: {}", wiped.detail)),
            Some(_) => {}
        }
    }
    Ok(())
}
