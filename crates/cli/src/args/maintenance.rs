//! Maintenance of nodes.

use clap::{Args, Subcommand};

use super::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum MaintenanceCommand {
    /// Take a node of yours out of service and have its monitor open it; nothing may run there.
    Begin(Begin),
    /// Have a node of yours sealed and appraised; it gets work again when that passes.
    End {
        /// Node id; `casemate nodes` lists them.
        node: String,
        /// Do not wait for what comes of it.
        #[arg(long)]
        no_wait: bool,
    },
    /// Show the last maintenance of a node of yours, and what happened to the node.
    Status {
        node: String,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Begin {
    /// Node id; `casemate nodes` lists them.
    pub(crate) node: String,
    /// What for; it is in the node's events and in the audit record.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// End what runs there (needs an operator's token).
    #[arg(long)]
    pub(crate) force: bool,
    /// Do not wait until the node is open.
    #[arg(long)]
    pub(crate) no_wait: bool,
}
