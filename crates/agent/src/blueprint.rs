//! From workload and files to the driver's plan, the launch message and the launch record. Pure.

use std::path::PathBuf;

use casemate_api::{
    guest::{Launch, Network, Slice, ToGuest, to_guest},
    workload::{self, Workload},
};
use casemate_evidence::{
    container::{ContainerLaunch, ContainerLevel, LayerRoot},
    instance::{self as evidence, LaunchRecord, Record as _},
};
use casemate_image::{ConvertedLayer, Pack};
use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    Capabilities, ContainerSystem, Demand, Disk, JailReport, LayerFile, MachineSystem, Placement, Plan, Shared, SharedKind,
    System, SystemKind,
};
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

/// Measured digests of what an instance is made of; which of the two is decided by who runs it, and by nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Measured {
    Machine(MachineMeasured),
    Container(ContainerMeasured),
}

/// Of the files that boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MachineMeasured {
    pub(crate) kernel: [u8; 32],
    pub(crate) initrd: [u8; 32],
    /// As named on the command line, which the guest's kernel holds the root image against.
    pub(crate) root_hash: [u8; 32],
}

/// Of what is process 1, and of the image around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ContainerMeasured {
    level: ContainerLevel,
    guest_program: [u8; 32],
    /// As the conversion gave them, lowest first.
    layers: Vec<[u8; 32]>,
}

/// What of this node's files an instance begins as.
#[derive(Debug, Clone)]
pub(crate) enum SystemFiles {
    Machine(MachineFiles),
    Container { program: PathBuf, measured: [u8; 32] },
}

/// What boots.
#[derive(Debug, Clone)]
pub(crate) struct MachineFiles {
    pub(crate) guest_os: GuestOs,
    pub(crate) command_line: String,
    pub(crate) measured: MachineMeasured,
}

/// An instance, decided in full.
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
    // A container's layers are mounted by name, however many they are.
    capabilities.system == SystemKind::Machine && 1 + layers + assets > capabilities.max_disks
}

/// Everything that [`draw`] needs.
pub(crate) struct Parts<'a> {
    pub(crate) id: &'a InstanceId,
    pub(crate) workload: &'a Workload,
    /// The canonical bytes as signed.
    pub(crate) workload_text: &'a str,
    /// Where it was placed.
    pub(crate) level: workload::Isolation,
    pub(crate) layers: &'a Layers,
    pub(crate) assets: &'a [AssetFile],
    pub(crate) entropy: [u8; 32],
    /// What the guest is told of its link, where it has one.
    pub(crate) network: Option<Network>,
    /// Where machines lie on this host.
    pub(crate) placement: &'a [Placement],
}

/// Decides the instance.
pub(crate) fn draw(parts: Parts<'_>, files: SystemFiles) -> Result<Blueprint, String> {
    let mut disks = Vec::new();
    let (layers, system, mut demands, measured) = match files {
        SystemFiles::Machine(MachineFiles { guest_os, command_line, measured }) => {
            disks.push(Disk { serial: "root".into(), path: guest_os.root });
            let machine = MachineSystem { kernel: guest_os.kernel, initrd: guest_os.initrd, command_line };
            let layers = place_layers(parts.layers, &mut disks);
            let demands = std::iter::once(Demand::Vtpm).chain(parts.placement.iter().copied().map(Demand::Placement));
            (layers, System::Machine(machine), demands.collect(), Measured::Machine(measured))
        }
        SystemFiles::Container { program, measured } => {
            let (system, measured) = container(&parts, program, measured)?;
            (Vec::new(), System::Container(system), Vec::new(), Measured::Container(measured))
        }
    };
    demands.extend(parts.network.as_ref().map(|_| Demand::Network));
    let assets = place_assets(parts.assets, &mut disks);
    let launch = Launch {
        instance: parts.id.to_string(),
        workload: parts.workload_text.as_bytes().to_vec(),
        layers,
        assets,
        entropy: parts.entropy.to_vec(),
        network: parts.network,
    };
    let resources = &parts.workload.resources;
    let plan = Plan {
        id: parts.id.clone(),
        isolation: isolation(parts.level),
        demands,
        system,
        disks,
        cpus: resources.cpus,
        memory_mib: resources.memory_mib,
        scratch_mib: resources.scratch_mib,
    };
    let message = ToGuest { message: Some(to_guest::Message::Launch(launch)) }.encode_to_vec();
    Ok(Blueprint { plan, measured, message })
}

fn container(parts: &Parts<'_>, init: PathBuf, guest_program: [u8; 32]) -> Result<(ContainerSystem, ContainerMeasured), String> {
    let level = match parts.level {
        workload::Isolation::Container => ContainerLevel::Container,
        workload::Isolation::Sandbox => ContainerLevel::Sandbox,
        level @ (workload::Isolation::Microvm | workload::Isolation::Confidential) => {
            return Err(format!("a container does not have level {}", level.as_str()));
        }
    };
    let Layers::Single(layers) = parts.layers else {
        return Err("the layers of a container are files of their own".to_owned());
    };
    // The names are those that process 1 looks for.
    let assets = parts.workload.assets.iter().enumerate().map(|(i, asset)| Shared {
        name: format!("asset{i}"),
        path: asset.path.clone(),
        kind: SharedKind::ReadOnlyFile,
    });
    let path = parts.workload.output_path.clone();
    let output = (!path.is_empty()).then(|| Shared { name: "output".to_owned(), path, kind: SharedKind::WritableDir });
    let system = ContainerSystem {
        init,
        args: vec!["--level".to_owned(), level.as_str().to_owned()],
        layers: layers.iter().map(|layer| LayerFile { path: layer.path.clone() }).collect(),
        shared: assets.chain(output).collect(),
    };
    let measured = ContainerMeasured { level, guest_program, layers: layers.iter().map(|layer| layer.root_hash).collect() };
    Ok((system, measured))
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

/// The record of what was launched, as measured and observed; encoded. A container's and a machine's have nothing in common but the node.
pub(crate) fn launch_record(
    blueprint: &Blueprint,
    workload_digest: [u8; 32],
    capabilities: &Capabilities,
    jail: &JailReport,
    vtpm_ak_public: Vec<u8>,
    monitor: Option<evidence::Monitor>,
) -> Vec<u8> {
    let plan = &blueprint.plan;
    let program =
        evidence::Vmm { name: capabilities.name.into(), version: capabilities.version.clone(), digest: capabilities.digest };
    let jail = evidence::Jail {
        uid: jail.uid,
        no_new_privs: jail.no_new_privs,
        seccomp: jail.seccomp,
        capabilities: jail.capabilities,
        namespaces: jail.namespaces.clone(),
        cgroup: jail.cgroup,
    };
    match &blueprint.measured {
        Measured::Machine(measured) => LaunchRecord {
            version: 1,
            instance: plan.id.to_string(),
            workload_digest,
            kernel: measured.kernel,
            initrd: measured.initrd,
            command_line: blueprint.command_line().to_owned(),
            root_hash: measured.root_hash,
            vmm: program,
            machine: evidence::Machine {
                kind: capabilities.machine.into(),
                accel: capabilities.accel.into(),
                cpus: plan.cpus,
                memory_mib: plan.memory_mib,
            },
            jail,
            vtpm_ak_public,
            monitor,
        }
        .encode(),
        Measured::Container(measured) => ContainerLaunch {
            version: 1,
            instance: plan.id.to_string(),
            workload_digest,
            level: measured.level,
            guest_program: measured.guest_program,
            layers: measured.layers.iter().copied().map(LayerRoot).collect(),
            runtime: program,
            cpus: plan.cpus,
            memory_mib: plan.memory_mib,
            jail,
            monitor,
        }
        .encode(),
    }
}

#[cfg(test)]
mod tests {
    use casemate_sandbox::{Features, GuestChannel, Topology};

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
            topology: Topology::default(),
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
    fn machines_lie_where_the_configuration_says_and_containers_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        crate::instances::tests::guest_os(dir.path());
        let guest_os = GuestOs::load(&dir.path().join("guest-os")).unwrap();
        let measured = MachineMeasured { kernel: [1; 32], initrd: [2; 32], root_hash: [3; 32] };
        let machine = SystemFiles::Machine(MachineFiles { guest_os, command_line: String::new(), measured });
        let container = SystemFiles::Container { program: "/guest".into(), measured: [4; 32] };
        let wishes = [Placement::HugePages, Placement::Node(1)];
        let layer = ConvertedLayer { path: "/l".into(), root_hash: [3; 32], data_blocks: 9, size_bytes: 40_960 };
        let drawn = |level, files| {
            let parts = Parts {
                id: &"i-1".parse().unwrap(),
                workload: &crate::assignment::tests::workload(),
                workload_text: "",
                level,
                layers: &Layers::Single(vec![layer.clone()]),
                assets: &[],
                entropy: [0; 32],
                network: None,
                placement: &wishes,
            };
            draw(parts, files).unwrap().plan.placements().collect::<Vec<_>>()
        };
        assert_eq!(drawn(workload::Isolation::Microvm, machine), wishes);
        assert_eq!(drawn(workload::Isolation::Container, container), []);
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
