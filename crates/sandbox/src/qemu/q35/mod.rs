//! QEMU's q35 machine: firmware that measures, and confidential guests. Pure command lines.
//!
//! **Not run on hardware yet**: there was none with SEV-SNP or TDX. What is tested here is each argument, and that an installed QEMU
//! takes those which it can. Whether it knows the objects at all is asked before anything is planned ([`probe`]).
//!
//! The kernel is booted directly in both kinds. Under SEV-SNP, `kernel-hashes` puts the digests of kernel, initrd and command line
//! into a page that the launch measurement covers; under TDX the firmware measures them into its registers. What the guest is *for*
//! goes in as HOST_DATA or MRCONFIGID, both the workload digest.

pub mod probe;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::command::{Args, inside};
use crate::{Plan, capabilities::SCRATCH};

/// What a q35 machine is beside its plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Q35 {
    /// What protects its memory.
    pub protection: Protection,
}

/// What protects a machine's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// The jail alone.
    None,
    /// AMD SEV-SNP.
    SevSnp(SevSnp),
    /// Intel TDX.
    Tdx(Tdx),
}

/// An SNP guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SevSnp {
    /// HOST_DATA: the workload digest.
    pub host_data: [u8; 32],
    /// The model; its signature is in the launch measurement.
    pub cpu: SnpCpu,
    /// Whether its threads may share a core with others.
    pub smt: Smt,
    /// Position of the encryption bit in page tables, from CPUID Fn8000_001F.
    pub c_bit: u8,
    /// Bits of physical addresses that encryption takes, from the same.
    pub reduced_address_bits: u8,
}

/// Models of which the verifier knows the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnpCpu {
    /// Third generation.
    Milan,
    /// Fourth.
    Genoa,
    /// Fifth.
    Turin,
}

/// Simultaneous multithreading on the host, as the guest's policy has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smt {
    /// It may be on.
    Allowed,
    /// The firmware refuses to launch where it is on.
    Forbidden,
}

/// A TDX guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tdx {
    /// MRCONFIGID: the workload digest and 16 zero bytes.
    pub config_id: [u8; 48],
}

impl Tdx {
    /// For a workload.
    pub fn for_workload(digest: [u8; 32]) -> Self {
        let mut config_id = [0; 48];
        config_id[..32].copy_from_slice(&digest);
        Self { config_id }
    }
}

impl SevSnp {
    /// The guest policy: no debugging, no migration agent; bit 17 is always one.
    pub fn policy(&self) -> u64 {
        let smt = match self.smt {
            Smt::Allowed => 1 << 16,
            Smt::Forbidden => 0,
        };
        1 << 17 | smt
    }
}

/// Arguments of a machine on KVM that waits, after its start, to be told to run. Descriptors are those of the other machine, but for
/// the vTPM's, which only an unprotected machine has: a confidential guest must not trust a TPM of its host.
pub fn arguments(plan: &Plan, q35: &Q35) -> Vec<String> {
    let mut args = Args::default();
    args.flags(&["-nodefaults", "-no-user-config", "-no-reboot", "-S"]);
    args.option("-display", "none");
    args.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    let machine = "q35,smm=off,vmport=off,i8042=off,usb=off,graphics=off,memory-backend=ram,dump-guest-core=off,mem-merge=off";
    args.option("-accel", "kvm");
    match &q35.protection {
        Protection::None => args.option("-M", machine).option("-cpu", "host"),
        Protection::SevSnp(snp) => {
            args.option("-M", format!("{machine},confidential-guest-support=guest")).option("-cpu", model(snp.cpu))
        }
        Protection::Tdx(_) => {
            args.option("-M", format!("{machine},kernel-irqchip=split,confidential-guest-support=guest")).option("-cpu", "host")
        }
    };
    args.option("-smp", plan.cpus);
    args.option("-m", format!("{}M", plan.memory_mib));
    memory(&mut args, plan, &q35.protection);
    match &q35.protection {
        Protection::None => {}
        Protection::SevSnp(snp) => drop(args.option("-object", snp_object(snp))),
        Protection::Tdx(tdx) => drop(args.option("-object", tdx_object(tdx))),
    }
    args.option("-bios", FIRMWARE);
    args.option("-rtc", "base=utc");
    super::command::control_channels(&mut args);
    args.option("-device", "virtio-serial-pci,disable-legacy=on,iommu_platform=on");
    args.option("-device", "virtserialport,chardev=guest,name=casemate.guest");
    if q35.protection == Protection::None {
        super::command::vtpm_device(&mut args);
    }
    let serials = plan.disks.iter().map(|disk| disk.serial.as_str()).chain([SCRATCH]);
    for (number, serial) in super::command::disk_backends(&mut args, serials) {
        args.option("-device", format!("virtio-blk-pci,drive=d{number},serial={serial},disable-legacy=on,iommu_platform=on"));
    }
    args.option("-kernel", inside::KERNEL).option("-initrd", inside::INITRD);
    args.option("-append", plan.machine().map_or("", |machine| &machine.command_line));
    args.0
}

/// A protected machine's memory is the process's and the hardware's; only an unprotected one has a file of ours.
fn memory(args: &mut Args, plan: &Plan, protection: &Protection) {
    let size = plan.memory_mib;
    let backend = match protection {
        Protection::None => format!("memory-backend-file,id=ram,size={size}M,mem-path={},share=on,prealloc=off", inside::RAM),
        Protection::SevSnp(_) | Protection::Tdx(_) => format!("memory-backend-memfd,id=ram,size={size}M,share=on,prealloc=off"),
    };
    args.option("-object", backend);
}

fn snp_object(snp: &SevSnp) -> String {
    format!(
        "sev-snp-guest,id=guest,cbitpos={},reduced-phys-bits={},policy={:#x},kernel-hashes=on,host-data={}",
        snp.c_bit,
        snp.reduced_address_bits,
        snp.policy(),
        BASE64.encode(snp.host_data),
    )
}

fn tdx_object(tdx: &Tdx) -> String {
    format!("tdx-guest,id=guest,mrconfigid={}", BASE64.encode(tdx.config_id))
}

fn model(cpu: SnpCpu) -> &'static str {
    match cpu {
        SnpCpu::Milan => "EPYC-Milan",
        SnpCpu::Genoa => "EPYC-Genoa",
        SnpCpu::Turin => "EPYC-Turin",
    }
}

/// The firmware, in the jail.
const FIRMWARE: &str = "/vm/firmware";

#[cfg(test)]
mod tests;
