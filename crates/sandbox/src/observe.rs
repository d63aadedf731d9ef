//! The jail around a running VMM, seen from outside: /proc of every thread, and the cgroup.

use std::{fs, io, path::Path};

use crate::{CpuRange, DriverError, JailReport, cgroup::Group, error::Context, process::Status};

/// Looks, and refuses when something does not hold.
pub(crate) fn observe(pid: i32, user: u32, group: &Group) -> Result<JailReport, DriverError> {
    let threads = threads(pid).context("read the threads of process", Path::new(&format!("/proc/{pid}/task")))?;
    let namespaces = differing_namespaces(pid)?;
    let cgroup = group.holds(pid);
    let report = report(&threads, namespaces, cgroup.is_ok());
    check(&report, &threads, user, cgroup)?;
    Ok(report)
}

/// Looks at a container's process, whose users are a range of their own: what it may do there it may not do on the host.
pub(crate) fn observe_container(pid: i32, users: std::ops::Range<u32>, group: &Group) -> Result<JailReport, DriverError> {
    let threads = threads(pid).context("read the threads of process", Path::new(&format!("/proc/{pid}/task")))?;
    let mut namespaces = differing_namespaces(pid)?;
    let user = differs(pid, "user")?;
    if user {
        namespaces.push("user".to_owned());
        namespaces.sort();
    }
    let cgroup = group.holds(pid);
    let report = report(&threads, namespaces, cgroup.is_ok());
    let refuse = |check: &'static str, detail: String| Err(DriverError::Jail { check, detail });
    if let Some(thread) = threads.iter().find(|thread| thread.users().iter().any(|id| !users.contains(id))) {
        return refuse("uid", format!("a thread has users {:?}, not of {users:?}", thread.users()));
    }
    if !user {
        return refuse("namespaces", "it has no user namespace of its own".to_owned());
    }
    hold(&report, "user", cgroup)?;
    Ok(report)
}

/// Refuses where a thread may run on other processors of the host than these.
pub(crate) fn processors(pid: i32, cpus: CpuRange) -> Result<(), DriverError> {
    let threads = threads(pid).context("read the threads of process", Path::new(&format!("/proc/{pid}/task")))?;
    on_processors(&threads, cpus)
}

fn on_processors(threads: &[Status], cpus: CpuRange) -> Result<(), DriverError> {
    let wanted = cpus.list();
    match threads.iter().find(|thread| thread.field("Cpus_allowed_list") != Some(wanted.as_str())) {
        None => Ok(()),
        Some(thread) => {
            let seen = thread.field("Cpus_allowed_list").unwrap_or("unknown");
            Err(DriverError::Jail { check: "processors", detail: format!("a thread is on {seen} instead of {wanted}") })
        }
    }
}

/// Status of every thread; a thread that ended meanwhile is left out.
fn threads(pid: i32) -> io::Result<Vec<Status>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(entry?.path().join("status")) {
            Ok(text) => found.push(Status::parse(text)),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) || error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if found.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(found) }
}

fn differing_namespaces(pid: i32) -> Result<Vec<String>, DriverError> {
    let mut differing = Vec::new();
    for name in NAMESPACES {
        if differs(pid, name)? {
            differing.push(name.to_owned());
        }
    }
    Ok(differing)
}

fn differs(pid: i32, namespace: &str) -> Result<bool, DriverError> {
    let read = |who: &str| {
        let path = format!("/proc/{who}/ns/{namespace}");
        fs::read_link(&path).context("read the namespace", Path::new(&path))
    };
    Ok(read("self")? != read(&pid.to_string())?)
}

fn report(threads: &[Status], namespaces: Vec<String>, cgroup: bool) -> JailReport {
    let all = |field: &str, value: &str| threads.iter().all(|thread| thread.field(field) == Some(value));
    JailReport {
        uid: threads.first().and_then(|thread| thread.users().first().copied()).unwrap_or_default(),
        no_new_privs: all("NoNewPrivs", "1"),
        seccomp: all("Seccomp", "2"),
        capabilities: threads
            .iter()
            .map(|thread| capability(thread, "CapEff") | capability(thread, "CapPrm"))
            .fold(0, |a, b| a | b),
        namespaces,
        cgroup,
    }
}

/// What is not readable counts as held.
fn capability(thread: &Status, field: &str) -> u64 {
    thread.field(field).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(u64::MAX)
}

fn check(report: &JailReport, threads: &[Status], user: u32, cgroup: Result<(), String>) -> Result<(), DriverError> {
    let refuse = |check: &'static str, detail: String| Err(DriverError::Jail { check, detail });
    if let Some(thread) = threads.iter().find(|thread| thread.users() != [user; 4]) {
        return refuse("uid", format!("a thread has users {:?} instead of {user}", thread.users()));
    }
    if report.capabilities != 0 {
        return refuse("capabilities", format!("a thread has capabilities {:#x}", report.capabilities));
    }
    hold(report, "", cgroup)
}

/// What holds at every level; `beside` is a namespace that is there beside the others.
fn hold(report: &JailReport, beside: &str, cgroup: Result<(), String>) -> Result<(), DriverError> {
    let refuse = |check: &'static str, detail: String| Err(DriverError::Jail { check, detail });
    if !report.no_new_privs {
        return refuse("no-new-privs", "a thread may gain privileges".to_owned());
    }
    if !report.seccomp {
        return refuse("seccomp", "a thread has no system call filter".to_owned());
    }
    if !report.namespaces.iter().filter(|name| *name != beside).eq(NAMESPACES.iter()) {
        return refuse("namespaces", format!("only {} differ from ours", report.namespaces.join(" ")));
    }
    cgroup.or_else(|detail| refuse("cgroup", detail))
}

/// Sorted.
const NAMESPACES: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(user: u32, privileges: u8, seccomp: u8, capabilities: u64) -> Status {
        Status::parse(format!(
            "Name:\tq\nUid:\t{user}\t{user}\t{user}\t{user}\nCapPrm:\t{capabilities:016x}\nCapEff:\t{capabilities:016x}\n\
             NoNewPrivs:\t{privileges}\nSeccomp:\t{seccomp}\n"
        ))
    }

    fn refusal(threads: &[Status], namespaces: &[&str]) -> Option<&'static str> {
        let report = report(threads, namespaces.iter().map(|name| (*name).to_owned()).collect(), true);
        match check(&report, threads, 7, Ok(())) {
            Err(DriverError::Jail { check, .. }) => Some(check),
            _ => None,
        }
    }

    #[test]
    fn one_thread_elsewhere_is_noticed() {
        let on = |list: &str| Status::parse(format!("Cpus_allowed_list:\t{list}\n"));
        let cpus = |first, count| CpuRange { first, count };
        assert!(on_processors(&[on("2-5"), on("2-5")], cpus(2, 4)).is_ok());
        assert!(on_processors(&[on("7")], cpus(7, 1)).is_ok());
        assert!(on_processors(&[on("2-5"), on("0-7")], cpus(2, 4)).is_err());
        assert!(on_processors(&[Status::parse(String::new())], cpus(7, 1)).is_err());
    }

    #[test]
    fn one_free_thread_breaks_the_jail() {
        let good = || thread(7, 1, 2, 0);
        assert_eq!(refusal(&[good(), good()], &NAMESPACES), None);
        assert_eq!(refusal(&[good(), thread(0, 1, 2, 0)], &NAMESPACES), Some("uid"));
        assert_eq!(refusal(&[good(), thread(7, 0, 2, 0)], &NAMESPACES), Some("no-new-privs"));
        assert_eq!(refusal(&[good(), thread(7, 1, 0, 0)], &NAMESPACES), Some("seccomp"));
        assert_eq!(refusal(&[good(), thread(7, 1, 2, 1 << 21)], &NAMESPACES), Some("capabilities"));
        assert_eq!(refusal(&[good()], &["ipc", "mnt"]), Some("namespaces"));
        assert_eq!(refusal(&[Status::parse(String::new())], &NAMESPACES), Some("uid"));
    }
}
