//! `casemate-monitor run|probe|status|spool|detectors`.

#![deny(unsafe_code)]

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use casemate_monitor::{canary, config::Config, detector::Detector, guard, spool, worker};
use clap::Parser;
use serde_json::json;

/// The security monitor of a Casemate node.
#[derive(Debug, Parser)]
#[command(name = "casemate-monitor", version)]
enum Command {
    /// Guard the node: load the programs, seal it, start the agent, end the instances on a breach
    Run {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
        /// The agent and its arguments; its standard input is the control socket
        #[arg(last = true)]
        agent: Vec<OsString>,
    },
    /// Say as JSON what this kernel lets the monitor promise; nothing stays loaded
    Probe,
    /// Say as JSON how the running monitor stands
    Status {
        /// Configuration file
        #[arg(long)]
        config: PathBuf,
    },
    /// Check the chain of a spool and print its records and its head
    Spool {
        /// The spool's file
        file: PathBuf,
    },
    /// List the detectors with their groups and usual actions
    Detectors,
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        config: PathBuf,
        #[arg(last = true)]
        agent: Vec<OsString>,
    },
    #[command(hide = true)]
    Canary {
        #[arg(long)]
        serve: bool,
    },
    #[command(hide = true)]
    Exec {
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match dispatch(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Run { config, agent } => guard::run(&config, &agent),
        Command::Worker { config, agent } => worker::run(&config, &agent),
        Command::Canary { serve: false } => canary::begin(),
        Command::Canary { serve: true } => canary::serve(),
        Command::Exec { command } => exec(&command),
        Command::Probe => print(&worker::probe()?),
        Command::Status { config } => {
            let path = Config::load(&config)?.status();
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("read {} (hint: does the monitor run?)", path.display()))?;
            println!("{}", text.trim_end());
            Ok(())
        }
        Command::Spool { file } => {
            let head = spool::verify(&file, |record| println!("{}", json!(record)))?;
            eprintln!("{} records, head {}", head.records, head.digest);
            Ok(())
        }
        Command::Detectors => {
            let list =
                Detector::ALL.iter().map(|one| json!({"name": one.name(), "group": one.group(), "usual": one.usual().words()}));
            print(&list.collect())
        }
    }
}

fn print(value: &serde_json::Value) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Becomes `command` once the worker has labelled this process, which it says by one byte on the control socket.
fn exec(command: &[OsString]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else { bail!("start the agent: no command was given") };
    io::stdin().lock().read_exact(&mut [0]).context("wait for the label")?;
    Err(std::process::Command::new(program).args(arguments).exec()).with_context(|| format!("start {}", program.display()))
}
