//! The state in which a virtual processor starts, as QEMU and KVM set it (AMD64 Architecture Programmer's Manual, volume 2,
//! table B-4: offsets in the save area).

use super::firmware::PAGE_BYTES;

/// Where the first processor starts.
pub(super) const BSP_EIP: u32 = 0xffff_fff0;

/// CPUID Fn0000_0001_EAX of the virtual processors, which they find in RDX at reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuSignature(pub u32);

impl CpuSignature {
    /// QEMU's `EPYC` of the first generation.
    pub const EPYC: Self = Self::of(23, 1, 2);
    /// QEMU's `EPYC-Milan`.
    pub const EPYC_MILAN: Self = Self::of(25, 1, 1);
    /// QEMU's `EPYC-Genoa`.
    pub const EPYC_GENOA: Self = Self::of(25, 17, 0);
    /// QEMU's `EPYC-Turin`.
    pub const EPYC_TURIN: Self = Self::of(26, 0, 0);

    /// The signature of a model (AMD 25481, CPUID Fn0000_0001_EAX).
    pub const fn of(family: u8, model: u8, stepping: u8) -> Self {
        let (low, high) = if family > 0xf { (0xf, family - 0xf) } else { (family, 0) };
        let [low, high, model, stepping] = [low as u32, high as u32, model as u32, stepping as u32];
        Self(high << 20 | (model >> 4) << 16 | low << 8 | (model & 0xf) << 4 | stepping & 0xf)
    }
}

/// The VMSA of a processor that starts at `eip`.
pub(super) fn vmsa_page(eip: u32, cpu: CpuSignature, features: u64) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    let mut put = |offset: usize, field: &[u8]| page[offset..offset + field.len()].copy_from_slice(field);
    let segment = |selector: u16, attributes: u16, limit: u32, base: u64| {
        let (selector, attributes) = (selector.to_le_bytes(), attributes.to_le_bytes());
        [&selector[..], &attributes, &limit.to_le_bytes(), &base.to_le_bytes()].concat()
    };
    let data = segment(0, 0x93, 0xffff, 0);
    let code = segment(0xf000, 0x9b, 0xffff, (eip & 0xffff_0000).into());
    put(ES, &data);
    put(CS, &code);
    for at in [SS, DS, FS, GS] {
        put(at, &data);
    }
    put(GDTR, &segment(0, 0, 0xffff, 0));
    put(LDTR, &segment(0, 0x82, 0xffff, 0));
    put(IDTR, &segment(0, 0, 0xffff, 0));
    put(TR, &segment(0, 0x8b, 0xffff, 0));
    let registers: [(usize, u64); 11] = [
        (EFER, 0x1000),
        (CR4, 0x40),
        (CR0, 0x10),
        (DR7, 0x400),
        (DR6, 0xffff_0ff0),
        (RFLAGS, 0x2),
        (RIP, (eip & 0xffff).into()),
        (G_PAT, 0x0007_0406_0007_0406),
        (RDX, cpu.0.into()),
        (SEV_FEATURES, features),
        (XCR0, 0x1),
    ];
    for (at, value) in registers {
        put(at, &value.to_le_bytes());
    }
    put(MXCSR, &0x1f80_u32.to_le_bytes());
    put(X87_FCW, &0x37f_u16.to_le_bytes());
    page
}

const ES: usize = 0x00;
const CS: usize = 0x10;
const SS: usize = 0x20;
const DS: usize = 0x30;
const FS: usize = 0x40;
const GS: usize = 0x50;
const GDTR: usize = 0x60;
const LDTR: usize = 0x70;
const IDTR: usize = 0x80;
const TR: usize = 0x90;
const EFER: usize = 0xd0;
const CR4: usize = 0x148;
const CR0: usize = 0x158;
const DR7: usize = 0x160;
const DR6: usize = 0x168;
const RFLAGS: usize = 0x170;
const RIP: usize = 0x178;
const G_PAT: usize = 0x268;
const RDX: usize = 0x310;
const SEV_FEATURES: usize = 0x3b0;
const XCR0: usize = 0x3e8;
const MXCSR: usize = 0x408;
const X87_FCW: usize = 0x410;
