//! Benchmark: the stages of a start, ten times, against the bare boot of the same kernel and initrd in the same run. "First output"
//! is the first byte of the workload's output on the standard output of the tenant's command line.
//!
//! `cargo run --package casemate-testbed --example start [RUNS]`, as root, after `make build`. Prints Markdown.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use anyhow::Context as _;
use casemate_testbed::{Bed, BedOptions, ImageBuilder, guest_os_dir, static_program};
use serde_json::Value;

const PROGRAM: &str = "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n";
/// The first words of the guest's init on the console.
const INIT: &str = "CASEMATE-PHASE";

fn main() -> anyhow::Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(10), |text| text.parse()).context("read the number of runs")?;
    let bed = Bed::start(&BedOptions::default())?;
    ImageBuilder::new().layer(&[("app", &static_program(PROGRAM)?)]).entrypoint(&["/app"]).write(&bed.work().join("image"))?;
    // The first run fills the caches.
    let (mut samples, mut ratios): (BTreeMap<String, Vec<f64>>, _) = (BTreeMap::new(), Vec::new());
    one_run(&bed)?;
    for _ in 0..runs {
        // Interleaved, so that a busy minute of the machine hits both.
        let bare = bare_boot()?;
        let mut stages = one_run(&bed)?;
        stages.push(("bare boot".into(), bare));
        ratios.push(Ratios::of(&stages, bare)?);
        for (stage, ms) in stages {
            samples.entry(stage).or_default().push(ms);
        }
    }
    println!("| stage | median ms | min | max |\n|---|---|---|---|");
    let mut rows: Vec<(String, f64, f64, f64)> = samples
        .into_iter()
        .map(|(stage, mut values)| {
            values.sort_by(f64::total_cmp);
            (stage, values[values.len() / 2], values[0], values[values.len() - 1])
        })
        .collect();
    rows.sort_by(|a, b| a.1.total_cmp(&b.1));
    for (stage, median, min, max) in &rows {
        println!("| {stage} | {median:.0} | {min:.0} | {max:.0} |");
    }
    println!("\nall that is not the guest's boot, in bare boots (each run against the bare boot just before it):\n");
    println!("| reading | median | min | max |\n|---|---|---|---|");
    row("request to first output, less a bare boot", ratios.iter().map(|ratios| ratios.beside_bare));
    row(
        "the same, less the boot in that run, from the VMM's execution to init's first message",
        ratios.iter().map(|r| r.beside_own),
    );
    println!("\nresident memory of the agent: {} KiB", resident_kib(bed.pid("agent")?)?);
    bed.finish();
    Ok(())
}

/// What a start costs beside the guest's boot, in bare boots.
struct Ratios {
    /// The guest's boot taken to be the bare one: a dearer boot counts as cost.
    beside_bare: f64,
    /// The guest's boot as it was in the run; like the bare one it begins with the execution of the VMM.
    beside_own: f64,
}

impl Ratios {
    fn of(stages: &[(String, f64)], bare: f64) -> anyhow::Result<Self> {
        let at = |name: &str| {
            let found = stages.iter().find(|(stage, _)| stage == name);
            found.map(|(_, ms)| *ms).with_context(|| format!("the run has no stage {name:?}"))
        };
        let first = at("tenant: first output")?;
        let own = at("node: booted")? - at("node: executed")?;
        Ok(Self { beside_bare: (first - bare) / bare, beside_own: (first - own) / bare })
    }
}

fn row(name: &str, values: impl Iterator<Item = f64>) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    println!("| {name} | {:.2} | {:.2} | {:.2} |", values[values.len() / 2], values[0], values[values.len() - 1]);
}

/// One run through the command line; milliseconds by stage from the request on.
fn one_run(bed: &Bed) -> anyhow::Result<Vec<(String, f64)>> {
    let args = ["run", "--image", "oci:./image", "--memory-mib", "256", "--scratch-mib", "32", "--json"];
    let start = Instant::now();
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let mut child = bed.casemate_command(&args).spawn().context("start casemate")?;
    let mut output = child.stdout.take().context("stdout is piped")?;
    let mut progress = BufReader::new(child.stderr.take().context("stderr is piped")?);
    let first_output = thread::spawn(move || {
        let read = output.read(&mut [0; 1]).map(|count| (count == 1).then(|| ms(start)));
        // The rest, so that the pipe never fills.
        std::io::copy(&mut output, &mut std::io::sink()).and(read)
    });
    let mut stderr = String::new();
    progress.read_to_string(&mut stderr)?;
    let status = child.wait()?;
    let whole = ms(start);
    anyhow::ensure!(status.success(), "{stderr}");
    let first_output = first_output.join().expect("reading does not panic")?.context("the workload printed nothing")?;
    let instance = stderr.lines().find(|line| line.contains(" instance ")).and_then(|line| line.split_whitespace().last());
    let inspect = bed.casemate(&["inspect", instance.context("progress names the instance")?, "--json"]);
    let inspect: Value = serde_json::from_str(&inspect.stdout)?;
    let stages = inspect["stages_ms"].as_object().context("an instance has stages")?;
    let mut out: Vec<(String, f64)> =
        stages.iter().filter_map(|(stage, ms)| Some((format!("node: {stage}"), ms.as_f64()?))).collect();
    out.push(("tenant: first output".into(), first_output));
    out.push(("tenant: whole run".into(), whole));
    // Progress lines carry the seconds since the command's start.
    for (mark, name) in [
        ("ok instance", "tenant: requested"),
        ("ok booted", "tenant: booted"),
        ("ok attested", "tenant: platform's verdict"),
        ("ok keys", "tenant: own verdict, keys sealed"),
        ("ok keyed", "tenant: keyed"),
        ("ok exit", "tenant: exit"),
        ("ok wiped", "tenant: wiped"),
    ] {
        let line = stderr.lines().find(|line| line.contains(mark));
        let seconds = line.and_then(|line| line.trim_start().split('s').next()?.parse::<f64>().ok());
        out.extend(seconds.map(|seconds| (name.to_owned(), seconds * 1e3)));
    }
    Ok(out)
}

/// Kernel and initrd with a plain QEMU command: from exec to the first word of init.
fn bare_boot() -> anyhow::Result<f64> {
    let dir = guest_os_dir();
    let manifest: Value = serde_json::from_slice(&fs::read(dir.join("guest-os.json"))?)?;
    let line = manifest["command_lines"]["tcg"]
        .as_str()
        .context("guest-os.json has a command line for tcg")?
        .replace("{tsc_khz}", &tsc_khz()?.to_string());
    // Without a TPM the forced probe costs 0.75 s that the product's boot does not have.
    let line = line.replace("tpm_tis.force=1 ", "");
    let start = Instant::now();
    let mut child = Command::new("qemu-system-x86_64")
        .args([
            "-M",
            "microvm,pit=off,pic=off,rtc=on",
            "-accel",
            "tcg,thread=multi,tb-size=256",
            "-cpu",
            "max,-avx2",
            "-m",
            "256",
            "-smp",
            "1",
        ])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot", "-append", &line])
        .arg("-kernel")
        .arg(dir.join("vmlinux"))
        .arg("-initrd")
        .arg(dir.join("initrd.cpio"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("start qemu-system-x86_64")?;
    let output = BufReader::new(child.stdout.take().context("stdout is piped")?);
    let seen = output.lines().map_while(Result::ok).any(|line| line.contains(INIT));
    let elapsed = start.elapsed().as_secs_f64() * 1e3;
    child.kill()?;
    child.wait()?;
    anyhow::ensure!(seen, "the bare boot never reached init");
    Ok(elapsed)
}

fn tsc_khz() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let mhz = text
        .lines()
        .find_map(|line| line.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse::<f64>().ok())
        .context("find the CPU's frequency")?;
    Ok((mhz * 1e3).round().abs() as u64)
}

fn resident_kib(pid: i32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
