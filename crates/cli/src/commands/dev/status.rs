//! `casemate dev status`.

use serde::Serialize;

use super::{down::PROCESSES, layout::Layout, process::Process};
use crate::{
    args::{Format, Globals},
    exit::Status,
    printer,
};

#[derive(Debug, Serialize)]
struct Entry {
    name: &'static str,
    pid: Option<i32>,
}

pub(super) fn run(layout: &Layout, globals: &Globals, output: Format) -> anyhow::Result<Status> {
    // More than one server, and their database, are there where `up` was asked for them.
    let always = ["agent", "server", "tpm"];
    let parts = PROCESSES.into_iter().filter(|name| always.contains(name) || layout.pid_file(name).exists());
    let entries: Vec<Entry> = parts.map(|name| Entry { name, pid: Process::find(layout, name).map(|p| p.pid) }).collect();
    let all = entries.iter().all(|entry| entry.pid.is_some());
    if globals.json || output == Format::Json {
        printer::json(&entries)?;
    } else {
        let rows: Vec<Vec<String>> = entries
            .iter()
            .map(|e| vec![e.name.into(), e.pid.map_or_else(|| "not running".into(), |pid| format!("running, pid {pid}"))])
            .collect();
        printer::table(&["PART", "STATE"], &rows)?;
        println!("\nstate: {}\nlogs:  {}", layout.state.display(), layout.logs().display());
    }
    Ok(if all { Status::Ok } else { Status::Error })
}
