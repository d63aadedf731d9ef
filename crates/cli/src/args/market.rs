//! Offers, and what one may ask of them.

use casemate_verifier::UnixTime;
use clap::{Args, Subcommand};

use super::Format;
use crate::{commands::verify::parse_time, money};

/// What the offer that an instance is placed on must be like.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Placement")]
pub(crate) struct Placement {
    /// Only within this place, such as eu/de.
    #[arg(long, value_name = "PLACE")]
    pub(crate) within: Option<String>,
    /// Rather near to this place.
    #[arg(long, value_name = "PLACE")]
    pub(crate) near: Option<String>,
    /// The most that an hour may cost.
    #[arg(long, value_name = "AMOUNT", value_parser = money::parse)]
    pub(crate) max_price: Option<u64>,
    /// The least that the trust in the node may rest on: simulated or attested.
    #[arg(long, value_name = "TIER")]
    pub(crate) trust_tier: Option<String>,
    /// Only nodes with this label; can be given several times.
    #[arg(long = "node-label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// What matters more: price (which is so without it) or spread.
    #[arg(long, value_name = "WHAT")]
    pub(crate) prefer: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Offers {
    #[command(subcommand)]
    pub(crate) command: OffersCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OffersCommand {
    /// List what there is to rent.
    List(OffersList),
    /// Show one offer: what was measured, and what is asked for it.
    Show {
        /// The node.
        node: String,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Set what you ask for a node of yours. Instances that run keep what they were placed on.
    Set(OfferSet),
    /// Take an offer back: the node takes no new work until there is another one.
    Withdraw {
        /// The node.
        node: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct OffersList {
    /// With this isolation level or a stronger one.
    #[arg(long)]
    pub(crate) level: Option<String>,
    /// simulated or attested: with such trust, or better founded.
    #[arg(long, value_name = "TIER")]
    pub(crate) trust_tier: Option<String>,
    /// With so many free CPUs.
    #[arg(long)]
    pub(crate) cpus: Option<u64>,
    /// With so much free memory.
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib: Option<u64>,
    /// Within this place.
    #[arg(long, value_name = "PLACE")]
    pub(crate) within: Option<String>,
    /// With a GPU of this model.
    #[arg(long, value_name = "MODEL")]
    pub(crate) gpu: Option<String>,
    /// With this label.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) label: Option<String>,
    /// An hour of one CPU with 4 GiB of memory costs this at the most.
    #[arg(long, value_name = "AMOUNT", value_parser = money::parse)]
    pub(crate) max_price: Option<u64>,
    /// Those, too, that take no new work.
    #[arg(long)]
    pub(crate) all: bool,
    /// node or price.
    #[arg(long, default_value = "price")]
    pub(crate) sort: String,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct OfferSet {
    /// The node.
    pub(crate) node: String,
    /// An hour of a virtual CPU.
    #[arg(long, value_name = "AMOUNT", value_parser = money::parse, default_value = "0")]
    pub(crate) cpu_price: u64,
    /// An hour of a GiB of memory.
    #[arg(long, value_name = "AMOUNT", value_parser = money::parse, default_value = "0")]
    pub(crate) memory_price: u64,
    /// An hour of a GiB of disk.
    #[arg(long, value_name = "AMOUNT", value_parser = money::parse, default_value = "0")]
    pub(crate) disk_price: u64,
    /// An hour of a GPU.
    #[arg(long, value_name = "AMOUNT", value_parser = money::parse, default_value = "0")]
    pub(crate) gpu_price: u64,
    /// CPUs that are for instances; all by default, never more than were measured.
    #[arg(long)]
    pub(crate) cpus: Option<u64>,
    /// Memory that is for instances.
    #[arg(long, value_name = "MIB")]
    pub(crate) memory_mib: Option<u64>,
    /// Disk that is for instances.
    #[arg(long, value_name = "MIB")]
    pub(crate) disk_mib: Option<u64>,
    /// An isolation level that is for instances; can be given several times, all by default.
    #[arg(long = "level", value_name = "LEVEL")]
    pub(crate) levels: Vec<String>,
    /// Where the node stands, from the large to the small, such as eu/de/fra.
    #[arg(long, default_value = "")]
    pub(crate) place: String,
    /// A label to find it by; can be given several times.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Until when it takes new work: seconds since 1970, or a time such as 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) ends_at: Option<UnixTime>,
    /// Only if the offer has this version now (0: none yet).
    #[arg(long, value_name = "VERSION")]
    pub(crate) replaces: Option<u64>,
}
