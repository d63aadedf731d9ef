//! Whether a machine is dedicated to being a node: what runs, listens and is loaded on it, against a policy of its owner.
//!
//! It finds what was forgotten: the database of last year, a debug port, a driver that did not bind. Whoever is root can
//! make any of this look right; against him there are the monitor and the node's attestation.

mod host;
mod policy;

pub use host::{Device, Facts, Program, Socket, look};
pub use policy::{Limit, OnFinding, Policy, PolicyError, load};

use serde::Serialize;

/// Something that the policy does not want.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// What it is a matter of: `program`, `socket`, `parameter`, `module`, `command-line`, `device`.
    pub kind: &'static str,
    /// What was found, in a word or two: a path, `tcp 0.0.0.0:5432`, `kernel.kptr_restrict`.
    pub subject: String,
    /// What is wrong with it.
    pub detail: String,
    /// What the owner can do.
    pub hint: String,
}

/// Everything that the policy does not want, sorted, each once; empty: the machine is what its owner says. Pure.
pub fn judge(policy: &Policy, facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = [
        programs(policy, facts),
        sockets(policy, facts),
        parameters(policy, facts),
        modules(policy, facts),
        command_line(policy, facts),
        devices(policy, facts),
    ]
    .into_iter()
    .flatten()
    .collect();
    findings.sort();
    findings.dedup();
    findings
}

fn programs(policy: &Policy, facts: &Facts) -> Vec<Finding> {
    let Some(list) = &policy.programs else { return Vec::new() };
    let strangers = facts.programs.iter().filter(|program| !list.permits(&program.path));
    strangers
        .map(|Program { path, pid }| Finding {
            kind: "program",
            subject: path.clone(),
            detail: format!("it runs (process {pid})"),
            hint: match path.strip_suffix(DELETED) {
                Some(path) if !path.starts_with(MEMORY) => "its file was replaced: restart it".to_owned(),
                _ => format!("end and disable it (systemctl status {pid}), or add it to [programs] allowed"),
            },
        })
        // One of each program is enough.
        .fold(Vec::new(), |mut seen: Vec<Finding>, finding| {
            if !seen.iter().any(|known| known.subject == finding.subject) {
                seen.push(finding);
            }
            seen
        })
}

fn sockets(policy: &Policy, facts: &Facts) -> Vec<Finding> {
    let Some(list) = &policy.sockets else { return Vec::new() };
    let strangers = facts.sockets.iter().filter(|socket| !list.permits(&socket.name()) && !is_loopback(list, socket));
    strangers
        .map(|socket| Finding {
            kind: "socket",
            subject: format!("{} {}", socket.protocol, socket.address),
            detail: "it takes what comes from the network".to_owned(),
            hint: format!("end what listens there (ss -tulpn), or add {:?} to [sockets] allowed", socket.name()),
        })
        .collect()
}

/// `loopback` stands for all that only the machine itself reaches.
fn is_loopback(list: &Limit, socket: &Socket) -> bool {
    socket.address.ip().to_canonical().is_loopback() && list.permits("loopback")
}

fn parameters(policy: &Policy, facts: &Facts) -> Vec<Finding> {
    let wrong = policy.parameters.iter().filter_map(|(name, wanted)| {
        let seen = facts.parameters.get(name);
        let is_wanted = seen.is_some_and(|seen| wanted.iter().any(|wanted| wanted == seen));
        (!is_wanted).then(|| Finding {
            kind: "parameter",
            subject: name.clone(),
            detail: match seen {
                Some(seen) => format!("it is {seen:?}"),
                None => "this kernel does not have it".to_owned(),
            },
            hint: match seen {
                Some(_) => format!("set it to {} in /etc/sysctl.d", wanted.join(" or ")),
                None => "boot a kernel that has it, or take it from [parameters]".to_owned(),
            },
        })
    });
    wrong.collect()
}

fn modules(policy: &Policy, facts: &Facts) -> Vec<Finding> {
    let Some(list) = &policy.modules else { return Vec::new() };
    let strangers = facts.modules.iter().filter(|name| !list.permits(name));
    strangers
        .map(|name| Finding {
            kind: "module",
            subject: name.clone(),
            detail: "it is loaded".to_owned(),
            hint: format!(
                "keep it out (\"install {name} /bin/false\" in /etc/modprobe.d) and boot, or add it to [modules] allowed"
            ),
        })
        .collect()
}

fn command_line(policy: &Policy, facts: &Facts) -> Vec<Finding> {
    let finding = |word: &String, detail: &str, hint: &str| Finding {
        kind: "command-line",
        subject: word.clone(),
        detail: detail.to_owned(),
        hint: hint.to_owned(),
    };
    let has = |word: &String| facts.command_line.contains(word);
    let missing = policy.command_line.required.iter().filter(|word| !has(word));
    let unwanted = policy.command_line.forbidden.iter().filter(|word| has(word));
    missing
        .map(|word| {
            finding(word, "the kernel was booted without it", "add it to the boot loader's kernel command line, and boot")
        })
        .chain(unwanted.map(|word| {
            finding(word, "the kernel was booted with it", "take it from the boot loader's kernel command line, and boot")
        }))
        .collect()
}

fn devices(policy: &Policy, facts: &Facts) -> Vec<Finding> {
    let wrong = facts.devices.iter().flat_map(|device| {
        let rules = policy.devices.iter().filter(|rule| rule.is_of(&device.id));
        rules.filter(|rule| !rule.drivers.contains(&device.driver)).map(|rule| Finding {
            kind: "device",
            subject: format!("{} ({})", device.address, device.id),
            detail: match device.driver.as_str() {
                "" => "no driver has it".to_owned(),
                driver => format!("the driver {driver} has it"),
            },
            hint: format!("bind it to {}", rule.drivers.join(" or ")),
        })
    });
    wrong.collect()
}

/// As the kernel ends the name of a program whose file is not there any more.
const DELETED: &str = " (deleted)";

/// As the kernel begins the name of a program that never had a file.
const MEMORY: &str = "/memfd:";

#[cfg(test)]
mod tests;
