//! Notices.

use clap::{Args, Subcommand};

use super::Format;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Notices {
    #[command(flatten)]
    pub(crate) list: NoticesList,
    #[command(subcommand)]
    pub(crate) command: Option<NoticesCommand>,
}

#[derive(Debug, Args)]
pub(crate) struct NoticesList {
    /// Only those about this instance.
    #[arg(long)]
    pub(crate) instance: Option<String>,
    /// Only those before this number.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) before: Option<u64>,
    /// At most so many, newest first.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) limit: u32,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NoticesCommand {
    /// List notices, newest first.
    List(NoticesList),
    /// Show a notice with the lines of the node's record, and check that these are one chain.
    Show {
        /// Its id; `casemate notices` shows it.
        notice: String,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}
