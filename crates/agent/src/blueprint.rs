//! From workload and files to the driver's plan, the launch message and the launch record. Pure.

use std::path::PathBuf;

use casemate_api::{
    guest::{Launch, Slice, ToGuest, to_guest},
    workload::{self, Workload},
};
use casemate_evidence::instance::{self as evidence, LaunchRecord};
use casemate_image::{ConvertedLayer, Pack};
use casemate_lifecycle::InstanceId;
use casemate_sandbox::{Capabilities, Demand, Disk, JailReport, MachineSystem, Plan, System};
use prost::Message as _;

use crate::guest_os::GuestOs;

/// Where the image's layers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layers {
    /// A disk each.
    Single(Vec<ConvertedLayer>),
    /// One disk for all.
    Packed(Pack),
}

/// An asset's ciphertext on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AssetFile {
    pub(crate) path: PathBuf,
    /// Without the padding.
    pub(crate) size_bytes: u64,
}

/// Measured digests of the files that boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) kernel: [u8; 32],
    pub(crate) initrd: [u8; 32],
    /// As named on the command line, which the guest's kernel holds the root image against.
    pub(crate) root_hash: [u8; 32],
}

/// A machine, decided in full.
#[derive(Debug, Clone)]
pub(crate) struct Blueprint {
    pub(crate) plan: Plan,
    pub(crate) measured: Measured,
    /// Encoded; see [`crate::journal::Launched::message`].
    pub(crate) message: Vec<u8>,
}

impl Blueprint {
    /// Of the kernel; empty where there is none.
    pub(crate) fn command_line(&self) -> &str {
        self.plan.machine().map_or("", |machine| &machine.command_line)
    }
}

/// The level in the driver's words.
pub(crate) fn isolation(level: workload::Isolation) -> casemate_sandbox::Isolation {
    match level {
        workload::Isolation::Container => casemate_sandbox::Isolation::Container,
        workload::Isolation::Sandbox => casemate_sandbox::Isolation::Sandbox,
        workload::Isolation::Microvm => casemate_sandbox::Isolation::Microvm,
        workload::Isolation::Confidential => casemate_sandbox::Isolation::Confidential,
    }
}

/// Whether root, these layers and assets fit the machine's disks only when the layers share one.
pub(crate) fn needs_pack(layers: usize, assets: usize, capabilities: &Capabilities) -> bool {
    1 + layers + assets > capabilities.max_disks
}

/// Everything that [`draw`] needs.
pub(crate) struct Parts<'a> {
    pub(crate) id: &'a InstanceId,
    pub(crate) workload: &'a Workload,
    /// The canonical bytes as signed.
    pub(crate) workload_text: &'a str,
    pub(crate) guest_os: &'a GuestOs,
    pub(crate) command_line: String,
    pub(crate) measured: Measured,
    pub(crate) layers: &'a Layers,
    pub(crate) assets: &'a [AssetFile],
    pub(crate) entropy: [u8; 32],
}

/// Decides the machine.
pub(crate) fn draw(parts: Parts<'_>) -> Blueprint {
    let mut disks = vec![Disk { serial: "root".into(), path: parts.guest_os.root.clone() }];
    let layers = place_layers(parts.layers, &mut disks);
    let assets = place_assets(parts.assets, &mut disks);
    let launch = Launch {
        instance: parts.id.to_string(),
        workload: parts.workload_text.as_bytes().to_vec(),
        layers,
        assets,
        entropy: parts.entropy.to_vec(),
    };
    let resources = &parts.workload.resources;
    let plan = Plan {
        id: parts.id.clone(),
        isolation: isolation(parts.workload.isolation),
        demands: vec![Demand::Vtpm],
        system: System::Machine(MachineSystem {
            kernel: parts.guest_os.kernel.clone(),
            initrd: parts.guest_os.initrd.clone(),
            command_line: parts.command_line,
        }),
        disks,
        cpus: resources.cpus,
        memory_mib: resources.memory_mib,
        scratch_mib: resources.scratch_mib,
    };
    let message = ToGuest { message: Some(to_guest::Message::Launch(launch)) }.encode_to_vec();
    Blueprint { plan, measured: parts.measured, message }
}

fn place_layers(layers: &Layers, disks: &mut Vec<Disk>) -> Vec<Slice> {
    match layers {
        Layers::Single(layers) => {
            let place = |(i, layer): (usize, &ConvertedLayer)| {
                let serial = format!("layer{i}");
                disks.push(Disk { serial: serial.clone(), path: layer.path.clone() });
                Slice { serial, offset_bytes: 0, length_bytes: layer.size_bytes }
            };
            layers.iter().enumerate().map(place).collect()
        }
        Layers::Packed(pack) => {
            let serial = "pack0".to_owned();
            disks.push(Disk { serial: serial.clone(), path: pack.path.clone() });
            let slice = |&(offset_bytes, length_bytes)| Slice { serial: serial.clone(), offset_bytes, length_bytes };
            pack.slices.iter().map(slice).collect()
        }
    }
}

fn place_assets(assets: &[AssetFile], disks: &mut Vec<Disk>) -> Vec<Slice> {
    let place = |(i, asset): (usize, &AssetFile)| {
        let serial = format!("asset{i}");
        disks.push(Disk { serial: serial.clone(), path: asset.path.clone() });
        Slice { serial, offset_bytes: 0, length_bytes: asset.size_bytes }
    };
    assets.iter().enumerate().map(place).collect()
}

/// The record of what was launched, as measured and observed.
pub(crate) fn launch_record(
    blueprint: &Blueprint,
    workload_digest: [u8; 32],
    capabilities: &Capabilities,
    jail: &JailReport,
    vtpm_ak_public: Vec<u8>,
) -> LaunchRecord {
    let plan = &blueprint.plan;
    LaunchRecord {
        version: 1,
        instance: plan.id.to_string(),
        workload_digest,
        kernel: blueprint.measured.kernel,
        initrd: blueprint.measured.initrd,
        command_line: blueprint.command_line().to_owned(),
        root_hash: blueprint.measured.root_hash,
        vmm: evidence::Vmm { name: capabilities.name.into(), version: capabilities.version.clone(), digest: capabilities.digest },
        machine: evidence::Machine {
            kind: capabilities.machine.into(),
            accel: capabilities.accel.into(),
            cpus: plan.cpus,
            memory_mib: plan.memory_mib,
        },
        jail: evidence::Jail {
            uid: jail.uid,
            no_new_privs: jail.no_new_privs,
            seccomp: jail.seccomp,
            capabilities: jail.capabilities,
            namespaces: jail.namespaces.clone(),
            cgroup: jail.cgroup,
        },
        vtpm_ak_public,
    }
}

#[cfg(test)]
mod tests {
    use casemate_sandbox::{Features, GuestChannel, SystemKind};

    use super::*;

    #[test]
    fn packs_layers_only_when_disks_run_out() {
        let capabilities = Capabilities {
            name: "fake",
            version: String::new(),
            digest: [0; 32],
            machine: "microvm",
            accel: "tcg",
            accel_reason: String::new(),
            max_disks: 8,
            max_cpus: 1,
            tsc_khz: None,
            isolation: casemate_sandbox::Isolation::Microvm,
            system: SystemKind::Machine,
            channel: GuestChannel::Memory,
            memory_mib: 1..=1,
            scratch_mib: 1..=1,
            features: Features::none("not in a test"),
        };
        assert!(!needs_pack(5, 2, &capabilities));
        assert!(needs_pack(6, 2, &capabilities));
    }

    #[test]
    fn slices_follow_the_disks() {
        let layer = |n: u8| ConvertedLayer {
            path: format!("/l{n}").into(),
            root_hash: [n; 32],
            data_blocks: 1,
            size_bytes: 4096 * u64::from(n),
        };
        let mut disks = vec![];
        let slices = place_layers(&Layers::Single(vec![layer(1), layer(2)]), &mut disks);
        assert_eq!(slices[1], Slice { serial: "layer1".into(), offset_bytes: 0, length_bytes: 8192 });
        let asset = AssetFile { path: "/a".into(), size_bytes: 10 };
        assert_eq!(place_assets(&[asset], &mut disks)[0].length_bytes, 10);
        let serials: Vec<_> = disks.iter().map(|disk| disk.serial.as_str()).collect();
        assert_eq!(serials, ["layer0", "layer1", "asset0"]);

        let pack = Pack { path: "/p".into(), slices: vec![(0, 4096), (4096, 8192)] };
        let mut disks = vec![];
        let slices = place_layers(&Layers::Packed(pack), &mut disks);
        assert_eq!((disks.len(), slices[1].offset_bytes, slices[1].serial.as_str()), (1, 4096, "pack0"));
    }
}
