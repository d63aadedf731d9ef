//! The image: one verity device per layer, dm-crypt over those that are encrypted, an overlay on top.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use casemate_api::{
    guest,
    workload::{self, Layer},
};
use casemate_seal::{KeyRelease, layer::xts_key};
use rustix::mount::{MountFlags, mount};
use sha2::{Digest as _, Sha256};

use super::{SCRATCH, announce, slice};
use crate::{
    dm,
    fatal::{Check, Fatal, OrFatal},
};

/// Where the workload's root file system is mounted.
pub(crate) const ROOT: &str = "/run/root";

/// An encrypted layer, whose ciphertext is open and verified.
#[derive(Debug)]
pub(crate) struct Locked {
    index: usize,
    key: String,
    number: String,
    sectors: u64,
}

/// Opens all layers, lowest first; those that need keys are returned. What is opened is decided by the workload's root hashes
/// and sizes alone; the host only says where to look.
pub(crate) fn open_all(layers: &[Layer], slices: &[guest::Slice]) -> Result<Vec<Locked>, Fatal> {
    if layers.len() != slices.len() {
        let detail = format!("{} slices for {} layers", slices.len(), layers.len());
        return Err(Fatal::new(Check::Protocol, detail));
    }
    let mut locked = Vec::new();
    for (index, (layer, slice)) in layers.iter().zip(slices).enumerate() {
        locked.extend(open_layer(index, layer, slice)?);
    }
    Ok(locked)
}

/// Decrypts layers, from the blocks that verity lets through.
pub(crate) fn unlock_all(locked: &[Locked], keys: &KeyRelease) -> Result<(), Fatal> {
    locked.iter().try_for_each(|layer| unlock(layer, keys))
}

fn unlock(Locked { index, key, number, sectors }: &Locked, keys: &KeyRelease) -> Result<(), Fatal> {
    let context = || format!("decrypt layer {index} by the key {key}");
    let missing = || Fatal::new(Check::LayerDecrypt, format!("the key release has no key {key}, which layer {index} needs"));
    let xts = xts_key(&keys.dek(key).ok_or_else(missing)?);
    let device = dm::create(&format!("plain{index}"), &dm::Table::layer(number, *sectors, &xts));
    let device = device.or_fatal(Check::LayerDecrypt, context())?;
    // Each block is the workload's, so that only the key can be the wrong one where no file system shows.
    mount_layer(*index, &device.node()).or_fatal(Check::LayerDecrypt, context())
}

/// Mounts the open layers as the workload's root file system, which it changes on the scratch volume.
pub(crate) fn mount_root(layers: usize) -> Result<(), Fatal> {
    mount_overlay(layers).or_fatal(Check::LayerVerity, "mount the layers as one root file system")
}

fn open_layer(index: usize, layer: &Layer, slice: &guest::Slice) -> Result<Option<Locked>, Fatal> {
    let context = || format!("open layer {index}");
    let part = slice::find(slice).or_fatal(Check::LayerVerity, context())?;
    let verity = verity_of(layer).ok_or_else(|| Fatal::new(Check::WorkloadFormat, context()))?;
    let name = format!("layer{index}");
    let number = if part.start_sector == 0 {
        part.disk.number
    } else {
        let table = dm::Table::linear(&part.disk.number, part.start_sector, part.sectors);
        dm::create(&format!("slice{index}"), &table).or_fatal(Check::LayerVerity, context())?.number()
    };
    announce(&name, &number);
    let device = dm::create(&name, &dm::Table::verity(&number, &verity)).or_fatal(Check::LayerVerity, context())?;
    let Some(key) = &layer.key else {
        mount_layer(index, &device.node()).or_fatal(Check::LayerVerity, format!("mount layer {index}"))?;
        return Ok(None);
    };
    // As a mount would: another layer in this one's place is noticed before anybody releases a key.
    let first = File::open(device.node()).and_then(|mut device| device.read_exact(&mut [0; BLOCK as usize]));
    first.or_fatal(Check::LayerVerity, format!("read layer {index}"))?;
    let sectors = layer.data_blocks.saturating_mul(BLOCK / 512);
    Ok(Some(Locked { index, key: key.clone(), number: device.number(), sectors }))
}

fn mount_layer(index: usize, device: &Path) -> io::Result<()> {
    let target = layer_dir(index);
    fs::create_dir_all(&target)?;
    // Set-uid files keep their mode bits; the overlay on top, through which they are reached, is mounted nosuid.
    Ok(mount(device, &target, "erofs", MountFlags::RDONLY | MountFlags::NODEV, None)?)
}

/// The block after the data holds the verity superblock, which is not read: all that it says comes from the workload.
fn verity_of(layer: &Layer) -> Option<dm::Verity> {
    Some(dm::Verity {
        root_hash: workload::parse_hex32(&layer.root_hash)?,
        salt: Sha256::digest(SALT_TEXT).into(),
        data_blocks: layer.data_blocks,
        hash_start_block: layer.data_blocks.checked_add(1)?,
    })
}

fn mount_overlay(layers: usize) -> io::Result<()> {
    for dir in [ROOT.to_owned(), format!("{SCRATCH}/upper"), format!("{SCRATCH}/work")] {
        fs::create_dir_all(dir)?;
    }
    let options = CString::new(overlay_options(layers)).map_err(io::Error::other)?;
    Ok(mount("overlay", ROOT, "overlay", MountFlags::NODEV | MountFlags::NOSUID, options.as_c_str())?)
}

/// `volatile`: nothing is synced to the scratch volume, which does not outlive the machine.
fn overlay_options(layers: usize) -> String {
    let lower: Vec<String> = (0..layers).rev().map(layer_dir).collect();
    format!("lowerdir={},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work,volatile", lower.join(":"))
}

fn layer_dir(index: usize) -> String {
    format!("/run/layers/{index}")
}

/// Of verity, and of the encryption.
const BLOCK: u64 = 4096;
const SALT_TEXT: &str = "casemate/layer-salt/v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_layer_comes_first() {
        assert!(overlay_options(3).starts_with("lowerdir=/run/layers/2:/run/layers/1:/run/layers/0,upperdir="));
    }

    #[test]
    fn the_options_of_the_largest_image_fit_into_the_page_that_mount_takes() {
        assert!(overlay_options(workload::MAX_LAYERS).len() < 4096);
    }

    #[test]
    fn a_layer_without_its_key_is_named() {
        let layer = Locked { index: 2, key: "layer-2".into(), number: "254:3".into(), sectors: 8 };
        let fatal = unlock_all(&[layer], &KeyRelease::default()).unwrap_err();
        assert_eq!(fatal.to_string(), "CASEMATE-FATAL layer.decrypt the key release has no key layer-2, which layer 2 needs");
    }

    #[test]
    fn verity_comes_from_the_workload_alone() {
        let layer = Layer { blob: String::new(), root_hash: "0c".repeat(32), data_blocks: 9, key: None };
        let verity = verity_of(&layer).unwrap();
        assert_eq!((verity.root_hash, verity.data_blocks, verity.hash_start_block), ([12; 32], 9, 10));
        assert_eq!(hex::encode(verity.salt).len(), 64);
        assert!(verity_of(&Layer { root_hash: "x".into(), ..layer }).is_none());
    }
}
