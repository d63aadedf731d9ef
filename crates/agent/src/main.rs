//! `casemate-agent run|check|drain|leave|prefetch|collect|jail`.

use std::{ffi::OsString, os::fd::AsFd as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use casemate_agent::{config::Config, service};
use casemate_daemon::shutdown::signal;
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
        /// Speak to the monitor that started this agent, on standard input, and start nothing that it does not guard. SIGTERM, which
        /// only the host's first process may send then, ends and wipes every instance.
        #[arg(long)]
        monitored: bool,
    },
    /// End and wipe every instance, without the platform, and stop; the next `run` sends the receipts.
    Drain {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Ask the agent that runs to end every instance, tell the platform, and end; wait for it.
    Leave {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Fetch and convert images before an assignment needs them; also beside an agent that runs.
    Prefetch {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Images of registries, best by digest: `HOST/NAME@sha256:...`.
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove from the image cache what no instance needs; also while an agent runs.
    Collect {
        /// Configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Go down to this size and not to the configured one.
        #[arg(long)]
        most_mib: Option<u32>,
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
    let outcome = casemate_daemon::memory::forbid_dumps().context("forbid core dumps");
    match outcome.and_then(|()| dispatch(Command::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { config, monitored } => {
            let config = Config::load(&config)?;
            if monitored {
                let socket = std::io::stdin().as_fd().try_clone_to_owned().context("take standard input")?;
                return on_runtime(async { service::run_monitored(config, socket, signal()).await });
            }
            on_runtime(async { service::run(config, signal()).await })
        }
        Command::Drain { config } => {
            let config = Config::load(&config)?;
            let count = on_runtime(async { service::drain(config, signal()).await })?;
            println!("{count} instances ended and wiped");
            Ok(())
        }
        Command::Leave { config } => {
            print!("{}", service::leave(&Config::load(&config)?)?);
            Ok(())
        }
        Command::Prefetch { config, images } => {
            let config = Config::load(&config)?;
            print!("{}", on_runtime(async { service::prefetch(&config, &images).await })?);
            Ok(())
        }
        Command::Collect { config, most_mib } => {
            print!("{}", service::collect(&Config::load(&config)?, most_mib.map(|mib| u64::from(mib) << 20))?);
            Ok(())
        }
        Command::Check { config } => {
            print!("{}", service::check(&Config::load(&config)?)?);
            Ok(())
        }
    }
}

fn on_runtime<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    casemate_daemon::tls::install_provider();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    // A conversion on a blocking thread is not waited for: the cache takes no half results.
    runtime.shutdown_background();
    result
}
