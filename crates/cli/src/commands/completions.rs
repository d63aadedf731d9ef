//! `casemate completions`.

use clap::CommandFactory as _;

use crate::{
    args::{Cli, Completions},
    exit::Status,
};

#[allow(clippy::unnecessary_wraps, reason = "every command has the same shape")]
pub(crate) fn run(args: &Completions) -> anyhow::Result<Status> {
    clap_complete::generate(args.shell, &mut Cli::command(), "casemate", &mut std::io::stdout());
    Ok(Status::Ok)
}
