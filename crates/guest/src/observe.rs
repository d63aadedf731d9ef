//! What process 1 sees of its own protection, for the score card.
//!
//! Each line is read back from the kernel, not from what was asked of it. What cannot be read is left out and counts as not
//! observed. Nothing here is secret: device mapper is asked for states, never for tables, which hold keys.

use std::{fs, io, path::Path};

use casemate_api::{guest, score::Observation};

use crate::{boot::hardening, dm, storage};

/// What is seen once everything is set up.
pub(crate) fn machine() -> Vec<guest::Observation> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut seen: Vec<_> = [
        mapped("guest-root-verity", "/", "verity", dm::state("root"), &mounts, Wanted::ReadOnly),
        mapped("guest-scratch-encrypted", storage::SCRATCH, "crypt", dm::state("scratch"), &mounts, Wanted::Writable),
    ]
    .into_iter()
    .flatten()
    .collect();
    seen.extend(kernel(Path::new("/")));
    seen.into_iter().map(wire).collect()
}

/// What is seen of the workload's first process.
pub(crate) fn workload(status: &str) -> Option<guest::Observation> {
    confined(status).map(wire)
}

fn wire(seen: Observation) -> guest::Observation {
    let Observation { item, held, seen } = seen;
    guest::Observation { item, held, seen }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    ReadOnly,
    Writable,
}

/// Whether what is mounted at `point` is the mapped device, and that one of the kind.
fn mapped(
    item: &'static str,
    point: &str,
    kind: &str,
    state: io::Result<dm::State>,
    mounts: &str,
    wanted: Wanted,
) -> Option<Observation> {
    let state = state.ok()?;
    // The last mount at a point is the one that is seen.
    let mount = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some(point))?;
    let mut fields = mount.split(' ').skip(2);
    let (device, options) = (fields.next()?, fields.nth(2)?);
    let read_only = options.split(',').any(|option| option == "ro");
    // A verity device that found a bad block says so.
    let sound = state.kind == kind && (kind != "verity" || state.status == "V");
    let held = sound && device == state.number && (wanted == Wanted::Writable || read_only);
    let mode = if read_only { "read-only" } else { "writable" };
    Some(Observation::new(
        item,
        held,
        format!("{point} is device {device}, {mode}; {} {} is {}", state.kind, state.number, state.status),
    ))
}

/// What the kernel says in the tree at `root`.
fn kernel(root: &Path) -> Vec<Observation> {
    let facts = [
        ("guest-no-swap", no_swap(root)),
        ("guest-lockdown", lockdown(root)),
        ("guest-modules-off", modules_off(root)),
        ("guest-settings", settings(root)),
        ("guest-kernel-options", options(root)),
    ];
    facts.into_iter().filter_map(|(item, fact)| fact.map(|(held, seen)| Observation::new(item, held, seen))).collect()
}

/// A file's text; `Some(None)` where the kernel has no such file.
fn text(root: &Path, name: &str) -> Option<Option<String>> {
    match fs::read_to_string(root.join(name)) {
        Ok(text) => Some(Some(text.trim().to_owned())),
        // Without /proc nothing would be there, either.
        Err(error) if error.kind() == io::ErrorKind::NotFound && root.join("proc/version").exists() => Some(None),
        Err(_) => None,
    }
}

fn no_swap(root: &Path) -> Option<(bool, String)> {
    Some(match text(root, "proc/swaps")? {
        None => (true, "the kernel has no swap".to_owned()),
        Some(text) => {
            let areas = text.lines().count().saturating_sub(1);
            (areas == 0, format!("{areas} swap areas"))
        }
    })
}

fn lockdown(root: &Path) -> Option<(bool, String)> {
    let Some(text) = text(root, "sys/kernel/security/lockdown")? else {
        return Some((false, "the kernel has no lockdown".to_owned()));
    };
    let mode = text.split(['[', ']']).nth(1)?.to_owned();
    Some((mode == "confidentiality", mode))
}

fn modules_off(root: &Path) -> Option<(bool, String)> {
    if text(root, "proc/modules")?.is_none() {
        return Some((true, "the kernel has no modules".to_owned()));
    }
    let off = text(root, "proc/sys/kernel/modules_disabled")?.is_some_and(|value| value == "1");
    Some((off, format!("modules_disabled is {}", if off { "1" } else { "not 1" })))
}

/// A setting that this kernel was built without needs none.
fn settings(root: &Path) -> Option<(bool, String)> {
    let (mut good, mut bad) = (0, Vec::new());
    for (name, wanted) in hardening::SETTINGS {
        match text(root, &format!("proc/sys/{name}"))? {
            Some(value) if value != *wanted => bad.push(format!("{name} = {value}")),
            Some(_) => good += 1,
            None => {}
        }
    }
    Some(if bad.is_empty() { (good > 0, format!("{good} as set")) } else { (false, bad.join(" ")) })
}

/// Neither has a file that says it: a page that is there is mapped everywhere, and kinds of objects that were merged have a name of
/// their own.
fn options(root: &Path) -> Option<(bool, String)> {
    let page = text(root, "proc/self/maps")??.contains("[vsyscall]");
    let merged = fs::read_dir(root.join("sys/kernel/slab"))
        .ok()?
        .flatten()
        .any(|kind| kind.file_name().as_encoded_bytes().starts_with(b":"));
    let (page_is, merged_are) = (if page { "a" } else { "no" }, if merged { "merged" } else { "not merged" });
    Some((!page && !merged, format!("{page_is} vsyscall page, slabs are {merged_are}")))
}

/// Of a process that was executed already.
fn confined(status: &str) -> Option<Observation> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":")).map(str::trim);
    let (privileges, filter) = (field("NoNewPrivs")?, field("Seccomp")?);
    let capabilities = ["CapEff", "CapPrm", "CapBnd"].map(field);
    let none = capabilities.iter().all(|set| set.is_some_and(|set| set.bytes().all(|digit| digit == b'0')));
    let held = privileges == "1" && filter == "2" && none;
    let capabilities = if none { "none" } else { "some" };
    let seen = format!("no_new_privs {privileges}, seccomp {filter}, capabilities {capabilities}");
    Some(Observation::new("guest-workload-confined", held, seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
21 1 0:2 / / rw - rootfs rootfs rw\n\
22 21 253:0 / / ro,nosuid,nodev - erofs /dev/dm-0 ro\n\
40 22 253:1 / /run/scratch rw,nosuid,nodev - ext4 /dev/dm-1 rw\n";

    fn state(kind: &str, number: &str, status: &str) -> io::Result<dm::State> {
        Ok(dm::State { kind: kind.to_owned(), number: number.to_owned(), status: status.to_owned() })
    }

    #[test]
    fn the_root_is_what_is_mounted_and_not_what_was_made() {
        let root =
            |state, mounts: &str| mapped("guest-root-verity", "/", "verity", state, mounts, Wanted::ReadOnly).map(|o| o.held);
        assert_eq!(root(state("verity", "253:0", "V"), MOUNTS), Some(true));
        assert_eq!(root(state("verity", "253:0", "C"), MOUNTS), Some(false), "corrupt");
        assert_eq!(root(state("linear", "253:0", ""), MOUNTS), Some(false), "no verity");
        assert_eq!(root(state("verity", "253:7", "V"), MOUNTS), Some(false), "another device is mounted");
        assert_eq!(root(state("verity", "253:0", "V"), &MOUNTS.replace("/ ro,", "/ rw,")), Some(false), "writable");
        assert_eq!(root(Err(io::ErrorKind::NotFound.into()), MOUNTS), None, "nothing was seen");
        assert_eq!(root(state("verity", "253:0", "V"), ""), None);
    }

    #[test]
    fn scratch_without_encryption_is_missing() {
        let scratch = |kind: &str, number: &str| {
            mapped("guest-scratch-encrypted", "/run/scratch", "crypt", state(kind, number, ""), MOUNTS, Wanted::Writable)
                .unwrap()
                .held
        };
        assert!(scratch("crypt", "253:1"));
        assert!(!scratch("linear", "253:1"));
        assert!(!scratch("crypt", "253:2"));
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("proc/version", "Linux"),
            ("proc/self/maps", "7f00-7f10 r-xp 00000000 00:00 0 [vdso]\n"),
            ("sys/kernel/slab/dentry/aliases", "0\n"),
            ("proc/sys/kernel/kptr_restrict", "2\n"),
            ("sys/kernel/security/lockdown", "none integrity [confidentiality]\n"),
        ] {
            write(&dir, path, text);
        }
        dir
    }

    fn write(dir: &tempfile::TempDir, path: &str, text: &str) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn one_weakness_changes_its_line_and_no_other() {
        assert!(kernel(tree().path()).iter().all(|seen| seen.held));
        assert_eq!(kernel(tree().path()).len(), 5);
        let cases = [
            ("guest-no-swap", "proc/swaps", "Filename\n/dev/vda\n"),
            ("guest-lockdown", "sys/kernel/security/lockdown", "none [integrity] confidentiality\n"),
            ("guest-modules-off", "proc/modules", "x 1 0\n"),
            ("guest-settings", "proc/sys/kernel/yama/ptrace_scope", "0\n"),
            ("guest-kernel-options", "proc/self/maps", "ff00-ff10 --xp 00000000 00:00 0 [vsyscall]\n"),
            ("guest-kernel-options", "sys/kernel/slab/:0000064/aliases", "3\n"),
        ];
        for (item, path, text) in cases {
            let dir = tree();
            write(&dir, path, text);
            let missing: Vec<_> = kernel(dir.path()).into_iter().filter(|seen| !seen.held).map(|seen| seen.item).collect();
            assert_eq!(missing, [item]);
        }
        assert_eq!(kernel(tempfile::tempdir().unwrap().path()), [], "without /proc nothing is seen");
    }

    #[test]
    fn a_workload_with_any_freedom_is_not_confined() {
        let good =
            "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert_eq!(confined(good).map(|seen| seen.held), Some(true));
        for (from, to) in [("NoNewPrivs:\t1", "NoNewPrivs:\t0"), ("Seccomp:\t2", "Seccomp:\t0"), ("CapBnd:\t0", "CapBnd:\t1")] {
            assert_eq!(confined(&good.replace(from, to)).map(|seen| seen.held), Some(false), "{to}");
        }
        assert_eq!(confined(""), None);
    }
}
