//! What the agent sees of an instance's protection: the machine it runs on, the jail, the VMM.
//!
//! Each line is read from the kernel now. What cannot be read is left out, and then counts as not observed; a file that only a
//! kernel without the danger lacks is said to be absent.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use casemate_api::score::Observation;
use casemate_sandbox::{JailReport, VmmReport};

/// What is seen of the machine, in the tree at `root`.
pub(crate) fn node(root: &Path) -> Vec<Observation> {
    let tree = Tree(root);
    let facts: [(&'static str, Option<Fact>); 12] = [
        ("secure-boot", secure_boot(tree)),
        ("tpm", tpm(tree)),
        ("iommu", iommu(tree)),
        ("cpu-mitigations", mitigations(tree)),
        ("host-lockdown", lockdown(tree)),
        ("host-modules-signed", modules(tree)),
        ("host-kexec-off", setting(tree, "kexec_load_disabled", |value| value == 1)),
        ("host-bpf-privileged", setting(tree, "unprivileged_bpf_disabled", |value| value >= 1)),
        ("host-untainted", setting(tree, "tainted", |value| value == 0)),
        ("host-live-patches", live_patches(tree)),
        ("host-no-swap", no_swap(tree)),
        ("host-no-merge", no_merge(tree)),
    ];
    facts.into_iter().filter_map(|(item, fact)| fact.map(|(held, seen)| Observation::new(item, held, seen))).collect()
}

/// What the driver saw of the jail after the start.
pub(crate) fn jail(report: &JailReport) -> Vec<Observation> {
    let own_users = report.namespaces.iter().any(|name| name == "user");
    let missing: Vec<_> = NAMESPACES.iter().filter(|name| !report.namespaces.iter().any(|has| has == *name)).copied().collect();
    let capabilities = match (report.capabilities, own_users) {
        (0, _) => "none".to_owned(),
        (some, true) => format!("{some:#x}, in a user namespace of its own, where they are none over the host"),
        (some, false) => format!("{some:#x}"),
    };
    let namespaces = match missing.is_empty() {
        true => report.namespaces.join(" "),
        false => format!("shared with the host: {}", missing.join(" ")),
    };
    let all = |held| if held { "every thread" } else { "not every thread" };
    vec![
        Observation::new("jail-user", report.uid != 0, format!("user {}", report.uid)),
        Observation::new("jail-no-new-privs", report.no_new_privs, all(report.no_new_privs)),
        Observation::new("jail-seccomp", report.seccomp, all(report.seccomp)),
        Observation::new("jail-capabilities", report.capabilities == 0 || own_users, capabilities),
        Observation::new("jail-namespaces", missing.is_empty(), namespaces),
        Observation::new("jail-cgroup", report.cgroup, if report.cgroup { "with limits" } else { "without limits of its own" }),
    ]
}

/// What the driver saw of the VMM after the start.
pub(crate) fn vmm(report: &VmmReport) -> Vec<Observation> {
    let lines = [
        ("vmm-kvm", report.kvm, "it has a virtual machine of KVM", "it has none: the guest is emulated"),
        ("memory-private", report.memory_private, "mode 0600, on a file system of its own", "others can reach the file"),
        ("memory-no-swap", report.memory_no_swap, "its file system or control group forbids it", "nothing forbids it"),
        ("memory-no-merge", report.memory_no_merge, "the mapping is not mergeable", "the mapping is mergeable"),
        ("memory-no-dump", report.memory_no_dump, "no mapping is dumped", "the mapping would be dumped"),
    ];
    let line = |(item, held, yes, no): (&'static str, Option<bool>, &str, &str)| {
        held.map(|held| Observation::new(item, held, if held { yes } else { no }))
    };
    let landlock = report.landlock.map(|version| match version {
        0 => Observation::new("jail-landlock", false, "the kernel has no Landlock"),
        version => {
            Observation::new("jail-landlock", true, format!("version {version}, as the jail said before it became the VMM"))
        }
    });
    landlock.into_iter().chain(lines.into_iter().filter_map(line)).collect()
}

/// Whether it holds, and what was seen.
type Fact = (bool, String);

/// A file system's root: of the machine, or of a test.
#[derive(Debug, Clone, Copy)]
struct Tree<'a>(&'a Path);

impl Tree<'_> {
    fn at(self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// A file's text. `Some(None)`: there is no such file, in a folder that is there.
    fn text(self, folder: &str, name: &str) -> Option<Option<String>> {
        match fs::read(self.at(folder).join(name)) {
            Ok(bytes) => Some(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.has_entries(folder) => Some(None),
            Err(_) => None,
        }
    }

    fn names(self, folder: &str) -> Option<Vec<String>> {
        let entries = fs::read_dir(self.at(folder)).ok()?;
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Some(names)
    }

    /// A folder that is only the place of a mount is empty.
    fn has_entries(self, folder: &str) -> bool {
        fs::read_dir(self.at(folder)).is_ok_and(|mut entries| entries.next().is_some())
    }
}

fn secure_boot(tree: Tree<'_>) -> Option<Fact> {
    if !tree.at("sys/firmware/efi").is_dir() {
        return tree.has_entries("sys/kernel").then(|| (false, "the machine was not booted by UEFI firmware".to_owned()));
    }
    // Four bytes of attributes, then the value.
    let variable = fs::read(tree.at("sys/firmware/efi/efivars").join(SECURE_BOOT)).ok()?;
    let on = *variable.get(4)? == 1;
    Some((on, format!("SecureBoot = {}", variable[4])))
}

fn tpm(tree: Tree<'_>) -> Option<Fact> {
    let Some(version) = tree.text("sys/class/tpm/tpm0", "tpm_version_major").flatten() else {
        return tree.has_entries("sys/class").then(|| (false, "no TPM device".to_owned()));
    };
    let log = tree.at("sys/kernel/security/tpm0/binary_bios_measurements").exists();
    Some((version == "2" && log, format!("TPM {version}, {}", if log { "with a boot log" } else { "without a boot log" })))
}

fn iommu(tree: Tree<'_>) -> Option<Fact> {
    let units = tree.names("sys/class/iommu").or_else(|| tree.has_entries("sys/class").then(Vec::new))?;
    let groups = tree.names("sys/kernel/iommu_groups").unwrap_or_default().len();
    Some((!units.is_empty() && groups > 0, format!("{} units, {groups} groups of devices", units.len())))
}

fn mitigations(tree: Tree<'_>) -> Option<Fact> {
    let folder = "sys/devices/system/cpu/vulnerabilities";
    let known = tree.names(folder).filter(|names| !names.is_empty())?;
    let open: Vec<_> = known
        .iter()
        .filter(|name| tree.text(folder, name).flatten().is_none_or(|text| text.to_ascii_lowercase().contains("vulnerable")))
        .map(String::as_str)
        .collect();
    Some(match open.is_empty() {
        true => (true, format!("{} known flaws, none open", known.len())),
        false => (false, format!("open: {}", open.join(" "))),
    })
}

fn lockdown(tree: Tree<'_>) -> Option<Fact> {
    let Some(text) = tree.text("sys/kernel/security", "lockdown")? else {
        return Some((false, "the kernel has no lockdown".to_owned()));
    };
    let mode = text.split(['[', ']']).nth(1)?.to_owned();
    Some((matches!(mode.as_str(), "integrity" | "confidentiality"), mode))
}

fn modules(tree: Tree<'_>) -> Option<Fact> {
    if tree.text("proc/sys/kernel", "modules_disabled")?.is_some_and(|value| value == "1") {
        return Some((true, "loading is off".to_owned()));
    }
    if tree.text("proc", "modules")?.is_none() {
        return Some((true, "the kernel has no modules".to_owned()));
    }
    let enforced = tree.text("sys/module/module/parameters", "sig_enforce")?.is_some_and(|value| value == "Y");
    Some((enforced, if enforced { "signatures are enforced" } else { "unsigned ones can be loaded" }.to_owned()))
}

/// A number in /proc/sys/kernel; a kernel without it has nothing to be switched off.
fn setting(tree: Tree<'_>, name: &str, good: fn(u64) -> bool) -> Option<Fact> {
    let Some(text) = tree.text("proc/sys/kernel", name)? else { return Some((true, format!("the kernel has no {name}"))) };
    Some((good(text.parse().ok()?), format!("{name} = {text}")))
}

fn live_patches(tree: Tree<'_>) -> Option<Fact> {
    let Some(patches) = tree.names("sys/kernel/livepatch") else {
        return tree.has_entries("sys/kernel").then(|| (false, "the kernel has no live patches".to_owned()));
    };
    let says = |name: &str, file: &str, value: &str| {
        tree.text(&format!("sys/kernel/livepatch/{name}"), file).flatten().is_some_and(|text| text == value)
    };
    let all = patches.iter().all(|name| says(name, "enabled", "1") && says(name, "transition", "0"));
    Some(match patches.as_slice() {
        [] => (false, "none is loaded".to_owned()),
        names => (all, format!("{}{}", names.join(" "), if all { "" } else { ", not all in force" })),
    })
}

fn no_swap(tree: Tree<'_>) -> Option<Fact> {
    let Some(text) = tree.text("proc", "swaps")? else { return Some((true, "the kernel has no swap".to_owned())) };
    let areas = text.lines().count().saturating_sub(1);
    Some((areas == 0, format!("{areas} swap areas")))
}

fn no_merge(tree: Tree<'_>) -> Option<Fact> {
    if !tree.at("sys/kernel/mm/ksm").is_dir() {
        return tree.has_entries("sys/kernel/mm").then(|| (true, "the kernel has no KSM".to_owned()));
    }
    let run = tree.text("sys/kernel/mm/ksm", "run").flatten()?;
    Some((run != "1", format!("KSM run = {run}")))
}

const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

const SECURE_BOOT: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

#[cfg(test)]
mod tests {
    use casemate_api::score::{Item, Observer};
    use tempfile::TempDir;

    use super::*;

    /// A machine as it should be.
    fn machine() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let files: &[(&str, &[u8])] = &[
            ("sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[6, 0, 0, 0, 1]),
            ("sys/class/tpm/tpm0/tpm_version_major", b"2\n"),
            ("sys/kernel/security/tpm0/binary_bios_measurements", b""),
            ("sys/class/iommu/dmar0/name", b""),
            ("sys/kernel/iommu_groups/0/type", b"DMA\n"),
            ("sys/devices/system/cpu/vulnerabilities/meltdown", b"Mitigation: PTI\n"),
            ("sys/devices/system/cpu/vulnerabilities/l1tf", b"Not affected\n"),
            ("sys/kernel/security/lockdown", b"none [integrity] confidentiality\n"),
            ("sys/module/module/parameters/sig_enforce", b"Y\n"),
            ("sys/kernel/livepatch/kpatch_1/enabled", b"1\n"),
            ("sys/kernel/livepatch/kpatch_1/transition", b"0\n"),
            ("sys/kernel/mm/ksm/run", b"0\n"),
            ("proc/modules", b"x 1 0\n"),
            ("proc/swaps", b"Filename Type\n"),
            ("proc/sys/kernel/modules_disabled", b"0\n"),
            ("proc/sys/kernel/kexec_load_disabled", b"1\n"),
            ("proc/sys/kernel/unprivileged_bpf_disabled", b"2\n"),
            ("proc/sys/kernel/tainted", b"0\n"),
        ];
        for (path, bytes) in files {
            write(&dir, path, bytes);
        }
        dir
    }

    fn write(dir: &TempDir, path: &str, bytes: &[u8]) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn line(dir: &TempDir, item: &str) -> Option<bool> {
        node(dir.path()).iter().find(|seen| seen.item == item).map(|seen| seen.held)
    }

    #[test]
    fn every_line_holds_on_a_good_machine() {
        let seen = node(machine().path());
        assert!(seen.iter().all(|seen| seen.held), "{seen:?}");
        let layers = [casemate_api::score::Layer::Platform, casemate_api::score::Layer::Host];
        let wanted = casemate_api::score::ITEMS
            .iter()
            // These two are told by whoever watches the host.
            .filter(|item| !["monitor", "host-dedicated"].contains(&item.name))
            .filter(|item| item.observer == Observer::Agent && layers.contains(&item.layer));
        for item in wanted {
            assert!(seen.iter().any(|seen| seen.item == item.name), "nobody looks at {}", item.name);
        }
    }

    #[test]
    fn one_thing_switched_off_changes_its_line_and_no_other() {
        let cases: &[(&str, &str, &[u8])] = &[
            ("secure-boot", "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[6, 0, 0, 0, 0]),
            ("tpm", "sys/class/tpm/tpm0/tpm_version_major", b"1\n"),
            ("cpu-mitigations", "sys/devices/system/cpu/vulnerabilities/mds", b"Mitigation: Clear buffers; SMT vulnerable\n"),
            ("host-lockdown", "sys/kernel/security/lockdown", b"[none] integrity confidentiality\n"),
            ("host-modules-signed", "sys/module/module/parameters/sig_enforce", b"N\n"),
            ("host-live-patches", "sys/kernel/livepatch/kpatch_1/enabled", b"0\n"),
            ("host-no-merge", "sys/kernel/mm/ksm/run", b"1\n"),
            ("host-no-swap", "proc/swaps", b"Filename Type\n/swapfile file\n"),
            ("host-kexec-off", "proc/sys/kernel/kexec_load_disabled", b"0\n"),
            ("host-bpf-privileged", "proc/sys/kernel/unprivileged_bpf_disabled", b"0\n"),
            ("host-untainted", "proc/sys/kernel/tainted", b"4097\n"),
        ];
        for (item, path, bytes) in cases {
            let dir = machine();
            write(&dir, path, bytes);
            let missing: Vec<_> = node(dir.path()).into_iter().filter(|seen| !seen.held).map(|seen| seen.item).collect();
            assert_eq!(missing, [*item]);
        }
    }

    #[test]
    fn without_an_iommu_or_a_tpm_the_line_is_missing() {
        for (item, folder) in [("iommu", "sys/class/iommu"), ("iommu", "sys/kernel/iommu_groups"), ("tpm", "sys/class/tpm")] {
            let dir = machine();
            fs::remove_dir_all(dir.path().join(folder)).unwrap();
            assert_eq!(line(&dir, item), Some(false), "{folder}");
        }
        let dir = machine();
        fs::remove_dir_all(dir.path().join("sys/firmware/efi")).unwrap();
        assert_eq!(line(&dir, "secure-boot"), Some(false));
    }

    #[test]
    fn what_cannot_be_read_is_not_observed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(node(dir.path()), []);
        let dir = machine();
        fs::remove_dir_all(dir.path().join("sys/kernel/security")).unwrap();
        assert_eq!(line(&dir, "host-lockdown"), None, "securityfs is not mounted");
        write(&dir, "proc/sys/kernel/tainted", b"?\n");
        assert_eq!(line(&dir, "host-untainted"), None);
        write(&dir, "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", &[6]);
        assert_eq!(line(&dir, "secure-boot"), None);
    }

    #[test]
    fn a_jail_without_one_of_its_walls_shows_which() {
        let good = JailReport {
            uid: 7,
            no_new_privs: true,
            seccomp: true,
            capabilities: 0,
            namespaces: NAMESPACES.map(str::to_owned).to_vec(),
            cgroup: true,
        };
        let missing = |change: fn(&mut JailReport)| {
            let mut report = good.clone();
            change(&mut report);
            jail(&report).into_iter().filter(|seen| !seen.held).map(|seen| seen.item).collect::<Vec<_>>()
        };
        assert_eq!(missing(|_| {}), Vec::<String>::new());
        assert_eq!(missing(|report| report.uid = 0), ["jail-user"]);
        assert_eq!(missing(|report| report.no_new_privs = false), ["jail-no-new-privs"]);
        assert_eq!(missing(|report| report.seccomp = false), ["jail-seccomp"]);
        assert_eq!(missing(|report| report.capabilities = 1 << 21), ["jail-capabilities"]);
        assert_eq!(missing(|report| drop(report.namespaces.remove(3))), ["jail-namespaces"]);
        assert_eq!(missing(|report| report.cgroup = false), ["jail-cgroup"]);
    }

    #[test]
    fn what_was_not_seen_of_a_vmm_is_left_out() {
        assert_eq!(vmm(&VmmReport::default()), []);
        for (version, held) in [(0, false), (6, true)] {
            let seen = vmm(&VmmReport { landlock: Some(version), ..VmmReport::default() });
            assert_eq!(seen.iter().map(|seen| (seen.item.as_str(), seen.held)).collect::<Vec<_>>(), [("jail-landlock", held)]);
            assert!(Item::find("jail-landlock").is_some_and(|item| item.observer == Observer::Agent));
        }
        let seen = vmm(&VmmReport { kvm: Some(false), memory_no_swap: Some(true), ..VmmReport::default() });
        let lines: Vec<_> = seen.iter().map(|seen| (seen.item.as_str(), seen.held)).collect();
        assert_eq!(lines, [("vmm-kvm", false), ("memory-no-swap", true)]);
        assert!(seen.iter().all(|seen| Item::find(&seen.item).is_some_and(|item| item.observer == Observer::Agent)));
    }
}
