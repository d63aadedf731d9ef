//! Keys of encrypted layers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use casemate_api::workload::Isolation;
use casemate_image::{BlobInfo, ImageInfo, Source};
use casemate_seal::Dek;

use super::read_key;
use crate::{exit::Hinted, workload_file::WorkloadFile};

/// What a layer's key is called. It follows from the ciphertext, which has a key of its own, so that nobody can exchange names.
pub(crate) fn layer_key_name(layer: &BlobInfo) -> String {
    format!("layer-{}", &layer.digest.hex()[..NAME_DIGITS])
}

/// The key's file in a folder of keys.
pub(crate) fn layer_key_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.key"))
}

/// Refuses what would not be safe, before anything is fetched.
pub(super) fn check(file: &WorkloadFile, source: &Source, isolation: Isolation, info: &ImageInfo) -> anyhow::Result<()> {
    let names: Vec<String> = encrypted(info).map(layer_key_name).collect();
    if let Some(name) = file.layer_key.keys().find(|name| !names.contains(name)) {
        anyhow::bail!("--key {name}=…: there is neither an asset nor an encrypted layer of that name");
    }
    let refused = |message: &str, hint: &str| Err(Hinted { message: message.to_owned(), hint: hint.to_owned() }.into());
    if names.is_empty() {
        return Ok(());
    }
    if isolation < Isolation::Microvm {
        let message = format!(
            "the image has encrypted layers, and level {} cannot keep them from the node: its own kernel would have to read them",
            isolation.as_str()
        );
        return refused(&message, "run it at level microvm or confidential (--isolation)");
    }
    // Whoever may say what a tag means could put a layer of his own on top of the secret ones.
    if let Source::Registry(reference) = source
        && reference.digest().is_none()
    {
        let hint = "name it as HOST/NAME@sha256:..., with the digest that `casemate image encrypt` printed";
        return refused("an image with encrypted layers must be named by its digest, not by a tag", hint);
    }
    Ok(())
}

/// The keys of all encrypted layers, by name.
pub(super) fn read(file: &WorkloadFile, info: &ImageInfo) -> anyhow::Result<BTreeMap<String, Dek>> {
    let key = |layer: &BlobInfo| {
        let name = layer_key_name(layer);
        let in_folder = || file.layer_keys.as_deref().map(|folder| layer_key_file(folder, &name));
        let Some(path) = file.layer_key.get(&name).cloned().or_else(in_folder) else {
            let message = format!("layer {} is encrypted, and there is no key for it", layer.digest);
            let hint = format!("give the folder of its key with --layer-keys DIR, or --key {name}=FILE");
            return Err(Hinted { message, hint }.into());
        };
        Ok((name, read_key(&path)?))
    };
    encrypted(info).map(key).collect()
}

fn encrypted(info: &ImageInfo) -> impl Iterator<Item = &BlobInfo> {
    info.layers.iter().filter(|layer| layer.is_encrypted())
}

/// Enough to tell the layers of one image apart, and to find a file.
const NAME_DIGITS: usize = 16;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use casemate_image::{Digest, ENCRYPTED_TYPE};

    use super::*;

    const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

    fn image(media_types: &[&str]) -> ImageInfo {
        let layer = |(number, media_type): (usize, &&str)| BlobInfo {
            digest: Digest::of(&[number as u8]),
            size: 1,
            media_type: (*media_type).to_owned(),
        };
        let layers: Vec<BlobInfo> = media_types.iter().enumerate().map(layer).collect();
        ImageInfo { manifest_digest: Digest::of(b"m"), diff_ids: vec![], layers, config: casemate_image::ImageConfig::default() }
    }

    fn refusal(source: &str, level: Isolation, info: &ImageInfo) -> Option<String> {
        let source = Source::parse(source).unwrap();
        check(&WorkloadFile::default(), &source, level, info).err().map(|error| error.to_string())
    }

    #[test]
    fn a_tag_and_a_shared_kernel_are_good_enough_for_plain_layers_only() {
        let (plain, encrypted) = (image(&[PLAIN]), image(&[PLAIN, ENCRYPTED_TYPE]));
        let pinned = format!("registry.example/a/b@{}", Digest::of(b"m"));
        for (source, level) in [("registry.example/a/b:v1", Isolation::Microvm), (pinned.as_str(), Isolation::Sandbox)] {
            assert_eq!(refusal(source, level, &plain), None);
            assert!(refusal(source, level, &encrypted).is_some(), "{source} {level:?}");
        }
        assert_eq!(refusal(&pinned, Isolation::Microvm, &encrypted), None);
        assert_eq!(refusal(&pinned, Isolation::Confidential, &encrypted), None);
    }

    #[test]
    fn each_encrypted_layer_has_a_key_of_its_own_and_no_key_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let info = image(&[ENCRYPTED_TYPE, PLAIN, ENCRYPTED_TYPE]);
        let names = [0, 2].map(|index: usize| layer_key_name(&info.layers[index]));
        let mut file = WorkloadFile { layer_keys: Some(dir.path().to_owned()), ..WorkloadFile::default() };
        let problem = |file: &WorkloadFile| read(file, &info).err().map(|error| format!("{error:#}"));
        assert!(problem(&file).is_some_and(|problem| problem.contains(&names[0])), "the file of the first is not there");
        for (name, digit) in names.iter().zip(["1", "2"]) {
            let path = layer_key_file(dir.path(), name);
            fs::write(&path, digit.repeat(64)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let keys = read(&file, &info).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[&names[1]].as_bytes(), &[0x22; 32]);
        // A file that is named goes before the folder.
        file.layer_key.insert(names[1].clone(), layer_key_file(dir.path(), &names[0]));
        assert_eq!(read(&file, &info).unwrap()[&names[1]].as_bytes(), &[0x11; 32]);
        file.layer_keys = None;
        assert!(problem(&file).is_some_and(|problem| problem.contains("no key")));
        let source = Source::parse(&format!("registry.example/a@{}", Digest::of(b"m"))).unwrap();
        file.layer_key.insert("layer-0".into(), "x".into());
        assert!(check(&file, &source, Isolation::Microvm, &info).is_err());
    }
}
