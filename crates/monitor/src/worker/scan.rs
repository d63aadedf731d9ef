//! What was there before the monitor: descriptors of guarded things in other hands, programs and probes of others, modules, a kernel that waits;
//! and the layer below: settings of the kernel that no program of ours is needed for.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use libbpf_rs::query::ProgInfoIter;
use serde_json::{Map, Value, json};

use super::Worker;
use crate::{
    config::OnFindings,
    devices,
    kernel::{
        layout::{Role, guard, kernel_device},
        maps::process,
    },
};

/// More than this is a number.
const MAX_FINDINGS: usize = 64;
/// What a descriptor for reading is too much for already.
const NOT_EVEN_READ: u32 = guard::MEMORY | guard::READ | guard::ENTER;

/// A file, by device and inode number.
pub(super) type Place = (u64, u64);

/// Where an open file lies.
pub(super) fn place(file: &File) -> io::Result<Place> {
    let about = file.metadata()?;
    Ok((about.dev(), about.ino()))
}

/// Where a setting of the kernel is.
pub(super) fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// Settings of the static layer, by where they are.
const LAYER: [(&str, &str); 9] = [
    ("lockdown", "/sys/kernel/security/lockdown"),
    ("kernel.modules_disabled", "/proc/sys/kernel/modules_disabled"),
    ("kernel.kexec_load_disabled", "/proc/sys/kernel/kexec_load_disabled"),
    ("kernel.yama.ptrace_scope", "/proc/sys/kernel/yama/ptrace_scope"),
    ("kernel.unprivileged_bpf_disabled", "/proc/sys/kernel/unprivileged_bpf_disabled"),
    ("kernel.ftrace_enabled", "/proc/sys/kernel/ftrace_enabled"),
    ("kernel.perf_event_paranoid", "/proc/sys/kernel/perf_event_paranoid"),
    ("kernel.sysrq", "/proc/sys/kernel/sysrq"),
    ("ksm", "/sys/kernel/mm/ksm/run"),
];

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    listed: Vec<Value>,
    beyond: usize,
}

impl Found {
    fn add(&mut self, what: Value) {
        if self.listed.len() < MAX_FINDINGS {
            self.listed.push(what);
        } else {
            self.beyond += 1;
        }
    }

    fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// For status and record.
    pub(super) fn json(&self) -> Value {
        json!({"findings": self.listed, "beyond": self.beyond})
    }
}

/// How the kernel is set; null for what it does not have.
pub(super) fn layer() -> Value {
    let read = |path: &str| fs::read_to_string(path).map_or(Value::Null, |text| chosen(text.trim()).into());
    let mut values: Map<String, Value> = LAYER.iter().map(|(name, path)| ((*name).to_owned(), read(path))).collect();
    // Its first line is a heading.
    let swaps = fs::read_to_string("/proc/swaps").map_or(Value::Null, |text| text.lines().skip(1).count().into());
    values.insert("swaps".to_owned(), swaps);
    Value::Object(values)
}

/// Of several words the one in brackets.
fn chosen(text: &str) -> &str {
    text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or(text, |(word, _)| word)
}

impl Worker {
    /// After the seal, before any work: what is found cannot grow any more.
    pub(super) fn scan(&mut self) -> Result<()> {
        if self.look()? || self.config.scan == OnFindings::State {
            return Ok(());
        }
        // Nothing depends on the programs yet: they go, so that a start can be tried again.
        self.set_sealed(false)?;
        if self.refuses() {
            self.sensors.unpin()?;
        }
        bail!("accept work: others hold what is guarded (hint: the record lists it; end them, or set scan = \"state\")")
    }

    /// Whether nothing is found; what is found is on record.
    pub(super) fn look(&mut self) -> Result<bool> {
        let mut found = Found::default();
        let characters = devices::numbers(&self.config.devices).context("read the kernel's lists of devices")?;
        self.descriptors(&self.guarded, &characters, &mut found).context("look for open descriptors")?;
        self.programs(&mut found);
        self.modules(&mut found)?;
        probes(&mut found);
        if fs::read_to_string("/sys/kernel/kexec_loaded").is_ok_and(|text| text.trim() == "1") {
            found.add(json!({"kind": "kernel"}));
        }
        if fs::read_to_string("/proc/sys/kernel/ftrace_enabled").is_ok_and(|text| text.trim() == "0") {
            found.add(json!({"kind": "setting", "name": "kernel.ftrace_enabled"}));
        }
        let empty = found.is_empty();
        self.found = found;
        if !empty {
            self.record([json!({"kind": "found", "scan": self.found.json()})])?;
        }
        Ok(empty)
    }

    /// The same for what an instance brings with it.
    pub(super) fn scan_instance(&mut self, name: &str, places: &BTreeMap<Place, u32>) -> Result<()> {
        let mut found = Found::default();
        self.descriptors(places, &[], &mut found).context("look for open descriptors")?;
        if found.is_empty() {
            return Ok(());
        }
        if self.config.scan == OnFindings::Refuse {
            bail!("others hold what is its own: {}", found.json());
        }
        self.record([json!({"kind": "found", "instance": name, "scan": found.json()})])
    }

    /// Descriptors of labelled files and guarded devices in processes that have no label.
    fn descriptors(&self, places: &BTreeMap<Place, u32>, characters: &[u32], found: &mut Found) -> Result<()> {
        let guarded = |about: &Metadata, writes: &dyn Fn() -> bool| {
            if about.file_type().is_char_device() {
                let number = kernel_device(about.rdev());
                return characters.iter().any(|one| *one == number || *one == number | devices::ALL_MINORS);
            }
            let bits = places.get(&(about.dev(), about.ino())).copied().unwrap_or(0);
            bits & NOT_EVEN_READ != 0 || bits & guard::WRITE != 0 && writes()
        };
        for entry in fs::read_dir("/proc").context("list the processes")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let Ok(handle) = process(pid) else { continue };
            if self.sensors.label_of_process(&handle)?.is_some_and(|label| label.role != Role::Stranger) {
                continue;
            }
            // It may end while it is looked at.
            let Ok(entries) = fs::read_dir(entry.path().join("fd")) else { continue };
            for descriptor in entries.flatten() {
                let Ok(about) = fs::metadata(descriptor.path()) else { continue };
                if guarded(&about, &|| writes(&entry.path(), &descriptor.file_name()).unwrap_or(true)) {
                    found.add(held(pid, &descriptor.path()));
                }
            }
        }
        Ok(())
    }

    /// Programs of a kind that nobody may load from now on.
    fn programs(&self, found: &mut Found) {
        let left = self.config.foreign_bpf();
        for program in ProgInfoIter::default() {
            let kind = program.ty as u32;
            if !self.sensors.is_own_program(program.id) && left & 1_u64.checked_shl(kind).unwrap_or(0) == 0 {
                found.add(json!({"kind": "bpf", "id": program.id, "type": kind, "name": program.name.to_string_lossy()}));
            }
        }
    }

    /// Modules that are not on the list, where there is one.
    fn modules(&self, found: &mut Found) -> Result<()> {
        let Some(known) = &self.config.modules else { return Ok(()) };
        // A kernel without modules has no such list.
        let loaded = fs::read_to_string("/proc/modules").unwrap_or_default();
        for name in loaded.lines().filter_map(|line| line.split(' ').next()) {
            if !known.iter().any(|one| one.replace('-', "_") == name) {
                found.add(json!({"kind": "module", "name": name}));
            }
        }
        Ok(())
    }
}

/// Whether a descriptor is open for writing.
fn writes(process: &Path, descriptor: &std::ffi::OsStr) -> io::Result<bool> {
    let text = fs::read_to_string(process.join("fdinfo").join(descriptor))?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
    let flags = flags.and_then(|flags| u32::from_str_radix(flags, 8).ok()).unwrap_or(libc::O_RDWR.unsigned_abs());
    Ok(flags & libc::O_ACCMODE.unsigned_abs() != libc::O_RDONLY.unsigned_abs())
}

fn held(pid: u32, descriptor: &Path) -> Value {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let of = fs::read_link(descriptor).map(|path| path.display().to_string()).unwrap_or_default();
    json!({"kind": "descriptor", "pid": pid, "comm": comm.trim(), "of": of})
}

/// Probes that were set by text. Where that file system is mounted nowhere usual, nothing is said about them.
fn probes(found: &mut Found) {
    for name in ["kprobe_events", "uprobe_events"] {
        let texts =
            ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].map(|folder| fs::read_to_string(Path::new(folder).join(name)));
        let lines = texts.into_iter().flatten().map(|text| text.lines().count()).max().unwrap_or(0);
        if lines > 0 {
            found.add(json!({"kind": "probe", "of": name, "count": lines}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_stands_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality"), "integrity");
        assert_eq!(chosen("2"), "2");
        assert_eq!(chosen("[["), "[[");
    }

    #[test]
    fn a_list_of_findings_has_an_end() {
        let mut found = Found::default();
        (0..100).for_each(|number| found.add(json!(number)));
        assert_eq!((found.json()["findings"].as_array().unwrap().len(), &found.json()["beyond"]), (MAX_FINDINGS, &json!(36)));
    }
}
