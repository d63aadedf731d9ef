//! `casemate inspect`.

use casemate_api::rest::{Instance, NetworkUse, Notice, ScoreCard};
use casemate_verifier::AttestationResult;
use serde::Serialize;

use crate::{
    args::{Format, Globals, Inspect},
    client::Client,
    context::ContextFile,
    exit::Status,
    money, printer,
};

/// Most notices that are shown, newest first.
const NOTICES: u32 = 10;

pub(crate) async fn run(globals: &Globals, args: Inspect) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    let instance = client.instance(&args.instance).await?;
    let score_card = client.score_card(&args.instance).await?;
    // A token may be limited to instances.
    let notices = client.notices(Some(&args.instance), None, NOTICES).await.map_or_else(|_| Vec::new(), |list| list.notices);
    if globals.json || args.output == Format::Json {
        printer::json(&Inspected { instance, score_card, notices })?;
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
    if let Some(offer) = &instance.offer {
        rows.push(row("price per hour", &money::text(offer.price_per_hour)));
    }
    if let Some(network) = &instance.network {
        rows.extend(traffic(network));
    }
    if let Some(failure) = &instance.failure {
        rows.push(row("failed at", &failure.step));
        rows.push(row("failed check", &failure.check));
        rows.push(row("seen", &failure.detail));
    }
    rows.extend(notices.iter().map(|one| row("notice", &format!("{} {}: {}", one.id, one.kind, one.detail))));
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
    println!();
    print_card(&score_card)?;
    Ok(Status::Ok)
}

fn traffic(network: &NetworkUse) -> [Vec<String>; 3] {
    let counted = |packets: u64, bytes: u64, dropped: u64| format!("{packets} packets, {bytes} bytes; {dropped} packets dropped");
    let NetworkUse { names_asked, names_refused, names_failed, .. } = network;
    [
        row("sent", &counted(network.sent_packets, network.sent_bytes, network.sent_dropped)),
        row("received", &counted(network.received_packets, network.received_bytes, network.received_dropped)),
        row("names", &format!("{names_asked} asked, {names_refused} refused by the rules, {names_failed} not found")),
    ]
}

/// What `--output json` prints.
#[derive(Serialize)]
struct Inspected {
    #[serde(flatten)]
    instance: Instance,
    score_card: ScoreCard,
    notices: Vec<Notice>,
}

/// Node and guest are named where only their word stands for a line.
fn print_card(card: &ScoreCard) -> anyhow::Result<()> {
    let rows: Vec<_> = card
        .lines
        .iter()
        .map(|line| {
            let by = match &line.evidence {
                Some(evidence) => format!("{}, {evidence}", line.observer),
                None => format!("{}, no evidence", line.observer),
            };
            vec![line.layer.clone(), line.state.as_str().to_owned(), line.what.clone(), line.seen.clone(), by]
        })
        .collect();
    printer::table(&["LAYER", "STATE", "WHAT", "SEEN", "BY"], &rows)
}

fn row(field: &str, value: &str) -> Vec<String> {
    vec![field.to_owned(), value.to_owned()]
}
