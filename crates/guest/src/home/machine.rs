//! A machine of its own: verity root, vTPM, encrypted scratch.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use casemate_api::{
    guest,
    workload::{Asset, Isolation, Layer},
};
use casemate_attester::{Attester as _, Device, Tpm, TpmAttester, quote_bundle};
use casemate_evidence::{Sha256Digest, instance::guest_pcr};
use casemate_seal::KeyRelease;

use super::{Home, Vouched};
use crate::{
    boot,
    channel::port::Port,
    fatal::{Check, Fatal, OrFatal},
    network::Link,
    observe, power,
    storage::{self, SCRATCH, assets, layers},
    workload::{Bind, Plan, cgroup, process::Process, process::Streams, user::Identity},
};

/// A machine.
#[derive(Default)]
pub(crate) struct Machine {
    /// The vTPM with its attestation key.
    quoter: Option<TpmAttester<Device>>,
    chores: Vec<Chore>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chore {
    /// Open the scratch volume under a fresh key, with a fresh file system.
    Scratch,
    /// Put this many open layers and the scratch volume together.
    Root(usize),
    /// Make the workload's control group.
    Group,
}

impl Machine {
    /// From the kernel's first process to the machine's second stage.
    pub(crate) fn boot() -> Result<Self, Fatal> {
        boot::first_stage()?;
        boot::second_stage()?;
        Ok(Self::default())
    }

    fn quoter(&mut self) -> Result<&mut TpmAttester<Device>, Fatal> {
        self.quoter.as_mut().ok_or_else(|| Fatal::new(Check::Tpm, "the vTPM is not open"))
    }
}

impl Home for Machine {
    type Process = Process;

    fn level(&self) -> Isolation {
        Isolation::Microvm
    }

    fn open_port(&self) -> io::Result<Port> {
        Port::of_machine()
    }

    /// Opens the vTPM, which the launcher extended and the kernel started, and makes the attestation key.
    fn settle(&mut self) -> Result<(), Fatal> {
        let device = Device::open(Path::new("/dev/tpm0")).or_fatal(Check::Tpm, "open /dev/tpm0")?;
        self.quoter = Some(TpmAttester::new(Tpm::new(device)).or_fatal(Check::Tpm, "make the vTPM's attestation key")?);
        Ok(())
    }

    fn measure(&mut self, workload_digest: [u8; 32]) -> Result<(), Fatal> {
        self.quoter()?.pcr_extend(guest_pcr::WORKLOAD, workload_digest).or_fatal(Check::Tpm, "extend the workload digest")
    }

    fn vouch(&mut self, binding: &Sha256Digest) -> Result<Vouched, Fatal> {
        let quote = quote_bundle(self.quoter()?, binding, &guest_pcr::QUOTED).or_fatal(Check::Tpm, "quote the vTPM")?;
        let pcrs = quote.pcrs.values().map(|pcr| pcr.0.to_vec()).collect();
        Ok(Vouched { attest: quote.attest, signature: quote.signature, ak_public: quote.ak_public, pcrs })
    }

    fn open_layers(&mut self, layers: &[Layer], slices: &[guest::Slice]) -> Result<(), Fatal> {
        layers::open_all(layers, slices)?;
        // The last one is done first.
        self.chores = vec![Chore::Group, Chore::Root(layers.len()), Chore::Scratch];
        Ok(())
    }

    fn next_chore(&mut self) -> Result<bool, Fatal> {
        match self.chores.pop() {
            None => return Ok(false),
            Some(Chore::Scratch) => storage::open_scratch()?,
            Some(Chore::Root(layers)) => layers::mount_root(layers)?,
            Some(Chore::Group) => cgroup::create().or_fatal(Check::WorkloadStart, "make the control group")?,
        }
        Ok(true)
    }

    fn image(&self) -> &'static Path {
        Path::new(layers::ROOT)
    }

    fn open_assets(
        &self,
        assets: &[Asset],
        slices: &[guest::Slice],
        keys: &KeyRelease,
        owner: &Identity,
    ) -> Result<Vec<Bind>, Fatal> {
        let opened = assets::open_all(assets, slices, keys, owner)?;
        Ok(opened.into_iter().map(|asset| Bind::ReadOnlyFile { source: asset.file, path: asset.path }).collect())
    }

    fn output(&self) -> PathBuf {
        Path::new(SCRATCH).join("output")
    }

    fn open_output(&self, path: &str, owner: &Identity) -> Result<Option<Bind>, Fatal> {
        let source = self.output();
        let made = fs::create_dir(&source).and_then(|()| owner.take_directory(&source));
        made.or_fatal(Check::WorkloadStart, "make the output directory")?;
        Ok(Some(Bind::WritableDir { source, path: path.to_owned() }))
    }

    fn connect(&self, network: &guest::Network) -> Result<Option<Bind>, Fatal> {
        let link = Link::read(network).or_fatal(Check::Network, "read the network's addresses")?;
        link.set_up().or_fatal(Check::Network, "set up the network card")?;
        let source = Path::new(SCRATCH).join("resolv.conf");
        fs::write(&source, link.resolver_file()).or_fatal(Check::Network, "write the resolver's file")?;
        Ok(Some(Bind::ReadOnlyFile { source, path: "/etc/resolv.conf".to_owned() }))
    }

    async fn start(&self, plan: &Plan) -> Result<(Process, Streams), Fatal> {
        Process::start(plan).await
    }

    fn observe(&self) -> Vec<guest::Observation> {
        observe::machine()
    }

    fn end(&self) -> ! {
        power::off()
    }
}
