//! `casemate ps`.

use crate::{
    args::{Format, Globals, Ps},
    client::Client,
    context::ContextFile,
    exit::Status,
    printer,
};

pub(crate) async fn run(globals: &Globals, args: Ps) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    let mut list = client.instances().await?;
    if !args.all {
        list.instances.retain(|instance| !matches!(instance.step.as_str(), "wiped" | "gone"));
    }
    if globals.json || args.output == Format::Json {
        printer::json(&list)?;
        return Ok(Status::Ok);
    }
    let rows: Vec<Vec<String>> = list
        .instances
        .into_iter()
        .map(|i| {
            let end = match (&i.failure, i.exit_code) {
                (Some(failure), _) => format!("failed: {}", failure.check),
                (None, Some(code)) => format!("exit {code}"),
                (None, None) => String::new(),
            };
            vec![i.id, i.name, i.intent, i.step, end, i.node.unwrap_or_default(), age(i.created_at_ms)]
        })
        .collect();
    printer::table(&["INSTANCE", "NAME", "INTENDED", "ACTUAL", "END", "NODE", "AGE"], &rows)?;
    Ok(Status::Ok)
}

fn age(created_at_ms: u64) -> String {
    let seconds = crate::trust::now().0.saturating_sub(created_at_ms / 1000);
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
