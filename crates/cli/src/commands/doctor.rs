//! `casemate doctor`: can this machine be a node, and what is missing?

use std::{borrow::Cow, fs, path::Path};

use anyhow::Context as _;
use casemate_daemon::dedicated::{self, OnFinding};
use serde::Serialize;

use crate::{
    args::{Doctor, Format, Globals},
    exit::Status,
    printer,
};

/// One finding.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    seen: String,
    hint: Cow<'static, str>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// It works, with less protection or slower.
    Weaker,
    /// A node cannot run here.
    Missing,
}

pub(crate) fn run(globals: &Globals, args: Doctor) -> anyhow::Result<Status> {
    let mut findings = vec![root(), programs(), acceleration(), tpm(), cgroup(), swap(), containers(), placement(Path::new("/"))];
    if let Some(policy) = &args.policy {
        findings.extend(dedication(policy)?);
    }
    if globals.json || args.output == Format::Json {
        printer::json(&findings)?;
    } else {
        let row = |f: &Finding| {
            vec![
                format!("{:?}", f.state).to_lowercase(),
                f.what.into(),
                f.seen.clone(),
                if f.state == State::Ok { String::new() } else { f.hint.to_string() },
            ]
        };
        printer::table(&["STATE", "WHAT", "SEEN", "HINT"], &findings.iter().map(row).collect::<Vec<_>>())?;
    }
    Ok(if findings.iter().any(|f| f.state == State::Missing) { Status::Error } else { Status::Ok })
}

/// What the host has that its owner does not want there, a line for each.
fn dedication(policy: &Path) -> anyhow::Result<Vec<Finding>> {
    let policy = dedicated::load(policy)?;
    let facts = dedicated::look(Path::new("/"), &policy).context("look at this host; hint: run it as root")?;
    let state = match policy.on_finding {
        OnFinding::Report => State::Weaker,
        OnFinding::Hold => State::Missing,
    };
    let mut findings: Vec<Finding> = dedicated::judge(&policy, &facts)
        .into_iter()
        .map(|found| Finding {
            what: "dedicated node",
            state,
            seen: printer::clean(&format!("{} {}: {}", found.kind, found.subject, found.detail)),
            hint: printer::clean(&found.hint).into(),
        })
        .collect();
    if findings.is_empty() {
        let seen = "nothing but what the policy allows".to_owned();
        findings.push(Finding { what: "dedicated node", state: State::Ok, seen, hint: "".into() });
    }
    Ok(findings)
}

fn root() -> Finding {
    let uid = rustix::process::geteuid().as_raw();
    let state = if uid == 0 { State::Ok } else { State::Missing };
    Finding { what: "privileges", state, seen: format!("user id {uid}"), hint: "the agent needs root to build jails".into() }
}

fn programs() -> Finding {
    let missing: Vec<&str> = ["qemu-system-x86_64", "swtpm", "swtpm_setup"].into_iter().filter(|name| !in_path(name)).collect();
    let (state, seen) = if missing.is_empty() {
        (State::Ok, "QEMU and swtpm are installed".into())
    } else {
        (State::Missing, format!("missing: {}", missing.join(", ")))
    };
    Finding { what: "programs", state, seen, hint: "apt-get install qemu-system-x86 swtpm swtpm-tools".into() }
}

fn acceleration() -> Finding {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let virtualisation = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    let device = Path::new("/dev/kvm").exists();
    let (state, seen) = match (virtualisation, device) {
        (true, true) => (State::Ok, "KVM with hardware virtualisation".into()),
        (false, true) => (State::Weaker, "/dev/kvm exists, but the CPU shows neither vmx nor svm: TCG will be used".into()),
        (_, false) => (State::Weaker, "no /dev/kvm: TCG will be used".into()),
    };
    Finding { what: "acceleration", state, seen, hint: "emulation is slow; enable virtualisation in the firmware".into() }
}

fn tpm() -> Finding {
    let (state, seen) =
        if Path::new("/dev/tpmrm0").exists() { (State::Ok, "/dev/tpmrm0") } else { (State::Weaker, "no TPM device") };
    Finding {
        what: "node TPM",
        state,
        seen: seen.into(),
        hint: "without one only a simulated TPM can stand in, and every verdict says so".into(),
    }
}

fn cgroup() -> Finding {
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().contains(" - cgroup2 ");
    let supported = fs::read_to_string("/proc/filesystems").unwrap_or_default().contains("cgroup2");
    let (state, seen) = match (mounted, supported) {
        (true, _) => (State::Ok, "cgroup v2 is mounted"),
        (false, true) => (State::Ok, "cgroup v2 is supported; the agent mounts it"),
        (false, false) => (State::Missing, "the kernel has no cgroup v2"),
    };
    Finding { what: "cgroups", state, seen: seen.into(), hint: "boot a kernel with cgroup v2".into() }
}

fn swap() -> Finding {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count().saturating_sub(1);
    let state = if swaps == 0 { State::Ok } else { State::Weaker };
    Finding {
        what: "swap",
        state,
        seen: format!("{swaps} swap areas"),
        hint: "guest memory could reach the disk: swapoff -a, or encrypt the swap".into(),
    }
}

/// Which levels beside `microvm` a node here could offer.
fn containers() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let found: Vec<&str> = ["crun", "runc", "runsc"].into_iter().filter(|name| in_path(name)).collect();
    let level = |names: &[&str]| names.iter().any(|name| found.contains(name));
    let levels = [("container", level(&["crun", "runc"])), ("sandbox", level(&["runsc"]))];
    let missing: Vec<&str> = levels.iter().filter(|(_, has)| !has).map(|(level, _)| *level).collect();
    let (state, seen) = if let Some(problem) = layer_problem(release.trim(), Path::new("/dev/loop-control")) {
        (State::Weaker, format!("{problem}: neither container nor sandbox"))
    } else if missing.is_empty() {
        (State::Ok, format!("container and sandbox by {}", found.join(", ")))
    } else {
        let by = if found.is_empty() { "no runtime is installed".to_owned() } else { format!("found: {}", found.join(", ")) };
        (State::Weaker, format!("not offered: {}; {by}", missing.join(", ")))
    };
    Finding {
        what: "levels",
        state,
        seen,
        hint: "apt-get install crun runsc; modprobe loop erofs overlay; Linux 5.19 or newer; `casemate-agent check` tries it"
            .into(),
    }
}

/// What is known to be missing for image layers. The agent tries to mount one, and has the last word.
fn layer_problem(release: &str, loop_control: &Path) -> Option<String> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0_u32));
    match (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) {
        old if old < (5, 19) => Some(format!("Linux {release} does not map the owners of image layers")),
        old if old < (6, 12) && !loop_control.exists() => {
            Some(format!("Linux {release} needs loop devices for image layers, and there is no {}", loop_control.display()))
        }
        _ => None,
    }
}

/// What `[placement]` of an agent's configuration could ask for here. Nobody needs it.
fn placement(root: &Path) -> Finding {
    let text = |path: &str| fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned());
    let large = match text("sys/kernel/mm/transparent_hugepage/shmem_enabled") {
        None => "no large pages for guests",
        Some(setting) if setting.contains("[deny]") => "large pages for guests are denied",
        Some(_) => "large pages for guests",
    };
    let or_none = |path: &str| text(path).filter(|list| !list.is_empty()).unwrap_or_else(|| "none shown".to_owned());
    let (nodes, online) = (or_none("sys/devices/system/node/has_memory"), or_none("sys/devices/system/cpu/online"));
    Finding {
        what: "placement",
        state: State::Ok,
        seen: format!("{large}; NUMA nodes {nodes}; processors {online}"),
        hint: "[placement] of the agent's configuration; `casemate-agent check` says what it gets".into(),
    }
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_machines_could_lie() {
        let host = tempfile::tempdir().unwrap();
        assert_eq!(placement(host.path()).seen, "no large pages for guests; NUMA nodes none shown; processors none shown");
        let write = |path: &str, text: &str| {
            let path = host.path().join("sys").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("devices/system/node/has_memory", "0-1\n");
        write("devices/system/cpu/online", "0-3,8\n");
        write("kernel/mm/transparent_hugepage/shmem_enabled", "always [never] deny\n");
        assert_eq!(placement(host.path()).seen, "large pages for guests; NUMA nodes 0-1; processors 0-3,8");
        write("kernel/mm/transparent_hugepage/shmem_enabled", "always never [deny]\n");
        assert!(placement(host.path()).seen.starts_with("large pages for guests are denied"));
    }

    #[test]
    fn says_which_kernels_cannot_have_containers() {
        let (there, gone) = (Path::new("/"), Path::new("/nowhere"));
        for old in ["5.15.0-91-generic", "5.18", "4.19", "", "linux"] {
            assert!(layer_problem(old, there).is_some_and(|problem| problem.contains("owners")), "{old}");
        }
        for between in ["5.19.0", "6.1.0-18-amd64", "6.11.99"] {
            assert_eq!(layer_problem(between, there), None);
            assert!(layer_problem(between, gone).is_some_and(|problem| problem.contains("/nowhere")), "{between}");
        }
        for new in ["6.12.0", "6.18.44-fc-v669", "7.0-rc1", "10.1"] {
            assert_eq!(layer_problem(new, gone), None);
        }
    }
}
