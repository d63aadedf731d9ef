//! `casemate dev`: platform and node on this machine.
//!
//! The node's TPM is a software one (swtpm) with a certificate of a vendor root made here, and "firmware" is played by this
//! command: it extends the PCRs and writes the event log. Everything after that is the real thing, and every verdict says
//! "simulated".

mod down;
mod firmware;
mod layout;
mod monitor;
mod postgres;
mod process;
mod servers;
mod status;
mod tpm;
mod up;

use crate::{
    args::{Dev, DevCommand, Globals},
    exit::Status,
    printer::Printer,
};

use std::path::PathBuf;

use anyhow::Context as _;
use layout::Layout;

pub(crate) async fn run(globals: &Globals, args: Dev) -> anyhow::Result<Status> {
    let layout = Layout::new(args.state)?;
    let printer = Printer::new(globals);
    match args.command {
        DevCommand::Up(up) => up::run(&layout, &printer, &up).await?,
        DevCommand::Down { purge } => {
            down::run(&layout, &printer).await?;
            if purge {
                layout.purge()?;
                printer.done("purged", &layout.state.display().to_string());
            }
        }
        DevCommand::Status { output } => return status::run(&layout, globals, output),
    }
    Ok(Status::Ok)
}

/// An executable beside this one.
fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    Ok(std::env::current_exe().context("find this executable")?.with_file_name(name))
}
