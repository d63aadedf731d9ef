//! `casemate-agent run|check|jail`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use casemate_agent::{config::Config, service};
use clap::Parser;

/// The agent of a Casemate node.
#[derive(Debug, Parser)]
#[command(name = "casemate-agent", version)]
enum Command {
    /// Serve the platform until SIGTERM; running instances go on and are adopted by the next start.
    Run {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Say what this node has and how its machines would run.
    Check {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    // The jail helper must not have a second thread, nor anything else of an agent.
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == "jail") {
        return casemate_sandbox::jail::main(words.collect::<Vec<OsString>>());
    }
    casemate_daemon::telemetry::init("casemate-agent");
    match dispatch(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { config } => run(Config::load(&config)?),
        Command::Check { config } => {
            print!("{}", service::check(&Config::load(&config)?)?);
            Ok(())
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    casemate_daemon::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async { service::run(config, casemate_daemon::shutdown::signal()).await });
    // A conversion on a blocking thread is not waited for: the cache takes no half results.
    runtime.shutdown_background();
    result
}
