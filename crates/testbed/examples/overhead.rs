//! Measurement: what one instance of each level costs in memory beside what its workload was given.
//!
//! `cargo run --package casemate-testbed --example overhead [INSTANCES]`, as root, after `make build`. Prints Markdown.
//!
//! Proportional set sizes (a page that n processes share counts for 1/n) of everything in the instances' control groups, less the
//! guest's memory; and how much the agent grew, once all of them run. Memory of the kernel itself is not in it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Child,
};

use anyhow::Context as _;
use casemate_testbed::{Bed, BedOptions, ImageBuilder, static_program};

/// Says that it runs, then waits to be stopped.
const PROGRAM: &str = "#include <stdio.h>\n#include <unistd.h>\nint main(void) { puts(\"hello\"); fflush(stdout); pause(); }\n";
const LEVELS: [&str; 3] = ["container", "sandbox", "microvm"];

fn main() -> anyhow::Result<()> {
    let instances: u64 = std::env::args().nth(1).map_or(Ok(3), |text| text.parse()).context("read the number of instances")?;
    println!("{instances} instances of each level side by side\n");
    println!("| level | process | PSS of one instance, KiB |\n|---|---|---|");
    for level in LEVELS {
        let bed = Bed::start(&BedOptions::default())?;
        ImageBuilder::new()
            .layer(&[("app", &static_program(PROGRAM)?)])
            .entrypoint(&["/app"])
            .write(&bed.work().join("image"))?;
        // The first one fills the agent's caches, and is its own growth no more.
        let (first, mut child) = start(&bed, level)?;
        bed.casemate(&["stop", &first]).expect_code(0);
        child.wait()?;
        measure(&bed, level, instances)?;
        bed.finish();
    }
    Ok(())
}

fn measure(bed: &Bed, level: &str, instances: u64) -> anyhow::Result<()> {
    let before = Memory::of(bed.pid("agent")?)?;
    let mut running = Vec::new();
    for _ in 0..instances {
        running.push(start(bed, level)?);
    }
    let after = Memory::of(bed.pid("agent")?)?;
    let (mut parts, mut guests): (BTreeMap<String, u64>, u64) = (BTreeMap::new(), 0);
    for (instance, _) in &running {
        for (name, memory) in processes(instance)? {
            *parts.entry(name).or_default() += memory.own_kib;
            guests += memory.guest_kib;
        }
    }
    let agent = after.own_kib.saturating_sub(before.own_kib);
    let all = parts.values().sum::<u64>() + agent;
    for (name, kib) in &parts {
        println!("| {level} | {name} | {} |", kib / instances);
    }
    println!("| {level} | the agent's growth | {} |", agent / instances);
    println!("| {level} | **all of it** | **{}** |", all / instances);
    println!("| {level} | beside it: memory of the guest that it has touched | {} |", guests / instances);
    for (instance, mut child) in running {
        bed.casemate(&["stop", &instance]).expect_code(0);
        child.wait()?;
    }
    Ok(())
}

/// One instance whose workload runs, and the command that follows it.
fn start(bed: &Bed, level: &str) -> anyhow::Result<(String, Child)> {
    let args = ["run", "--isolation", level, "--image", "oci:./image", "--memory-mib", "256", "--scratch-mib", "32"];
    let mut child = bed.casemate_command(&args).spawn().context("start casemate")?;
    let mut progress = BufReader::new(child.stderr.take().context("stderr is piped")?);
    let (mut seen, mut instance, mut line) = (String::new(), None, String::new());
    while progress.read_line(&mut line)? > 0 {
        if line.contains("ok instance") {
            instance = line.split_whitespace().last().map(str::to_owned);
        }
        if line.contains("ok running") {
            // The rest, so that the pipe never fills.
            std::thread::spawn(move || std::io::copy(&mut progress, &mut std::io::sink()));
            return Ok((instance.context("progress names the instance")?, child));
        }
        seen.push_str(&line);
        line.clear();
    }
    anyhow::bail!("the workload never ran: {seen}")
}

/// What the instance's control group holds.
fn processes(instance: &str) -> anyhow::Result<Vec<(String, Memory)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        if !fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default().contains(instance) {
            continue;
        }
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let program = String::from_utf8_lossy(command.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
        let name = Path::new(&program).file_name().map(|name| name.to_string_lossy().into_owned());
        found.push((name.unwrap_or_else(|| "?".to_owned()), Memory::of(pid)?));
    }
    anyhow::ensure!(!found.is_empty(), "no process is in the group of {instance}");
    Ok(found)
}

/// Proportional set size of a process.
struct Memory {
    own_kib: u64,
    guest_kib: u64,
}

impl Memory {
    fn of(pid: i32) -> anyhow::Result<Self> {
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).with_context(|| format!("read the mappings of {pid}"))?;
        let (mut of_guest, mut sum) = (false, Self { own_kib: 0, guest_kib: 0 });
        for line in maps.lines() {
            if let Some(size) = line.strip_prefix("Pss:") {
                let kib: u64 = size.trim().trim_end_matches(" kB").parse().context("read a size")?;
                *(if of_guest { &mut sum.guest_kib } else { &mut sum.own_kib }) += kib;
            } else if line.split(' ').next().is_some_and(|addresses| addresses.contains('-')) {
                of_guest = line.ends_with("/ram");
            }
        }
        Ok(sum)
    }
}
