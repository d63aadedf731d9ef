//! `guest-os.json`: what the image consists of, for those who boot it.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    flavour::Flavour,
    recipe::{Accelerator, Recipe},
    root::Root,
};
use crate::{digest, files};

/// The image, described.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    version: u32,
    kernel: KernelPart,
    initrd: Part,
    root: RootPart,
    guest: Part,
    command_lines: CommandLines,
    sources: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KernelPart {
    flavour: String,
    version: String,
    #[serde(flatten)]
    part: Part,
}

#[derive(Debug, Serialize, Deserialize)]
struct Part {
    file: String,
    sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct RootPart {
    file: String,
    sha256: String,
    root_hash: String,
    salt: String,
    data_blocks: u64,
    hash_start_block: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct CommandLines {
    tcg: String,
    kvm: String,
}

/// Which kernel it is.
#[derive(Debug)]
pub(crate) struct KernelId {
    /// Ours or the distribution's.
    pub(crate) flavour: Flavour,
    /// The version of the package that it comes from.
    pub(crate) version: String,
}

impl Description {
    /// Describes these files.
    pub(crate) fn new(
        recipe: &Recipe,
        kernel: &KernelId,
        vmlinux: &[u8],
        initrd: &[u8],
        root: &Root,
        guest: &[u8],
        sources: Vec<(String, String)>,
    ) -> Self {
        let place = format!("{}:{}:{}:{}", root.root_hash, root.salt, root.data_blocks, root.hash_start_block());
        let part = |file: &str, bytes: &[u8]| Part { file: file.to_owned(), sha256: digest::of_bytes(bytes) };
        Self {
            version: 1,
            kernel: KernelPart {
                flavour: kernel.flavour.name().to_owned(),
                version: kernel.version.clone(),
                part: part("vmlinux", vmlinux),
            },
            initrd: part("initrd.cpio", initrd),
            root: RootPart {
                file: "root.img".to_owned(),
                sha256: digest::of_bytes(&root.image),
                root_hash: root.root_hash.clone(),
                salt: root.salt.clone(),
                data_blocks: root.data_blocks,
                hash_start_block: root.hash_start_block(),
            },
            guest: part("casemate-guest", guest),
            command_lines: CommandLines {
                tcg: recipe.command_line(kernel.flavour, Accelerator::Tcg, &place),
                kvm: recipe.command_line(kernel.flavour, Accelerator::Kvm, &place),
            },
            sources: sources.into_iter().collect(),
        }
    }

    /// As the file's text.
    pub(crate) fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self).context("writing guest-os.json")? + "\n")
    }

    /// The payload of the reference values, not yet signed, for an image of this name.
    pub(crate) fn reference_values(&self, name: &str) -> Value {
        json!({
            "version": 1,
            "guest_os": [{
                "name": name,
                "kernel": self.kernel.part.sha256,
                "initrd": self.initrd.sha256,
                "root_hash": self.root.root_hash,
                "command_lines": [self.command_lines.tcg, self.command_lines.kvm],
            }],
            // `casemate dev up` and operators add the digests of the programs that they run.
            "node_software": { "agent": [], "vmm": [], "container_guest": [self.guest.sha256] },
        })
    }

    /// Whether the files in `folder` are the ones that its `guest-os.json` describes.
    pub(crate) fn matches_files(folder: &Path) -> bool {
        let check = || -> Result<bool> {
            let description: Self = serde_json::from_str(&files::read_text(&folder.join("guest-os.json"))?)?;
            let parts = [
                &description.kernel.part,
                &description.initrd,
                &description.guest,
                &Part { file: description.root.file.clone(), sha256: description.root.sha256.clone() },
            ]
            .map(|part| digest::of_file(&folder.join(&part.file)).map(|found| found == part.sha256));
            Ok(parts.into_iter().collect::<Result<Vec<bool>>>()?.into_iter().all(|same| same))
        };
        check().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(flavour: Flavour) -> (Recipe, Description, Root) {
        let recipe = Recipe::parse(include_str!("../../../../guest-os/recipe.toml")).unwrap();
        let root = Root { image: vec![0; 8192], root_hash: "ab".repeat(32), salt: "cd".repeat(32), data_blocks: 1 };
        let kernel = KernelId { flavour, version: "6.1.192-2".into() };
        let description = Description::new(&recipe, &kernel, b"kernel", b"initrd", &root, b"guest", vec![]);
        (recipe, description, root)
    }

    #[test]
    fn command_lines_carry_the_root_hash_and_only_one_variable() {
        for flavour in [Flavour::Own, Flavour::Distro] {
            check_command_lines(&described(flavour).1);
        }
    }

    fn check_command_lines(description: &Description) {
        let place = format!("casemate.root={}:{}:1:2", "ab".repeat(32), "cd".repeat(32));
        for line in [&description.command_lines.tcg, &description.command_lines.kvm] {
            assert!(line.ends_with(&place), "{line}");
            assert!(line.contains("tpm_tis.force=1 tpm_tis.interrupts=0"), "{line}");
            assert!(!line.contains("  "), "{line}");
        }
        assert_eq!(description.command_lines.tcg.matches('{').count(), 1);
        assert!(description.command_lines.tcg.contains("tsc_early_khz={tsc_khz} tsc=reliable"));
        assert!(!description.command_lines.kvm.contains('{'));
    }

    #[test]
    fn a_kernel_with_modules_is_locked_down_takes_only_signed_ones_and_has_a_name_of_its_own() {
        let (recipe, description, _) = described(Flavour::Distro);
        for line in [&description.command_lines.tcg, &description.command_lines.kvm] {
            for option in ["lockdown=confidentiality", "module.sig_enforce=1"] {
                assert!(line.split(' ').any(|word| word == option), "{option} in {line}");
            }
        }
        let value: Value = serde_json::from_str(&description.to_json().unwrap()).unwrap();
        assert_eq!((&value["kernel"]["flavour"], &value["kernel"]["version"]), (&json!("distro"), &json!("6.1.192-2")));
        assert_eq!(value["kernel"]["file"], "vmlinux");
        assert_ne!(recipe.name(Flavour::Distro), recipe.name(Flavour::Own));
    }

    #[test]
    fn a_changed_file_no_longer_matches_the_description() {
        let (_, description, root) = described(Flavour::Own);
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| files::write(&folder.path().join(name), bytes).unwrap();
        put("guest-os.json", description.to_json().unwrap().as_bytes());
        put("vmlinux", b"kernel");
        put("initrd.cpio", b"initrd");
        put("root.img", &root.image);
        put("casemate-guest", b"guest");
        assert!(Description::matches_files(folder.path()));
        put("vmlinux", b"kernal");
        assert!(!Description::matches_files(folder.path()));
    }
}
