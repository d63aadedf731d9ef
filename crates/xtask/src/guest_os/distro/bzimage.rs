//! `vmlinux` out of a bzImage: the micro VM enters it by PVH and has no use for the decompressor around it.
//!
//! The boot protocol of x86 (Documentation/arch/x86/boot.rst of the kernel) says where the packed kernel lies:
//!
//! ```text
//! 0x1f1 setup_sects | 0x1fe 0xaa55 | 0x202 "HdrS" | 0x206 version | 0x248 payload_offset | 0x24c payload_length
//! (setup_sects + 1) * 512 + payload_offset: the payload, whose last four bytes are the length of what it holds
//! ```

use anyhow::{Context as _, Result, bail};

use super::decompress::decompress;
use crate::elf;

/// Version of the protocol that has the payload's place.
const PROTOCOL: u16 = 0x0208;
const SECTOR: usize = 512;
/// The value of `setup_sects` for which 0 stands.
const OLD_SETUP_SECTORS: usize = 4;
/// More than any distribution's kernel.
const MAX_VMLINUX: usize = 256 << 20;
/// XEN_ELFNOTE_PHYS32_ENTRY: the PVH entry.
const PVH_NOTE: (&str, u32) = ("Xen", 18);

/// The kernel in `image`, proved to have a PVH entry.
pub(crate) fn vmlinux(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image)?;
    let (packed, length) = payload.split_last_chunk::<4>().context("the payload is empty")?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > MAX_VMLINUX {
        bail!("the kernel says that it has {length} bytes, and {MAX_VMLINUX} are the limit");
    }
    // A gzip file ends with that length by itself.
    let packed = if payload.starts_with(&[0x1f, 0x8b]) { payload } else { packed };
    let kernel = decompress(packed, length)?;
    if kernel.len() != length {
        bail!("the kernel has {} bytes, and its payload says {length}", kernel.len());
    }
    if !elf::has_note(&kernel, PVH_NOTE.0, PVH_NOTE.1).context("reading the kernel as ELF")? {
        bail!("the kernel has no PVH entry (it was built without CONFIG_PVH)");
    }
    Ok(kernel)
}

fn payload(image: &[u8]) -> Result<&[u8]> {
    let field = |at: usize, length: usize| image.get(at..at + length).context("the boot header is truncated");
    if field(0x1fe, 2)? != [0x55, 0xaa] || field(0x202, 4)? != b"HdrS" {
        bail!("not a bzImage: it has no boot header");
    }
    let version = field(0x206, 2)?;
    let version = u16::from_le_bytes([version[0], version[1]]);
    if version < PROTOCOL {
        bail!("its boot protocol {version:#06x} does not say where the payload lies ({PROTOCOL:#06x} does)");
    }
    let word = |at: usize| Ok::<_, anyhow::Error>(u32::from_le_bytes(field(at, 4)?.try_into().expect("four bytes")) as usize);
    let sectors = match field(0x1f1, 1)?[0] {
        0 => OLD_SETUP_SECTORS,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * SECTOR + word(0x248)?;
    image.get(start..start + word(0x24c)?).context("the payload lies behind the end of the image")
}

#[cfg(test)]
mod tests {
    use super::{super::decompress::tests::packed_lz4, *};
    use crate::elf::tests::with_note;

    /// A bzImage with `sectors` in its header and this payload, 16 bytes into the kernel's part.
    fn image(sectors: u8, payload: &[u8]) -> Vec<u8> {
        let start = (if sectors == 0 { 5 } else { usize::from(sectors) + 1 }) * SECTOR;
        let mut image = vec![0; start + 16];
        image[0x1f1] = sectors;
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x020f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        [&image[..], payload, b"a signature"].concat()
    }

    fn packed(kernel: &[u8]) -> Vec<u8> {
        [packed_lz4(kernel, 4096), (kernel.len() as u32).to_le_bytes().to_vec()].concat()
    }

    fn said(image: &[u8]) -> String {
        format!("{:#}", vmlinux(image).unwrap_err())
    }

    #[test]
    fn takes_the_kernel_out_of_its_image() {
        let kernel = with_note("Xen", 18);
        for sectors in [0, 1, 39] {
            assert_eq!(vmlinux(&image(sectors, &packed(&kernel))).unwrap(), kernel);
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &kernel).unwrap();
        assert_eq!(vmlinux(&image(7, &gzip.finish().unwrap())).unwrap(), kernel);
    }

    #[test]
    fn refuses_a_kernel_without_pvh_entry() {
        assert!(said(&image(1, &packed(&with_note("Xen", 17)))).contains("no PVH entry"));
        assert!(said(&image(1, &packed(&with_note("Xfn", 18)))).contains("no PVH entry"));
        assert!(said(&image(1, &packed(b"#!/bin/sh"))).contains("reading the kernel as ELF"));
    }

    #[test]
    fn refuses_a_header_without_payload() {
        let good = image(1, &packed(&with_note("Xen", 18)));
        let with = |at: usize, bytes: &[u8]| {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            said(&bad)
        };
        assert!(with(0x1fe, &[0]).contains("not a bzImage"));
        assert!(with(0x202, b"Hdr_").contains("not a bzImage"));
        assert!(with(0x206, &[0x07, 0x02]).contains("0x0207"));
        assert!(with(0x24c, &[0xff; 4]).contains("behind the end"));
        assert!(with(0x24c, &[0; 4]).contains("payload is empty"));
        assert!(said(&good[..0x240]).contains("truncated"));
    }

    #[test]
    fn refuses_a_payload_of_another_length_than_it_says() {
        let kernel = with_note("Xen", 18);
        let claim = |length: u32| image(1, &[packed_lz4(&kernel, 4096), length.to_le_bytes().to_vec()].concat());
        let length = kernel.len() as u32;
        assert!(said(&claim(length + 1)).contains("its payload says"));
        assert!(said(&claim(length - 1)).contains("more than"));
        assert!(said(&claim(u32::MAX)).contains("are the limit"));
    }
}
