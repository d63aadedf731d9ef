//! Webhooks.

use clap::{Args, Subcommand, ValueEnum};

use super::Format;

#[derive(Debug, Args)]
pub(crate) struct Webhooks {
    #[command(subcommand)]
    pub(crate) command: WebhooksCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WebhooksCommand {
    /// Have an address called when something happens to a node, and print the secret that calls are signed with. It is shown once.
    Add(WebhookAdd),
    /// List the webhooks of your projects, and yours as a hoster.
    List {
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Have an address called no more, not even for what waits.
    Remove {
        /// Its id; `casemate webhooks list` shows it.
        webhook: String,
    },
    /// Have a webhook called although nothing happened, and show what came of it.
    Test { webhook: String },
    /// Show what became of the calls to a webhook, newest first.
    Deliveries {
        webhook: String,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WebhookAdd {
    /// Where: `https://…`, with a name or a public address.
    pub(crate) url: String,
    /// incident, suspended, revoked or restored; can be given several times [default: all]
    #[arg(long = "kind", value_name = "KIND")]
    pub(crate) kinds: Vec<String>,
    /// For what a project is told, for what happens to your nodes (hosters), or for what happens to any node (operators).
    #[arg(long, value_enum, default_value = "project")]
    pub(crate) scope: WebhookScope,
    /// Project [default: your own]
    #[arg(long)]
    pub(crate) project: Option<String>,
}

/// For whose events a webhook is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WebhookScope {
    Project,
    Hoster,
    Platform,
}

impl WebhookScope {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Hoster => "hoster",
            Self::Platform => "platform",
        }
    }
}
