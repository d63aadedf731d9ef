//! `casemate inspect`.

use casemate_verifier::AttestationResult;

use crate::{
    args::{Format, Globals, Inspect},
    client::Client,
    context::ContextFile,
    exit::Status,
    printer,
};

pub(crate) async fn run(globals: &Globals, args: Inspect) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    let instance = client.instance(&args.instance).await?;
    if globals.json || args.output == Format::Json {
        printer::json(&instance)?;
        return Ok(Status::Ok);
    }
    let mut rows = vec![
        row("instance", &instance.id),
        row("name", &instance.name),
        row("intended", &instance.intent),
        row("actual", &instance.step),
        row("level", instance.level.as_deref().unwrap_or("-")),
        row("node", instance.node.as_deref().unwrap_or("-")),
        row("exit status", &instance.exit_code.map_or_else(|| "-".into(), |code| code.to_string())),
        row("workload", &instance.workload_digest),
        row("receipt", if instance.has_receipt { "yes" } else { "not yet" }),
    ];
    if let Some(failure) = &instance.failure {
        rows.push(row("failed at", &failure.step));
        rows.push(row("failed check", &failure.check));
        rows.push(row("seen", &failure.detail));
    }
    rows.extend(instance.stages_ms.iter().map(|(stage, ms)| row(&format!("stage {stage}"), &format!("{ms} ms"))));
    if let Some(verdict) = instance.platform_verdict.and_then(|v| serde_json::from_value::<AttestationResult>(v).ok()) {
        rows.push(row(
            "platform says",
            &format!("{}{}", verdict.status, if verdict.simulated { ", rests on a simulator" } else { "" }),
        ));
        rows.extend(
            verdict.checks.iter().map(|check| row(&format!("  {}", check.name), &format!("{}: {}", check.outcome, check.detail))),
        );
    }
    printer::table(&["FIELD", "VALUE"], &rows)?;
    Ok(Status::Ok)
}

fn row(field: &str, value: &str) -> Vec<String> {
    vec![field.to_owned(), value.to_owned()]
}
