//! Options of `casemate reference`.

use std::path::PathBuf;

use casemate_verifier::UnixTime;
use clap::{Args, Subcommand};

use super::Format;
use crate::commands::verify::parse_time;

#[derive(Debug, Args)]
pub(crate) struct Reference {
    #[command(subcommand)]
    pub(crate) command: ReferenceCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReferenceCommand {
    /// Compute what good evidence says, from what is launched or was logged.
    Compute {
        #[command(subcommand)]
        what: ComputeCommand,
    },
    /// Make a signing key (Ed25519, mode 0600) and print its public half.
    Key {
        /// The key, 64 hexadecimal digits; must be new.
        file: PathBuf,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Sign reference values: JSON of docs/reference-values.md, without an envelope.
    Sign {
        /// The payload.
        file: PathBuf,
        /// Key that signs.
        #[arg(long, value_name = "FILE")]
        sign_key: PathBuf,
        /// The signed file.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check signed reference values, JSON or CoRIM, and say how many there are of each kind.
    Verify(Checked),
    /// Check signed reference values, JSON or CoRIM, and print them.
    Show(Checked),
    /// From signed JSON to a signed CoRIM.
    Export(Export),
    /// From a signed CoRIM to signed JSON.
    Import {
        #[command(flatten)]
        from: Checked,
        /// Key that signs the JSON.
        #[arg(long, value_name = "FILE")]
        sign_key: PathBuf,
        /// The signed JSON.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// Reference values and whose they must be.
#[derive(Debug, Args)]
pub(crate) struct Checked {
    /// Signed reference values.
    pub(crate) file: PathBuf,
    /// The public key that must have signed them: 64 hexadecimal digits or base64.
    #[arg(long, value_name = "KEY", value_parser = crate::commands::reference::parse_public_key)]
    pub(crate) key: [u8; 32],
    /// Judge a CoRIM's validity as of this time instead of now.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) at: Option<UnixTime>,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) from: Checked,
    /// Key that signs the CoRIM.
    #[arg(long, value_name = "FILE")]
    pub(crate) sign_key: PathBuf,
    /// Identifier of the manifest.
    #[arg(long)]
    pub(crate) id: String,
    /// Who signs it, for people.
    #[arg(long)]
    pub(crate) signer: String,
    /// First second of its validity (default: now).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) not_before: Option<UnixTime>,
    /// Last second of its validity.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) not_after: UnixTime,
    /// The CoRIM, CBOR.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ComputeCommand {
    /// The launch measurement of an SEV-SNP guest (QEMU and OVMF).
    Snp(ComputeSnp),
    /// RTMR0 to RTMR3 that an event log (CCEL) leads to.
    TdxRtmr {
        #[arg(long, value_name = "FILE")]
        event_log: PathBuf,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
    /// PCR values that a firmware event log leads to.
    Pcrs {
        #[arg(long, value_name = "FILE")]
        event_log: PathBuf,
        /// sha1, sha256, sha384 or sha512.
        #[arg(long, default_value = "sha256")]
        bank: String,
        #[arg(long, value_enum, default_value = "table")]
        output: Format,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ComputeSnp {
    /// OVMF file.
    #[arg(long, value_name = "FILE")]
    pub(crate) firmware: PathBuf,
    /// Kernel that is booted directly.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// Its initrd.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(long, requires = "kernel", default_value = "")]
    pub(crate) append: String,
    /// Virtual CPUs.
    #[arg(long)]
    pub(crate) vcpus: u32,
    /// CPU model: EPYC-Milan, EPYC-Genoa or EPYC-Turin.
    #[arg(long)]
    pub(crate) cpu: String,
    /// SEV_FEATURES of the virtual CPUs.
    #[arg(long, default_value_t = 1, value_name = "BITS")]
    pub(crate) guest_features: u64,
    #[arg(long, value_enum, default_value = "table")]
    pub(crate) output: Format,
}
