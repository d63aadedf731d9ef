//! Where a guest lives: in a machine of its own, or in a container on somebody's kernel.
//!
//! What differs between the two is behind one trait, and a life has exactly one home: what belongs to a machine cannot be reached from a
//! container, nor the other way round. Everything else (protocol, keys, records, the order of a life) is the same code.

pub(crate) mod container;
pub(crate) mod machine;

use std::{
    io,
    path::{Path, PathBuf},
};

use casemate_api::{
    guest,
    workload::{Asset, Isolation, Layer},
};
use casemate_evidence::Sha256Digest;
use casemate_seal::KeyRelease;

use crate::{
    channel::port::Port,
    fatal::Fatal,
    workload::{Bind, Plan, process::Streams, user::Identity},
};

/// A home.
pub(crate) trait Home {
    /// The workload's first process.
    type Process: Running;

    /// The strongest level that it may be taken for.
    fn level(&self) -> Isolation;

    /// The host's channel.
    fn open_port(&self) -> io::Result<Port>;

    /// What takes a while and needs nothing of the host's; done before its first message.
    fn settle(&mut self) -> Result<(), Fatal>;

    /// Remembers the workload's digest for evidence, before anything of the workload is opened.
    fn measure(&mut self, workload_digest: [u8; 32]) -> Result<(), Fatal>;

    /// What vouches for a guest binding, as far as anything here can.
    fn vouch(&mut self, binding: &Sha256Digest) -> Result<Vouched, Fatal>;

    /// Opens the image's layers.
    fn open_layers(&mut self, layers: &[Layer], slices: &[guest::Slice]) -> Result<(), Fatal>;

    /// Does one of the things that the workload needs and evidence does not; `false` when none was left.
    fn next_chore(&mut self) -> Result<bool, Fatal>;

    /// Where the image is.
    fn image(&self) -> &'static Path;

    /// Decrypts all assets for `owner`; what has to be mounted for the workload to see them.
    fn open_assets(
        &self,
        assets: &[Asset],
        slices: &[guest::Slice],
        keys: &KeyRelease,
        owner: &Identity,
    ) -> Result<Vec<Bind>, Fatal>;

    /// Where the workload's output is, here.
    fn output(&self) -> PathBuf;

    /// Gives the output directory to `owner`; what has to be mounted for the workload to see it at `path`.
    fn open_output(&self, path: &str, owner: &Identity) -> Result<Option<Bind>, Fatal>;

    /// Sees to it that the workload has the network that its launch names; what has to be mounted for the workload to know whom to ask for
    /// names.
    fn connect(&self, network: &guest::Network) -> Result<Option<Bind>, Fatal>;

    /// Starts the workload and waits until the image's program runs.
    fn start(&self, plan: &Plan) -> impl Future<Output = Result<(Self::Process, Streams), Fatal>>;

    /// What is seen of its protection once everything is open, for the score card.
    fn observe(&self) -> Vec<guest::Observation>;

    /// The only way out.
    fn end(&self) -> !;
}

/// A running workload.
pub(crate) trait Running {
    /// Waits for the end of the first process. 128 + signal number after a signal.
    fn exited(&self) -> impl Future<Output = io::Result<i32>>;

    /// What is seen of how it is confined, for the score card.
    fn observe(&self) -> Option<guest::Observation>;

    /// Asks it to end.
    fn terminate(&self);

    /// Ends it and all that it started.
    fn kill(&self);
}

/// A quote, where there is a TPM.
#[derive(Debug, Default)]
pub(crate) struct Vouched {
    pub(crate) attest: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) ak_public: Vec<u8>,
    pub(crate) pcrs: Vec<Vec<u8>>,
}
