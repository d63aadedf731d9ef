//! One driver trait over the isolation levels.
//!
//! A driver owns what is outside the guest: jail, VMM process, vTPM process, guest memory, scratch file, and their wipe.
//! It knows nothing of evidence or the platform. All of its state can be found again from disk, so that an agent which was
//! killed at any point can adopt or clean up.
//!
//! [`qemu`], [`cloud_hypervisor`] and [`firecracker`] run real machines, each in a [`jail`]; [`oci`] runs containers by the
//! runtimes runc, crun and runsc; [`fake`] plays them within the process, for demonstrations and for tests of everything above.

#![deny(unsafe_code)]

mod api_vmm;
mod capabilities;
mod cgroup;
pub mod cloud_hypervisor;
mod console;
mod error;
pub mod fake;
pub mod firecracker;
pub mod jail;
mod layout;
mod memory;
pub mod network;
mod observe;
mod observe_vmm;
pub mod oci;
mod plan;
mod process;
pub mod qemu;
mod record;
mod socket;
mod sys;
mod topology;
mod unix_http;
mod vsock;
mod work;

pub use capabilities::{Capabilities, Demand, Features, GuestChannel, Isolation, Support, SystemKind};
pub use error::DriverError;
pub use plan::{
    ContainerSystem, Disk, Exit, ExitCause, Footprint, JailReport, LayerFile, MachineSystem, Plan, Prepared, Presence, Shared,
    SharedKind, Started, System, VmmReport, WipeEvidence, WipedItem,
};
pub use topology::{CpuRange, Placement, Topology};

use std::io;

use async_trait::async_trait;
use casemate_lifecycle::InstanceId;
use tokio::io::{AsyncRead, AsyncWrite};

/// The host's end of the guest channel: one reliable byte stream.
pub trait Channel: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Channel for T {}

/// Talks to the fresh vTPM before the machine exists; returns what the launch record should endorse (TPMT_PUBLIC of the
/// attestation key). Called with a TPM that has been started (`TPM2_Startup(CLEAR)`).
pub trait VtpmProvisioner: Send + Sync {
    /// `transact` sends one command and returns its response.
    fn provision(&self, transact: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>>;
}

/// Where process 1 of a container finds what is its own.
pub const GUEST_DIR: &str = "/casemate";

/// A way to run machines.
///
/// What a plan asks for is held against [`Capabilities`] first: `prepare` refuses with [`DriverError::Unsupported`] whatever they
/// rule out, and has then changed nothing.
///
/// Order: `prepare`, `start`, `connect` (again after a lost connection), `wait`, `wipe`, `forget`. Every method is idempotent and may
/// be repeated after a crash of the caller; dropping a returned future leaves a state that `wipe` cleans up.
#[async_trait]
pub trait Driver: Send + Sync {
    /// What this driver can do on this host, found out once.
    fn capabilities(&self) -> &Capabilities;

    /// Makes jail root, cgroup, guest memory, scratch and, where the plan demands it, a vTPM; runs nothing of the tenant. On failure
    /// nothing is left.
    async fn prepare(&self, plan: &Plan, vtpm: &dyn VtpmProvisioner) -> Result<Prepared, DriverError>;

    /// Starts the VMM in its jail and observes the jail from outside.
    async fn start(&self, plan: &Plan) -> Result<Started, DriverError>;

    /// Connects to the guest channel; the VMM allows one connection at a time. What is sent before the guest has opened its
    /// end waits in the connection, and is lost with it.
    async fn connect(&self, id: &InstanceId) -> Result<Box<dyn Channel>, DriverError>;

    /// Waits for the end of the VMM (also one that another process started) and says why it ended.
    async fn wait(&self, id: &InstanceId) -> Result<Exit, DriverError>;

    /// Ends the VMM now; returns when it is gone.
    async fn kill(&self, id: &InstanceId) -> Result<(), DriverError>;

    /// Ends the VMM if it still runs, wipes and removes everything but the list of what was wiped. Works from disk state alone,
    /// also on half-prepared instances; a second call says the same again, so that the evidence outlives the caller.
    async fn wipe(&self, id: &InstanceId) -> Result<WipeEvidence, DriverError>;

    /// Removes the list that a wipe left, once its evidence is kept elsewhere; then nothing of the instance is left. Does
    /// nothing to an instance that is not wiped.
    async fn forget(&self, id: &InstanceId) -> Result<(), DriverError>;

    /// What of a running instance the host's kernel knows, for whoever watches over it; `None` where it is nothing.
    fn footprint(&self, id: &InstanceId) -> Option<Footprint>;

    /// Every instance of which anything exists on this host.
    async fn list(&self) -> Result<Vec<(InstanceId, Presence)>, DriverError>;
}
