//! The command line.

use std::path::PathBuf;

use casemate_verifier::UnixTime;
use clap::{Args, Parser, Subcommand, ValueEnum};

mod accounts;
mod endorsements;
pub(crate) mod maintenance;
mod market;
mod notices;
mod reference;
mod webhooks;

pub(crate) use accounts::{
    Accounts, AccountsCommand, Audit, NewToken, NodesCommand, Projects, ProjectsCommand, Tokens, TokensCommand, Whoami,
};
pub(crate) use endorsements::{Endorsements, EndorsementsCommand, FetchOptions, Product};
pub(crate) use market::{OfferSet, Offers, OffersCommand, OffersList, Placement};
pub(crate) use notices::{Notices, NoticesCommand, NoticesList};
pub(crate) use reference::{Checked, ComputeCommand, ComputeSnp, Export, Reference, ReferenceCommand};
pub(crate) use webhooks::{WebhookAdd, Webhooks, WebhooksCommand};

/// Run workloads on other people's machines, and hand over keys only after checking the evidence yourself.
#[derive(Debug, Parser)]
#[command(name = "casemate", version, max_term_width = 100, propagate_version = true)]
#[command(
    after_help = "Exit status: 0 done, 1 error, 2 refused by a check, 3 the workload ended with a non-zero status, 64 wrong usage."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Globals {
    /// Context file: platform address, token and the trust anchors pinned for it.
    #[arg(long, global = true, env = "CASEMATE_CONTEXT", value_name = "FILE")]
    pub(crate) context: Option<PathBuf>,
    /// Machine-readable result on stdout.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// No progress on stderr.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a workload: verify its guest, release keys to it, stream its output, check the receipt.
    Run(Box<Run>),
    /// List instances.
    Ps(Ps),
    /// Show everything known of an instance.
    Inspect(Inspect),
    /// Show the output of an instance's workload.
    Logs(Logs),
    /// Stop an instance; its memory and scratch are wiped.
    Stop(Stop),
    /// Forget a stopped instance.
    Rm(Rm),
    /// Verify an instance's evidence with a fresh nonce, or a saved file or a request offline.
    #[command(
        after_help = "With --json and neither INSTANCE nor --evidence, a request (docs/api/appraisal.md) is read from standard input \
                            and its answer written to standard output: exit status 0 accepted, 2 refused, 1 not a request. \
                            A request needs no context."
    )]
    Verify(Verify),
    /// Show what a file with evidence says, without judging it.
    Evidence(Evidence),
    /// Fetch what vendors publish about their processors and GPUs. Nothing of it is trusted: `verify` judges it.
    Endorsements(Endorsements),
    /// Compute, sign, check and convert reference values.
    Reference(Reference),
    /// Check the signed receipt of an ended instance.
    Receipt(Receipt),
    /// List the platform's nodes, and look after them.
    Nodes(Nodes),
    /// List what there is to rent, and set what you ask for your nodes.
    Offers(Offers),
    /// List what nodes were suspended for (needs an operator's token).
    Incidents(Incidents),
    /// Show what you were told of the nodes that have or had your instances: breaches, suspensions, revocations.
    Notices(Notices),
    /// Have an address of yours called with signed events, and see what became of the calls.
    Webhooks(Webhooks),
    /// Show who this context's token is, and what it may do.
    Whoami(Whoami),
    /// List, make and change accounts (needs an operator's token).
    Accounts(Accounts),
    /// List and make projects, and change their members and quotas.
    Projects(Projects),
    /// List, make and revoke tokens.
    Tokens(Tokens),
    /// Show who changed what.
    Audit(Audit),
    /// Encrypt and decrypt assets.
    Asset(Asset),
    /// Encrypt layers of an image.
    Image(Image),
    /// Check whether this machine can be a node.
    Doctor(Doctor),
    /// Run a workload that tries well-known ways out of an instance, and show which of them were open.
    #[command(name = "selftest", after_help = "Exit status: 0 nothing got through, 1 something did.")]
    SelfTest(SelfTest),
    /// A platform and a node on this machine, for development and demonstration.
    Dev(Dev),
    /// Print a shell completion script.
    Completions(Completions),
}

/// How a command prints its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Workload file (YAML); flags override its fields.
    #[arg(value_name = "WORKLOAD")]
    pub(crate) file: Option<PathBuf>,
    /// Minimum isolation level.
    #[arg(long, value_name = "LEVEL")]
    pub(crate) isolation: Option<String>,
    /// OCI image: oci:PATH (layout or archive), docker://HOST/NAME@DIGEST.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) image: Option<String>,
    /// Name shown in lists.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Encrypted input, placed at PATH in the guest (default /data/NAME).
    #[arg(long = "asset", value_name = "NAME=FILE[:PATH]")]
    pub(crate) assets: Vec<String>,
    /// Key file of an asset or an encrypted layer; it leaves this machine only sealed to the verified guest.
    #[arg(long = "key", value_name = "NAME=FILE")]
    pub(crate) keys: Vec<String>,
    /// Folder with the key files of the image's encrypted layers, as `casemate image encrypt` made it.
    #[arg(long, value_name = "DIR")]
    pub(crate) layer_keys: Option<PathBuf>,
    /// Folder for the results; must be new or empty.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Environment variable of the workload.
    #[arg(long = "env", short = 'e', value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// What the workload may reach: a range or a name, with ports (docs/network.md); without any rule there is no network.
    #[arg(long = "egress", value_name = "RANGE|NAME[:PROTOCOL/PORTS]")]
    pub(crate) egress: Vec<String>,
    /// A port of the node that leads to the workload.
    #[arg(long = "publish", value_name = "NODE_PORT:PROTOCOL/PORT")]
    pub(crate) publish: Vec<String>,
    /// Virtual CPUs.
    #[arg(long)]
    pub(crate) cpus: Option<u32>,
    /// Guest memory in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib: Option<u64>,
    /// Encrypted scratch volume in MiB.
    #[arg(long, value_name = "MIB")]
    pub(crate) scratch_mib: Option<u64>,
    /// Longest run in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ttl_s: Option<u64>,
    /// Node to run on; any suitable one by default.
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// Project that the instance belongs to; the token's or the account's own by default.
    #[arg(long)]
    pub(crate) project: Option<String>,
    #[command(flatten)]
    pub(crate) placement: Placement,
    /// Command and arguments instead of the image's.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Ended instances, too.
    #[arg(long, short)]
    pub(crate) all: bool,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    pub(crate) instance: String,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    pub(crate) instance: String,
    /// Go on until the workload ends.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Also unpack the results into this folder (new or empty).
    #[arg(long, value_name = "DIR")]
    pub(crate) results: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    pub(crate) instance: String,
    /// Longest wait for the wipe, in seconds.
    #[arg(long, default_value_t = 60)]
    pub(crate) timeout_s: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    pub(crate) instance: String,
    /// Stop it first if it still runs.
    #[arg(long, short)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Instance: asks its node for evidence over a fresh nonce.
    #[arg(conflicts_with = "evidence")]
    pub(crate) instance: Option<String>,
    /// Saved evidence, or a request with all that is needed to judge it: judged offline.
    #[arg(long, value_name = "FILE")]
    pub(crate) evidence: Option<PathBuf>,
    /// Rego policy that has the last word instead of the built-in one.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Judge as of this time (RFC 3339, or seconds since 1970) instead of the request's, or now.
    #[arg(long, value_name = "TIME", value_parser = crate::commands::verify::parse_time)]
    pub(crate) at: Option<UnixTime>,
    /// Save the evidence, to be judged again offline.
    #[arg(long, value_name = "FILE", requires = "instance")]
    pub(crate) save: Option<PathBuf>,
    /// Fetch the vendors' endorsements for the request, instead of those that it brings.
    #[arg(long, conflicts_with = "instance")]
    pub(crate) fetch: bool,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) fetching: FetchOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Evidence {
    #[command(subcommand)]
    pub(crate) command: EvidenceCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Show a report, quote, log, TPM structure, certificate or the like; its kind is found by its content.
    Show {
        file: PathBuf,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Receipt {
    #[command(subcommand)]
    pub(crate) command: ReceiptCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptCommand {
    /// Fetch the receipt of an instance, or read a saved one, and check signature, node and content.
    Verify {
        /// Instance id.
        #[arg(required_unless_present = "file", conflicts_with = "file")]
        instance: Option<String>,
        /// Saved receipt.
        #[arg(long)]
        file: Option<PathBuf>,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Nodes {
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Option<NodesCommand>,
}

#[derive(Debug, Args)]
pub(crate) struct Incidents {
    /// Only those of this node
    #[arg(long)]
    pub(crate) node: Option<String>,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Asset {
    #[command(subcommand)]
    pub(crate) command: AssetCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AssetCommand {
    /// Encrypt a file under a key; the key file is made (mode 0600) when it does not exist.
    Encrypt {
        #[arg(long)]
        key: PathBuf,
        input: PathBuf,
        output: PathBuf,
    },
    /// Decrypt a file.
    Decrypt {
        #[arg(long)]
        key: PathBuf,
        input: PathBuf,
        output: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Image {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Write a copy of an image of which only the guest can read the layers, once it has their keys.
    Encrypt(ImageEncrypt),
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(crate) struct ImageEncrypt {
    /// OCI image: oci:PATH (layout or archive), docker://HOST/NAME@DIGEST.
    #[arg(long = "in", value_name = "IMAGE")]
    pub(crate) input: String,
    /// New OCI layout: oci:PATH (a folder that is empty or does not exist).
    #[arg(long, value_name = "IMAGE")]
    pub(crate) out: String,
    /// Encrypt this layer, counted from 1, the lowest; can be given several times.
    #[arg(long = "layer", value_name = "NUMBER", group = "which")]
    pub(crate) layers: Vec<usize>,
    /// Encrypt every layer.
    #[arg(long, group = "which")]
    pub(crate) all: bool,
    /// Folder for the key files, one for each layer (mode 0600); whoever has them can read the layers.
    #[arg(long, value_name = "DIR")]
    pub(crate) key_out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Dedicated-node policy: what this host may have beside being a node.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct SelfTest {
    /// Isolation level that is tried.
    #[arg(long, value_enum, default_value = "microvm")]
    pub(crate) level: Level,
    /// Node to run on; any suitable one by default.
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// The static program with the probes (default: probes/casemate-probes beside the executables' folder).
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

/// Isolation levels that can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    Container,
    Sandbox,
    Microvm,
}

impl Level {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Sandbox => "sandbox",
            Self::Microvm => "microvm",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Folder of the development platform and node.
    #[arg(long, env = "CASEMATE_DEV_STATE", value_name = "DIR", global = true)]
    pub(crate) state: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: DevCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Start platform and node, enrol the node with a software TPM, write a context file.
    Up(DevUp),
    /// Stop the instances, node and platform.
    Down {
        /// Also remove their state.
        #[arg(long)]
        purge: bool,
    },
    /// Show what runs.
    Status {
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DevUp {
    /// Guest OS image folder (default: guest-os beside the executables' folder).
    #[arg(long, value_name = "DIR")]
    pub(crate) guest_os: Option<PathBuf>,
    /// Signed reference values (default: those of the build, also when --guest-os points elsewhere).
    #[arg(long, value_name = "FILE")]
    pub(crate) reference_values: Option<PathBuf>,
    /// auto, kvm or tcg.
    #[arg(long, default_value = "auto")]
    pub(crate) accel: String,
    /// Servers of the platform; more than one share a PostgreSQL that is started with them.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(crate) replicas: u8,
    /// PostgreSQL instead of SQLite, also for one server.
    #[arg(long)]
    pub(crate) postgres: bool,
    /// Run the node under the security monitor, which refuses nothing here, and ends all instances when it sees somebody touch one.
    #[arg(long)]
    pub(crate) monitor: bool,
    /// Line added to the agent's configuration, such as `[network]` (docs/network.md); can be given several times.
    #[arg(long, value_name = "TOML")]
    pub(crate) agent_config: Vec<String>,
    /// Lines added to the server's configuration (TOML), for tests.
    #[arg(long, hide = true, value_name = "TOML")]
    pub(crate) server_config: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    pub(crate) shell: clap_complete::Shell,
}
