//! `casemate nodes`.

use casemate_api::rest::NodeDrain;

use super::maintenance;
use crate::{
    args::{Format, Globals, Nodes, NodesCommand},
    client::Client,
    context::ContextFile,
    exit::Status,
    printer,
};

pub(crate) async fn run(globals: &Globals, args: Nodes) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    if let Some(command) = args.command {
        return look_after(globals, &client, command).await;
    }
    let list = client.nodes().await?;
    if globals.json || args.output == Format::Json {
        printer::json(&list)?;
        return Ok(Status::Ok);
    }
    let rows: Vec<Vec<String>> = list
        .nodes
        .into_iter()
        .map(|n| {
            let trust = if n.simulated { format!("{} (simulated)", n.trust) } else { n.trust };
            let trust = if n.draining { format!("{trust}, draining") } else { trust };
            let field = |name: &str| n.inventory.get(name).map(ToString::to_string).unwrap_or_default();
            let (levels, monitor) = (levels(&n.inventory), monitor(&n.inventory));
            let detail = with_owners_word(n.detail, &n.inventory);
            vec![n.id, trust, n.reach, n.instances.to_string(), field("cpus"), field("memory_mib"), levels, monitor, detail]
        })
        .collect();
    printer::table(&["NODE", "TRUST", "REACH", "INSTANCES", "CPUS", "MEMORY MiB", "LEVELS", "MONITOR", "WHY"], &rows)?;
    Ok(Status::Ok)
}

/// Why it gets no work although it is trusted.
fn with_owners_word(detail: String, inventory: &serde_json::Value) -> String {
    match inventory["dedicated"]["held"].as_bool() {
        Some(true) => format!("held back by its owner ({} findings); {detail}", inventory["dedicated"]["findings"]),
        _ => detail,
    }
}

async fn look_after(globals: &Globals, client: &Client, command: NodesCommand) -> anyhow::Result<Status> {
    match command {
        NodesCommand::Restore { node } => {
            client.restore_node(&node).await?;
            eprintln!("{node} gets work again");
        }
        NodesCommand::Give { node, hoster } => {
            client.give_node(&node, hoster.as_deref()).await?;
            eprintln!("{node} belongs to {}", hoster.as_deref().unwrap_or("the platform"));
        }
        NodesCommand::Drain { node, deadline_s } => {
            client.drain_node(&node, Some(NodeDrain { deadline_s })).await?;
            let end = deadline_s.map_or("may come to its end".to_owned(), |s| format!("has {s} s to come to its end"));
            eprintln!("{node} gets no new instances; what it runs {end}");
        }
        NodesCommand::Undrain { node } => {
            client.drain_node(&node, None).await?;
            eprintln!("{node} gets new instances again");
        }
        NodesCommand::Maintenance(command) => return maintenance::run(globals, client, command).await,
        NodesCommand::Token(wanted) => {
            let made = client.bootstrap_token(wanted.hoster).await?;
            if globals.json {
                printer::json(&made)?;
            } else {
                println!("{}", made.token);
            }
        }
        NodesCommand::Instances { node, output } => {
            let list = client.hosted(&node).await?;
            if globals.json || output == Format::Json {
                printer::json(&list)?;
                return Ok(Status::Ok);
            }
            let rows: Vec<Vec<String>> = list
                .instances
                .into_iter()
                .map(|i| vec![i.id, i.intent, i.step, i.level, i.cpus.to_string(), i.memory_mib.to_string()])
                .collect();
            printer::table(&["INSTANCE", "INTENDED", "ACTUAL", "LEVEL", "CPUS", "MEMORY MiB"], &rows)?;
        }
    }
    Ok(Status::Ok)
}

/// What its monitor can do.
fn monitor(inventory: &serde_json::Value) -> String {
    match inventory["monitor"]["class"].as_str() {
        Some(class) => printer::clean(class),
        None => "none".to_owned(),
    }
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
