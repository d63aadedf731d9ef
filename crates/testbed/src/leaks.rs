//! What is left on this machine: processes, mounts, cgroups. Other tests may run beside this one, so only what carries a mark
//! of the bed (its folders, its instances) counts.

use std::{fs, path::Path};

/// Everything on this machine that carries one of `marks`.
pub(crate) fn leaks(marks: &[String]) -> Vec<String> {
    let all = processes().into_iter().chain(mounts()).chain(cgroups());
    all.filter(|text| marks.iter().any(|mark| text.contains(mark))).collect()
}

/// `process PID COMMAND`, without this one.
fn processes() -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && *name != own)
        .filter_map(|pid| {
            let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|bytes| !bytes.is_empty())?;
            Some(format!("process {pid} {}", String::from_utf8_lossy(&bytes).replace('\0', " ")))
        })
        .collect()
}

fn mounts() -> Vec<String> {
    mount_points("").map(|point| format!("mount {point}")).collect()
}

/// Cgroups below every mounted hierarchy, of both versions.
fn cgroups() -> Vec<String> {
    let mut found = Vec::new();
    for point in mount_points(" - cgroup") {
        walk(Path::new(&point), 6, &mut found);
    }
    found
}

fn mount_points(containing: &str) -> impl Iterator<Item = String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let lines: Vec<String> = table.lines().filter(|line| line.contains(containing)).map(str::to_owned).collect();
    lines.into_iter().filter_map(|line| line.split(' ').nth(4).map(str::to_owned))
}

fn walk(dir: &Path, depth: usize, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(format!("cgroup {}", entry.path().display()));
            walk(&entry.path(), depth - 1, found);
        }
    }
}
