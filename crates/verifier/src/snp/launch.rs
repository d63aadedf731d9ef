//! The launch measurement that a guest should have, computed from what it is started with.
//!
//! QEMU with OVMF and a directly booted kernel: the firmware's pages, then the pages that its SEV metadata names, among them
//! the one with the digests of kernel, initrd and command line, then a VMSA for each virtual processor. Everything that the
//! firmware file says about itself is bounded; a file is measured as a whole or refused.
//!
//! Source: AMD 56860, section 8.17.2 (PAGE_INFO); OVMF's `OvmfSevMetadata.asm` and `ResetVectorVtf0.asm`; QEMU's
//! `target/i386/sev.c` and `hw/i386/pc_sysfw_ovmf.c`.

mod firmware;
mod vmsa;

use sha2::{Digest as _, Sha256, Sha384};

pub use self::{firmware::FirmwareError, vmsa::CpuSignature};
use self::{
    firmware::{Firmware, PAGE_BYTES, SectionKind},
    vmsa::{BSP_EIP, vmsa_page},
};

/// Most virtual processors of one guest.
pub const MAX_VCPUS: u32 = 1024;

/// What a guest is started with.
#[derive(Debug, Clone)]
pub struct LaunchInputs<'a> {
    /// The OVMF file, which ends at 4 GiB in the guest's memory.
    pub firmware: &'a [u8],
    /// A directly booted kernel; `None`: the firmware boots something by itself, which the measurement does not cover.
    pub kernel: Option<KernelDigests>,
    /// Number of virtual processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Their model.
    pub cpu: CpuSignature,
    /// SEV_FEATURES of the VMSA; 1 is SNP alone.
    pub guest_features: u64,
}

/// SHA-256 digests of what is booted directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelDigests {
    /// Of the kernel image.
    pub kernel: [u8; 32],
    /// Of the initrd; of nothing if there is none.
    pub initrd: [u8; 32],
    /// Of the command line with the zero byte at its end.
    pub command_line: [u8; 32],
}

impl KernelDigests {
    /// The digests as QEMU takes them.
    pub fn of(kernel: &[u8], initrd: &[u8], command_line: &str) -> Self {
        Self {
            kernel: Sha256::digest(kernel).into(),
            initrd: Sha256::digest(initrd).into(),
            command_line: Sha256::new_with_prefix(command_line).chain_update([0]).finalize().into(),
        }
    }
}

/// Why there is no measurement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The firmware cannot be measured.
    #[error("read the firmware")]
    Firmware(#[from] FirmwareError),
    /// None, or too many.
    #[error("{vcpus} virtual processors; 1 to {MAX_VCPUS} can be measured")]
    Vcpus {
        /// Asked for.
        vcpus: u32,
    },
    /// A kernel is given and would not be measured.
    #[error("a kernel is given, but the firmware has no place for its digests")]
    NoKernelHashes,
}

/// MEASUREMENT of a guest that is started with `inputs`.
pub fn launch_measurement(inputs: &LaunchInputs<'_>) -> Result<[u8; 48], LaunchError> {
    if inputs.vcpus == 0 || inputs.vcpus > MAX_VCPUS {
        return Err(LaunchError::Vcpus { vcpus: inputs.vcpus });
    }
    let firmware = Firmware::parse(inputs.firmware)?;
    let hashes_page = inputs.kernel.as_ref().map(|digests| hashes_page(&firmware, digests)).transpose()?;
    let mut measured = LaunchDigest([0; 48]);
    measured.normal_pages(firmware.base(), inputs.firmware);
    for section in firmware.sections() {
        let pages = section.pages();
        match (section.kind, &hashes_page) {
            (SectionKind::KernelHashes, Some(page)) => measured.normal_pages(section.base.into(), page),
            (SectionKind::KernelHashes, None) | (SectionKind::Memory | SectionKind::SvsmCaa, _) => {
                pages.for_each(|page| measured.add(PageType::Zero, page, &[0; 48]));
            }
            (SectionKind::Secrets, _) => measured.add(PageType::Secrets, section.base.into(), &[0; 48]),
            (SectionKind::Cpuid, _) => measured.add(PageType::Cpuid, section.base.into(), &[0; 48]),
        }
    }
    let features = inputs.guest_features;
    let first = Sha384::digest(vmsa_page(BSP_EIP, inputs.cpu, features));
    let others = Sha384::digest(vmsa_page(firmware.reset_eip(), inputs.cpu, features));
    for vcpu in 0..inputs.vcpus {
        let contents = if vcpu == 0 { &first } else { &others };
        measured.add(PageType::Vmsa, VMSA_ADDRESS, &(*contents).into());
    }
    Ok(measured.0)
}

/// The page with QEMU's table of digests, at the offset that the firmware asks for.
fn hashes_page(firmware: &Firmware<'_>, digests: &KernelDigests) -> Result<Vec<u8>, LaunchError> {
    let section = firmware.sections().iter().find(|section| section.kind == SectionKind::KernelHashes);
    let (Some(section), Some(table)) = (section, firmware.hashes_table()) else {
        return Err(LaunchError::NoKernelHashes);
    };
    let entry = |guid: &[u8; 16], digest: &[u8; 32]| [&guid[..], &HASH_ENTRY_BYTES.to_le_bytes(), digest].concat();
    let entries = [
        entry(&COMMAND_LINE_GUID, &digests.command_line),
        entry(&INITRD_GUID, &digests.initrd),
        entry(&KERNEL_GUID, &digests.kernel),
    ];
    let table_bytes = [&HASH_TABLE_GUID[..], &HASH_TABLE_BYTES.to_le_bytes(), &entries.concat()].concat();
    let offset = usize::try_from(table).expect("32 bits") % PAGE_BYTES;
    // QEMU places it at the table's address; the firmware reads it there.
    let in_section = section.base <= table && u64::from(table) < u64::from(section.base) + PAGE_BYTES as u64;
    if section.size as usize != PAGE_BYTES || !in_section || offset + HASH_AREA_BYTES > PAGE_BYTES {
        return Err(LaunchError::NoKernelHashes);
    }
    let mut page = vec![0; PAGE_BYTES];
    page[offset..offset + table_bytes.len()].copy_from_slice(&table_bytes);
    Ok(page)
}

/// The launch digest, which each page extends.
struct LaunchDigest([u8; 48]);

#[derive(Debug, Clone, Copy)]
enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Secrets = 5,
    Cpuid = 6,
}

impl LaunchDigest {
    fn normal_pages(&mut self, base: u64, bytes: &[u8]) {
        for (address, page) in (base..).step_by(PAGE_BYTES).zip(bytes.chunks_exact(PAGE_BYTES)) {
            self.add(PageType::Normal, address, &Sha384::digest(page).into());
        }
    }

    /// SHA-384 of PAGE_INFO: the digest so far, that of the page's contents, and what kind of page is where.
    fn add(&mut self, kind: PageType, address: u64, contents: &[u8; 48]) {
        let mut info = [0; PAGE_INFO_BYTES as usize];
        info[..48].copy_from_slice(&self.0);
        info[48..96].copy_from_slice(contents);
        info[96..98].copy_from_slice(&PAGE_INFO_BYTES.to_le_bytes());
        info[98] = kind as u8;
        // IMI_PAGE and the permissions of VMPL 3 to 1 stay zero.
        info[104..].copy_from_slice(&address.to_le_bytes());
        self.0 = Sha384::digest(info).into();
    }
}

const PAGE_INFO_BYTES: u16 = 112;
/// A VMSA is at address -1, of which firmware keeps the bits 51 to 12.
const VMSA_ADDRESS: u64 = 0xffff_ffff_f000;
const HASH_ENTRY_BYTES: u16 = 16 + 2 + 32;
const HASH_TABLE_BYTES: u16 = 16 + 2 + 3 * HASH_ENTRY_BYTES;
/// QEMU fills the table up to a multiple of 16.
const HASH_AREA_BYTES: usize = (HASH_TABLE_BYTES as usize).next_multiple_of(16);
/// 9438d606-4f22-4cc9-b479-a793d411fd21.
const HASH_TABLE_GUID: [u8; 16] = firmware::guid(0x9438_d606, 0x4f22, 0x4cc9, 0xb479_a793_d411_fd21);
/// 4de79437-abd2-427f-b835-d5b172d2045b.
const KERNEL_GUID: [u8; 16] = firmware::guid(0x4de7_9437, 0xabd2, 0x427f, 0xb835_d5b1_72d2_045b);
/// 44baf731-3a2f-4bd7-9af1-41e29169781d.
const INITRD_GUID: [u8; 16] = firmware::guid(0x44ba_f731, 0x3a2f, 0x4bd7, 0x9af1_41e2_9169_781d);
/// 97d02dd8-bd20-4c94-aa78-e7714d36ab2a.
const COMMAND_LINE_GUID: [u8; 16] = firmware::guid(0x97d0_2dd8, 0xbd20, 0x4c94, 0xaa78_e771_4d36_ab2a);

#[cfg(test)]
mod tests;
