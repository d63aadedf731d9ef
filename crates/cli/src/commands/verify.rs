//! `casemate verify`: the same appraisal that `run` makes, on demand or offline.

use anyhow::Context as _;
use casemate_verifier::{AttestationResult, UnixTime};

use crate::{
    args::{Format, Globals, Verify},
    client::Client,
    context::{self, ContextFile},
    exit::Status,
    instance_keys::InstanceKeys,
    printer, resolve,
    trust::{self, SavedEvidence, Trust},
};

pub(crate) async fn run(globals: &Globals, args: Verify) -> anyhow::Result<Status> {
    let context = ContextFile::load(globals)?;
    let trust = Trust::load(&context)?;
    let saved = match (&args.evidence, &args.instance) {
        (Some(path), _) => SavedEvidence::load(path)?,
        (None, Some(instance)) => ask(&context, instance).await?,
        (None, None) => anyhow::bail!("give an instance or --evidence FILE"),
    };
    if let Some(path) = &args.save {
        context::write_private(path, &serde_json::to_vec_pretty(&saved)?)?;
    }
    let now = args.at.map_or_else(trust::now, UnixTime);
    let result = trust.appraise(&saved, now)?;
    if globals.json || args.output == Format::Json {
        printer::json(&result)?;
    } else {
        print(&result)?;
    }
    trust::require_affirming(&result)?;
    Ok(Status::Ok)
}

async fn ask(context: &ContextFile, instance: &str) -> anyhow::Result<SavedEvidence> {
    let client = Client::new(context)?;
    // Somebody else's instance can be judged, too, but then the platform says which workload it runs.
    let workload_digest = match InstanceKeys::load(instance) {
        Ok(keys) => keys.workload_digest.clone(),
        Err(_) => client.instance(instance).await.context("ask for the workload digest")?.workload_digest,
    };
    let nonce = resolve::random32()?;
    let bundle = client.challenge(instance, &nonce).await?;
    anyhow::ensure!(bundle.instance == instance, "asked for evidence of {instance}, got {}", bundle.instance);
    Ok(SavedEvidence { nonce: hex::encode(nonce), workload_digest, received_at: trust::now().0, bundle })
}

fn print(result: &AttestationResult) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> =
        result.checks.iter().map(|c| vec![format!("{:?}", c.outcome), c.name.to_string(), c.detail.clone()]).collect();
    printer::table(&["OUTCOME", "CHECK", "SEEN"], &rows)?;
    println!();
    for anchor in &result.anchors {
        println!("anchor: {} {}: {}", anchor.kind, printer::clean(&anchor.subject), anchor.proved);
    }
    for warning in &result.warnings {
        println!("note: {}", printer::clean(warning));
    }
    println!("verdict: {:?}{}", result.status, if result.simulated { " (rests on a simulator)" } else { "" });
    Ok(())
}
