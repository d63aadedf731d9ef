//! `casemate selftest`: runs the probes as a workload, and says which ways out of the instance were open.

mod image;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::run;
use crate::{
    args::{self, Format, Globals, Level, SelfTest},
    client::Client,
    context::ContextFile,
    exit::{Hinted, Status},
    printer,
};

/// What the probes wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Report {
    version: u32,
    findings: Vec<Finding>,
}

/// What `--output json` prints.
#[derive(Serialize)]
struct Tested {
    instance: String,
    level: String,
    #[serde(flatten)]
    report: Report,
}

/// What came of one probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finding {
    probe: String,
    tries: String,
    outcome: Outcome,
    reason: String,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// Refused.
    Blocked,
    /// There was nothing to try.
    Absent,
    /// Granted.
    Through,
}

pub(crate) async fn run(globals: &Globals, args: SelfTest) -> anyhow::Result<Status> {
    let program = find(args.program)?;
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let layout = image::write(&folder.path().join("image"), &program)?;
    let results = folder.path().join("results");
    let run = workload(args.level.as_str(), &layout, &results, args.node);
    // The run's own summary would stand before the report on standard output.
    let quiet = Globals { context: globals.context.clone(), json: false, quiet: globals.quiet };
    let (instance, ran) = run::run_named(&quiet, run).await?;
    let level = level_of(globals, &instance, args.level).await?;
    let report = read(&results.join(REPORT))?;
    let through = report.findings.iter().any(|finding| finding.outcome == Outcome::Through);
    // The program says it twice; who changed one of them has something to hide.
    anyhow::ensure!(
        through == (ran == Status::WorkloadFailed),
        "the probes' report and their exit status contradict each other: do not believe either"
    );
    if globals.json || args.output == Format::Json {
        printer::json(&Tested { instance, level, report })?;
    } else {
        let row = |finding: &Finding| {
            let outcome = match finding.outcome {
                Outcome::Blocked => "pass",
                Outcome::Absent => "pass (nothing there)",
                Outcome::Through => "GOT THROUGH",
            };
            vec![outcome.to_owned(), finding.probe.clone(), finding.tries.clone(), finding.reason.clone()]
        };
        let rows: Vec<_> = report.findings.iter().map(row).collect();
        printer::table(&["RESULT", "PROBE", "TRIES TO", "SEEN"], &rows)?;
    }
    Ok(if through { Status::Error } else { Status::Ok })
}

/// The level that was asked for is the least: a stronger one would be taken for it.
async fn level_of(globals: &Globals, instance: &str, asked: Level) -> anyhow::Result<String> {
    let instance = Client::new(&ContextFile::load(globals)?)?.instance(instance).await?;
    match instance.level {
        Some(level) if level == asked.as_str() => Ok(level),
        other => {
            let asked = asked.as_str();
            let message = format!("test level {asked}: the instance ran at level {}", other.as_deref().unwrap_or("unknown"));
            Err(Hinted { message, hint: format!("`casemate nodes` shows which nodes offer {asked}; choose one with --node") }
                .into())
        }
    }
}

fn workload(level: &str, layout: &Path, results: &Path, node: Option<String>) -> args::Run {
    args::Run {
        file: None,
        isolation: Some(level.to_owned()),
        image: Some(format!("oci:{}", layout.display())),
        name: Some("selftest".to_owned()),
        assets: Vec::new(),
        keys: Vec::new(),
        layer_keys: None,
        output: Some(results.to_owned()),
        env: Vec::new(),
        egress: Vec::new(),
        publish: Vec::new(),
        cpus: None,
        memory_mib: None,
        scratch_mib: None,
        ttl_s: Some(TTL_S),
        node,
        project: None,
        placement: args::Placement::default(),
        command: Vec::new(),
    }
}

fn find(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let program = match named {
        Some(program) => program,
        None => {
            let own = env::current_exe().context("find this program")?;
            let folder = own.parent().and_then(Path::parent).context("this program lies in a folder")?;
            folder.join("probes/casemate-probes")
        }
    };
    if program.is_file() {
        return Ok(program);
    }
    let message = format!("find the probes at {}: there is no such file", program.display());
    Err(Hinted { message, hint: "build them with `make build`, or name them with --program FILE".into() }.into())
}

/// It comes from inside of an instance that may have been taken over.
fn read(file: &Path) -> anyhow::Result<Report> {
    let attempt = "read the probes' report";
    let size = fs::symlink_metadata(file).context(attempt)?;
    anyhow::ensure!(size.is_file() && size.len() <= MAX_REPORT, "{attempt}: it is no file of at most {MAX_REPORT} bytes");
    parse(&fs::read(file).context(attempt)?)
}

fn parse(bytes: &[u8]) -> anyhow::Result<Report> {
    let report: Report = serde_json::from_slice(bytes).context("understand the probes' report")?;
    anyhow::ensure!(report.version == 1, "the probes' report has version {}, and this program knows 1", report.version);
    anyhow::ensure!(!report.findings.is_empty(), "the probes' report is empty: nothing was tried");
    Ok(report)
}

const REPORT: &str = "report.json";
const MAX_REPORT: u64 = 1 << 20;
const TTL_S: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_says_nothing_is_no_pass() {
        let good = br#"{"version":1,"findings":[{"probe":"p","tries":"t","outcome":"through","reason":"r"}]}"#;
        assert_eq!(parse(good).unwrap().findings[0].outcome, Outcome::Through);
        for bad in [
            "",
            "{}",
            r#"{"version":1,"findings":[]}"#,
            r#"{"version":2,"findings":[{"probe":"p","tries":"t","outcome":"blocked","reason":"r"}]}"#,
            r#"{"version":1,"findings":[{"probe":"p","tries":"t","outcome":"fine","reason":"r"}]}"#,
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_report_must_be_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("report.json");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert!(read(&link).is_err());
        assert!(read(&dir.path().join("none")).is_err());
        assert!(find(Some(dir.path().join("none"))).is_err());
    }
}
