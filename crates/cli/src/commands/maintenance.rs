//! `casemate nodes maintenance`.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use casemate_api::rest::{Maintenance, NewMaintenance};
use casemate_verifier::UnixTime;

use crate::{
    args::{Format, Globals, maintenance::MaintenanceCommand},
    client::Client,
    exit::Status,
    printer,
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long a node is waited for; one that is forced has two minutes to wipe what it runs.
const LIMIT: Duration = Duration::from_secs(180);

pub(crate) async fn run(globals: &Globals, client: &Client, command: MaintenanceCommand) -> anyhow::Result<Status> {
    match command {
        MaintenanceCommand::Begin(wanted) => {
            let new = NewMaintenance { reason: wanted.reason, forced: wanted.force };
            client.begin_maintenance(&wanted.node, &new).await?;
            eprintln!("{} gets neither work nor keys from now on", wanted.node);
            if !wanted.no_wait {
                let now = settled(client, &wanted.node, "opening").await?;
                show(globals, &now)?;
            }
        }
        MaintenanceCommand::End { node, no_wait } => {
            client.end_maintenance(&node).await?;
            if !no_wait {
                let now = settled(client, &node, "sealing").await?;
                show(globals, &now)?;
                if now.phase != "over" {
                    let why = now.failed.as_deref().unwrap_or("somebody else has opened it again");
                    bail!("end the maintenance of {node}: it stays in maintenance ({}): {}", now.phase, printer::clean(why));
                }
                eprintln!("{node} passed its appraisal and gets work again");
            }
        }
        MaintenanceCommand::Status { node, output } => {
            let status = client.maintenance(&node).await?;
            if globals.json || output == Format::Json {
                printer::json(&status)?;
                return Ok(Status::Ok);
            }
            match &status.maintenance {
                Some(now) => show(globals, now)?,
                None => println!("{node} was never in maintenance"),
            }
            let rows = status.events.into_iter().map(|event| {
                let by = event.caused_by.unwrap_or_default();
                vec![UnixTime(event.at_ms / 1000).to_string(), event.kind, by, printer::clean(&event.text)]
            });
            printer::table(&["TIME", "WHAT", "BY", "DETAIL"], &rows.collect::<Vec<_>>())?;
        }
    }
    Ok(Status::Ok)
}

/// Waits until the node has said what became of it, or has not for too long. From `sealing` the way leads over `appraising`.
async fn settled(client: &Client, node: &str, from: &str) -> anyhow::Result<Maintenance> {
    let begun = Instant::now();
    let mut told = None;
    loop {
        let now = client.maintenance(node).await?.maintenance.context("the platform knows of no maintenance any more")?;
        if now.phase != from && now.phase != "appraising" {
            return Ok(now);
        }
        if now.failed.is_some() && now.failed != told {
            eprintln!("{node} waits: {}", printer::clean(now.failed.as_deref().unwrap_or_default()));
            told.clone_from(&now.failed);
        }
        if begun.elapsed() > LIMIT {
            bail!(
                "wait for {node}: it is still {} after {} s (hint: is it connected? `casemate nodes maintenance status {node}` shows it)",
                now.phase,
                LIMIT.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn show(globals: &Globals, now: &Maintenance) -> anyhow::Result<()> {
    if globals.json {
        return printer::json(now);
    }
    let forced = if now.forced { ", forced" } else { "" };
    let since = UnixTime(now.begun_at_ms / 1000);
    println!(
        "maintenance {}: {}{forced}, since {since} by {}: {}",
        now.number,
        now.phase,
        now.begun_by,
        printer::clean(&now.reason)
    );
    if let Some(opened) = &now.opened {
        if opened.monitored {
            println!("monitor: class {}; {}", printer::clean(&opened.class), UNSEALED);
        } else {
            println!("monitor: none; nothing of the node was sealed");
        }
        for (what, names) in [("never guarded here", &opened.without), ("as they are until a reboot", &opened.until_reboot)] {
            if !names.is_empty() {
                println!("{what}: {}", printer::clean(&names.join(" ")));
            }
        }
    }
    if let Some(failed) = &now.failed {
        println!("failed: {}", printer::clean(failed));
    }
    Ok(())
}

const UNSEALED: &str = "while it is open its configured files, kernel modules, BPF programs and settings are not guarded, its own program and record are";
