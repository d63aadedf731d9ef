//! `casemate`: for tenants, hosters and operators.
//!
//! Data goes to stdout, everything else to stderr. The verifier runs in this process: nothing that the platform says about
//! evidence is taken for an answer. Exit status: see [`exit::Status`].

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod context;
mod exit;
mod instance_keys;
mod money;
mod printer;
mod resolve;
mod trust;
mod workload_file;

use casemate_daemon::memory::Swap;
use clap::Parser as _;

use crate::{
    args::{Cli, Command},
    exit::Status,
    printer::Printer,
};

fn main() -> std::process::ExitCode {
    casemate_daemon::tls::install_provider();
    // Before anything secret is read.
    if let Err(error) = casemate_daemon::memory::forbid_dumps() {
        return exit::report(&anyhow::Error::new(error).context("forbid core dumps")).into();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Status::Usage } else { Status::Ok }.into();
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(cli)),
        Err(error) => Err(anyhow::Error::new(error).context("start the runtime")),
    };
    match outcome {
        Ok(status) => status.into(),
        Err(error) => exit::report(&error).into(),
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<Status> {
    let globals = cli.globals;
    if matches!(cli.command, Command::Run(_) | Command::Logs(_) | Command::Asset(_) | Command::Image(_)) {
        guard_keys(&Printer::new(&globals));
    }
    match cli.command {
        Command::Run(run) => commands::run::run(&globals, *run).await,
        Command::Ps(ps) => commands::ps::run(&globals, ps).await,
        Command::Inspect(inspect) => commands::inspect::run(&globals, inspect).await,
        Command::Logs(logs) => commands::logs::run(&globals, logs).await,
        Command::Stop(stop) => commands::stop::run(&globals, stop).await,
        Command::Rm(rm) => commands::rm::run(&globals, rm).await,
        Command::Verify(verify) => commands::verify::run(&globals, verify).await,
        Command::Evidence(evidence) => commands::evidence::run(&globals, &evidence),
        Command::Endorsements(endorsements) => commands::endorsements::run(&globals, endorsements).await,
        Command::Reference(reference) => commands::reference::run(&globals, &reference),
        Command::Receipt(receipt) => commands::receipt::run(&globals, receipt).await,
        Command::Nodes(nodes) => commands::nodes::run(&globals, nodes).await,
        Command::Offers(offers) => commands::offers::run(&globals, offers).await,
        Command::Incidents(incidents) => commands::incidents::run(&globals, incidents).await,
        Command::Notices(notices) => commands::notices::run(&globals, notices).await,
        Command::Webhooks(webhooks) => commands::webhooks::run(&globals, webhooks).await,
        Command::Whoami(whoami) => commands::tokens::whoami(&globals, whoami).await,
        Command::Accounts(accounts) => commands::accounts::run(&globals, accounts).await,
        Command::Projects(projects) => commands::projects::run(&globals, projects).await,
        Command::Tokens(tokens) => commands::tokens::run(&globals, tokens).await,
        Command::Audit(audit) => commands::audit::run(&globals, audit).await,
        Command::Asset(asset) => commands::asset::run(&globals, asset),
        Command::Image(image) => commands::image::run(&globals, image).await,
        Command::Doctor(doctor) => commands::doctor::run(&globals, doctor),
        Command::SelfTest(test) => commands::selftest::run(&globals, test).await,
        Command::Dev(dev) => commands::dev::run(&globals, dev).await,
        Command::Completions(completions) => commands::completions::run(&completions),
    }
}

/// For commands that have keys or plain data in memory.
fn guard_keys(printer: &Printer) {
    if casemate_daemon::memory::keep_out_of_swap() == Swap::Possible {
        let text =
            "swap is on and memory cannot be locked: keys could reach the disk. Turn swap off, encrypt it, or raise `ulimit -l`";
        printer.note("warning", text);
    }
}
