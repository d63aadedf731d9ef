//! What is left on this machine: processes, mounts, cgroups, loop devices, network namespaces.

use std::{collections::BTreeSet, fs, path::Path};

/// A look at the machine, to compare with a later one.
#[derive(Debug, Clone)]
pub struct Leaks {
    before: BTreeSet<String>,
}

impl Leaks {
    /// Looks now.
    pub fn look() -> Self {
        Self { before: cgroups().chain(namespaces()).collect() }
    }

    /// Everything new that carries one of `marks`, and every new cgroup or network namespace.
    pub fn since(&self, marks: &[String]) -> Vec<String> {
        let marked = processes().into_iter().chain(mounts()).filter(|text| marks.iter().any(|mark| text.contains(mark)));
        marked.chain(self.new_kernel_objects()).collect()
    }

    /// The same without what platform and node themselves have while they run.
    pub fn instances_since(&self, marks: &[String]) -> Vec<String> {
        let of_instance =
            |text: &String| text.contains("qemu-system") || text.contains("/i-") || text.contains("casemate-agent jail");
        let marked = processes().into_iter().chain(mounts()).filter(|text| marks.iter().any(|mark| text.contains(mark)));
        marked.filter(of_instance).chain(self.new_kernel_objects().filter(of_instance)).collect()
    }

    fn new_kernel_objects(&self) -> impl Iterator<Item = String> + '_ {
        cgroups().chain(namespaces()).filter(|text| !self.before.contains(text))
    }
}

/// `process PID COMMAND`, without this one.
fn processes() -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && *name != own);
    pids.filter_map(|pid| {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|bytes| !bytes.is_empty())?;
        Some(format!("process {pid} {}", String::from_utf8_lossy(&bytes).replace('\0', " ")))
    })
    .collect()
}

fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().map(|line| format!("mount {}", line.split(' ').nth(4).unwrap_or_default())).collect()
}

/// Cgroups of the product below every mounted cgroup v2 hierarchy.
fn cgroups() -> impl Iterator<Item = String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = Vec::new();
    for line in table.lines().filter(|line| line.contains(" - cgroup2 ")) {
        walk(Path::new(line.split(' ').nth(4).unwrap_or_default()), 6, &mut found);
    }
    found.into_iter().filter(|path| path.contains("casemate") || path.contains("/i-")).map(|path| format!("cgroup {path}"))
}

fn walk(dir: &Path, depth: usize, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path().display().to_string());
            walk(&entry.path(), depth - 1, found);
        }
    }
}

fn namespaces() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.map(|entry| format!("netns {}", entry.file_name().to_string_lossy()))
}
