//! A host's share of one test, and whether anything is left of it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use sha2::{Digest, Sha256};

/// The jail helper.
pub(crate) const JAIL: &str = env!("CARGO_BIN_EXE_casemate-jail-test");

#[derive(Clone)]
pub(crate) struct Places {
    pub(crate) state: PathBuf,
    pub(crate) run: PathBuf,
    pub(crate) uid_base: u32,
    pub(crate) directory: Arc<tempfile::TempDir>,
}

impl Places {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let uid_base = 2_000_000 + (std::process::id() % 4096) * 4096 + NEXT.fetch_add(1, Ordering::Relaxed) * 16;
        Self { state: directory.path().join("state"), run: directory.path().join("run"), uid_base, directory }
    }

    /// Files, mounts, cgroups, processes.
    pub(crate) fn assert_nothing_left(&self) {
        for directory in [self.state.join("instances"), self.run.join("instances"), self.run.join("ram")] {
            let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(left, Vec::<PathBuf>::new());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.run.to_str().unwrap()), "{mounts}");
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        assert_eq!(self.processes(), Vec::<String>::new());
    }

    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let tag = hex::encode(&Sha256::digest(self.state.as_os_str().as_encoded_bytes())[..4]);
        let name = format!("casemate-{tag}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
        points.flat_map(|point| find(Path::new(point), &name, 6)).collect()
    }

    pub(crate) fn processes(&self) -> Vec<String> {
        let range = self.uid_base..self.uid_base + 16;
        let statuses =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
        // What outlived its agent is reaped by the host's first process, in its own time.
        let is_left = |status: &String| !(field(status, "State").starts_with('Z') && field(status, "PPid") == "1");
        statuses
            .filter(is_left)
            .filter(|status| field(status, "Uid").split_whitespace().any(|uid| uid.parse().is_ok_and(|uid| range.contains(&uid))))
            .collect()
    }
}

/// What guests and monitors said last, before it is wiped.
pub(crate) fn tell_consoles(state: &Path) {
    for instance in fs::read_dir(state.join("instances")).into_iter().flatten().flatten() {
        let log = fs::read(instance.path().join("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("    {} said last:", instance.file_name().display());
        for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
            eprintln!("    | {}", line.chars().filter(|c| !c.is_control()).collect::<String>());
        }
    }
}

/// Of a console.
const LAST_LINES: usize = 30;

pub(crate) fn find(directory: &Path, name: &str, depth: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path());
    directories
        .flat_map(|path| {
            let mut found = if depth > 0 { find(&path, name, depth - 1) } else { Vec::new() };
            found.extend(path.ends_with(name).then_some(path));
            found
        })
        .collect()
}

pub(crate) fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim()
}
