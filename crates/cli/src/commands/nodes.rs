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
            vec![n.id, trust, connected.into(), n.instances.to_string(), field("cpus"), field("memory_mib"), n.detail]
        })
        .collect();
    printer::table(&["NODE", "TRUST", "CONNECTED", "INSTANCES", "CPUS", "MEMORY MiB", "WHY"], &rows)?;
    Ok(Status::Ok)
}
