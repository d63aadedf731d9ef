//! `casemate nodes`.

use crate::{
    args::{Format, Globals, Nodes},
    client::Client,
    context::ContextFile,
    exit::Status,
    printer,
};

pub(crate) async fn run(globals: &Globals, args: Nodes) -> anyhow::Result<Status> {
    let list = Client::new(&ContextFile::load(globals)?)?.nodes().await?;
    if globals.json || args.output == Format::Json {
        printer::json(&list)?;
        return Ok(Status::Ok);
    }
    let rows: Vec<Vec<String>> = list
        .nodes
        .into_iter()
        .map(|n| {
            let trust = if n.simulated { format!("{} (simulated)", n.trust) } else { n.trust };
            let connected = if n.connected { "yes" } else { "no" };
            let field = |name: &str| n.inventory.get(name).map(ToString::to_string).unwrap_or_default();
            let levels = levels(&n.inventory);
            vec![n.id, trust, connected.into(), n.instances.to_string(), field("cpus"), field("memory_mib"), levels, n.detail]
        })
        .collect();
    printer::table(&["NODE", "TRUST", "CONNECTED", "INSTANCES", "CPUS", "MEMORY MiB", "LEVELS", "WHY"], &rows)?;
    Ok(Status::Ok)
}

/// What the node offers, and what it was to offer and why it cannot.
fn levels(inventory: &serde_json::Value) -> String {
    let empty = Vec::new();
    let list = |name: &str| inventory.get(name).and_then(|list| list.as_array()).unwrap_or(&empty).clone();
    let text = |value: &serde_json::Value, name: &str| printer::clean(value[name].as_str().unwrap_or_default());
    let offered: Vec<String> = list("isolation_levels").iter().filter_map(|level| level.as_str().map(printer::clean)).collect();
    let missing = list("drivers")
        .iter()
        .filter(|driver| driver["problem"].as_str().is_some_and(|problem| !problem.is_empty()))
        .map(|driver| format!("not {} ({})", text(driver, "name"), text(driver, "problem")))
        .collect::<Vec<_>>();
    let network = list("drivers").iter().any(|driver| driver["network"] == true).then(|| "network".to_owned());
    [offered, network.into_iter().collect(), missing].concat().join(", ")
}
