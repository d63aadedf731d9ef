//! The attack suite's player: the first process of a node guest, the node's agent, a machine, and whoever attacks them.
//!
//! It runs only inside node guests (`docs/monitor.md`). The cases are in `attacks/`.

mod acts;
mod agent;
mod cases;
mod deaths;
mod drills;
mod figures;
mod machine;
mod nested;
mod node;
#[allow(unsafe_code, reason = "attacks are made of system calls that no library offers")]
mod sys;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match words.first().map(String::as_str) {
        None if std::process::id() == 1 => node::run(node::play),
        Some("figures") if std::process::id() == 1 => node::run(figures::run),
        Some("nothing") => Ok(()),
        Some("compile") => figures::compile(),
        Some("spin") => machine::spin(),
        Some("agent") => agent::run(),
        Some("machine") => machine::run(),
        Some("idle") => machine::idle(),
        Some("act") => act(&words[1..]),
        _ => Err(anyhow::anyhow!("this program plays attacks inside a node guest, as its first process")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One act; its outcome is the exit status: 0, or the number of the error.
fn act(words: &[String]) -> Result<()> {
    let [name, target] = words else { bail!("act NAME TARGET") };
    let target = serde_json::from_str(target).context("read the target")?;
    std::process::exit(acts::number(name, &target));
}
