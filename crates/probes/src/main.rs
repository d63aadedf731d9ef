//! Tries, from inside of an instance, the well-known ways out of one, and says which were open.
//!
//! It is run as an ordinary workload. Each probe asks for something that no workload should get, in a form that does no harm
//! where it is granted: a descriptor that is closed again, a mount that is taken away again, or a request that fails only
//! *after* the kernel has checked the caller's rights. What is granted has got through.
//!
//! ```text
//! casemate-probes                       a table on standard output
//! casemate-probes --out FILE            the same as JSON in a file
//! casemate-probes --only NAME           one probe
//! casemate-probes --wait                the table, once there is something on standard input
//! ```
//!
//! Exit status: 0 nothing got through, 1 something did, 2 the program could not do its work.
//!
//! There is one thread, because some probes fork.

mod probes;
mod sys;

use std::{
    env, fs,
    io::{self, Read as _},
    process::ExitCode,
};

use serde::Serialize;

use probes::{Outcome, PROBES, Probe};

/// What came of one probe.
#[derive(Debug, Serialize)]
struct Finding {
    probe: &'static str,
    tries: &'static str,
    outcome: &'static str,
    reason: String,
}

/// What `--out` writes.
#[derive(Debug, Serialize)]
struct Report {
    version: u32,
    findings: Vec<Finding>,
}

fn main() -> ExitCode {
    // Before anything is opened: what is open now was inherited.
    let inherited = probes::inherited_descriptors();
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (out, only) = match args.as_slice() {
        [] => (None, None),
        ["--out", file] => (Some(*file), None),
        ["--only", name] => (None, Some(*name)),
        ["--wait"] => match io::stdin().read(&mut [0]) {
            Ok(_) => (None, None),
            Err(error) => return complain(&format!("wait for standard input: {error}")),
        },
        _ => return complain("usage: casemate-probes [--out FILE | --only NAME | --wait]"),
    };
    let chosen: Vec<&Probe> = PROBES.iter().filter(|probe| only.is_none_or(|name| probe.name == name)).collect();
    if chosen.is_empty() {
        return complain("there is no probe of that name");
    }
    let findings: Vec<Finding> = chosen.into_iter().map(|probe| finding(probe, &inherited)).collect();
    let through = findings.iter().any(|finding| finding.outcome == THROUGH);
    let report = Report { version: 1, findings };
    if let Some(file) = out {
        let text = serde_json::to_vec(&report).expect("a report is plain data");
        if let Err(error) = fs::write(file, text) {
            return complain(&format!("write {file}: {error}"));
        }
    } else {
        for Finding { probe, outcome, reason, .. } in &report.findings {
            println!("{outcome:<8} {probe:<20} {reason}");
        }
    }
    if through { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn finding(probe: &Probe, inherited: &[i32]) -> Finding {
    let (outcome, reason) = match (probe.run)(inherited) {
        Outcome::Blocked(reason) => ("blocked", reason),
        Outcome::Absent(reason) => ("absent", reason),
        Outcome::Through(reason) => (THROUGH, reason),
    };
    Finding { probe: probe.name, tries: probe.tries, outcome, reason }
}

fn complain(message: &str) -> ExitCode {
    eprintln!("casemate-probes: {message}");
    ExitCode::from(2)
}

const THROUGH: &str = "through";
