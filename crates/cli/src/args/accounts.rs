//! Accounts, projects, tokens, the audit record, and whose nodes are.

use clap::{Args, Subcommand};

use super::{Format, maintenance::MaintenanceCommand};

#[derive(Debug, Args)]
pub(crate) struct Whoami {
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Accounts {
    #[command(subcommand)]
    pub(crate) command: AccountsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountsCommand {
    /// List all accounts.
    List {
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Make an account and its own project.
    Create {
        /// 1 to 64 of a-z, 0-9, '.', '_' and '-'.
        name: String,
        /// tenant, hoster or operator; can be given several times.
        #[arg(long = "role", required = true, value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// Change the roles of an account, and enable it if it was disabled.
    Set {
        name: String,
        /// tenant, hoster or operator; can be given several times. Others are taken away.
        #[arg(long = "role", required = true, value_name = "ROLE")]
        roles: Vec<String>,
    },
    /// Make all tokens of an account worthless until it is set again. What it runs goes on.
    Disable { name: String },
}

#[derive(Debug, Args)]
pub(crate) struct Projects {
    #[command(subcommand)]
    pub(crate) command: ProjectsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProjectsCommand {
    /// List your projects; an operator sees all.
    List {
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Show a project: its members, its quota and what it takes.
    Show {
        project: String,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Make a project, which you own. Prints its id.
    Create {
        /// A name for people.
        name: String,
    },
    /// Make an account a member of your project.
    Add {
        project: String,
        account: String,
        /// It may change the members, too.
        #[arg(long)]
        owner: bool,
    },
    /// Take an account out of your project.
    Remove { project: String, account: String },
    /// Limit what a project's live instances take together; what is not given is as the configuration says (needs an operator's token).
    Quota {
        project: String,
        #[command(flatten)]
        limits: Limits,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// Most live instances.
    #[arg(long)]
    pub(crate) instances: Option<u64>,
    /// Most virtual CPUs.
    #[arg(long)]
    pub(crate) cpus: Option<u64>,
    /// Most memory.
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Tokens {
    #[command(subcommand)]
    pub(crate) command: TokensCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// List your tokens.
    List {
        /// Of this account (needs an operator's token).
        #[arg(long)]
        account: Option<String>,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Make a token, which never does more than yours, and print it. It is shown once.
    Create(NewToken),
    /// End a token at once.
    Revoke {
        /// Its id; `casemate tokens list` shows it.
        token: String,
        /// And all that were made with it, and with those.
        #[arg(long)]
        with_made: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NewToken {
    /// To know it by.
    #[arg(long, default_value = "")]
    pub(crate) name: String,
    /// For this account (needs an operator's token).
    #[arg(long)]
    pub(crate) account: Option<String>,
    /// It acts only in this role; can be given several times.
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// It works only within this project.
    #[arg(long)]
    pub(crate) project: Option<String>,
    /// It does only this, such as instances.read (docs/accounts.md); can be given several times.
    #[arg(long = "verb", value_name = "VERB")]
    pub(crate) verbs: Vec<String>,
    /// It changes nothing.
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Its life in seconds [default: 30 days]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ttl_s: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Only lines before this number.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) before: Option<u64>,
    /// At most so many, newest first.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodesCommand {
    /// Give a suspended node work again, once it is known what happened (needs an operator's token).
    Restore {
        /// Node id; `casemate nodes` lists them.
        node: String,
    },
    /// Give a node of yours no new instances; those that it has may come to their end.
    Drain {
        /// Node id; `casemate nodes` lists them.
        node: String,
        /// End what still runs there after so many seconds; without it, nothing is ended (needs an operator's token).
        #[arg(long, value_name = "SECONDS")]
        deadline_s: Option<u64>,
    },
    /// Give a drained node of yours new instances again; what an operator has drained, only he does.
    Undrain {
        /// Node id; `casemate nodes` lists them.
        node: String,
    },
    /// Change a node of yours lawfully.
    #[command(subcommand)]
    Maintenance(MaintenanceCommand),
    /// Make a one-time token for enrolling a node (needs a hoster's or operator's token).
    Token(BootstrapToken),
    /// List what a node of yours has: what the instances take, and not what they are.
    Instances {
        node: String,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Give a node to a hoster, or without one back to the platform (needs an operator's token).
    Give {
        node: String,
        #[arg(long)]
        hoster: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct BootstrapToken {
    /// Whose the node will be; a hoster's is his own.
    #[arg(long)]
    pub(crate) hoster: Option<String>,
}
