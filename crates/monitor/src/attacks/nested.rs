//! A real virtual machine as the instance: QEMU inside the emulated node, with the arguments that the agent gives a micro VM, as far as they do
//! not need a guest OS. The guest is one page of code, which writes a word into its memory and rests.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::FileExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    agent::Ask,
    deaths::gone,
    drills::{records, say},
    node::{Node, until},
    sys,
};

/// The program, where this kernel's node has one.
pub(crate) const VMM: &str = "/usr/bin/qemu-system-x86_64";
/// Below it: guest memory, control socket and firmware of the watched one.
pub(crate) const FOLDER: &str = "/run/nested";
const TWIN: &str = "/run/nested-twin";

/// What the guest writes, and where.
const WORD: &[u8; 8] = b"GUESTMEM";
const WORD_AT: u64 = 0x7000;
/// The smallest that QEMU takes.
const FIRMWARE_BYTES: usize = 64 << 10;

/// Code of 16 bits, as a processor begins: at the reset vector a jump to the first byte; from there `WORD` goes to `WORD_AT`, two bytes each
/// time, and the processor halts for good.
fn firmware() -> Vec<u8> {
    let mut image = vec![0xf4; FIRMWARE_BYTES];
    // xor ax, ax; mov ds, ax
    let mut code = vec![0x31, 0xc0, 0x8e, 0xd8];
    for (at, two) in (WORD_AT as u16..).step_by(2).zip(WORD.chunks(2)) {
        // mov word [at], two
        code.extend([0xc7, 0x06]);
        code.extend(at.to_le_bytes());
        code.extend(two);
    }
    // hlt, and once more should anything wake it
    code.extend([0xf4, 0xeb, 0xfd]);
    image[..code.len()].copy_from_slice(&code);
    let reset = FIRMWARE_BYTES - 16;
    image[reset..reset + 3].copy_from_slice(&[0xe9, 0x0d, 0x00]);
    image
}

/// Starts one that waits for the word to run, which goes by the connection that comes with it.
pub(crate) fn start(folder: &Path) -> Result<(Child, UnixStream)> {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    fs::write(folder.join("firmware"), firmware())?;
    let path = |name: &str| folder.join(name).display().to_string();
    let mut vmm = Command::new(VMM);
    vmm.args(["-nodefaults", "-no-user-config", "-no-reboot", "-S", "-display", "none"])
        .args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"])
        .args(["-M", "microvm,pit=off,pic=off,rtc=on,memory-backend=ram,dump-guest-core=off,mem-merge=off"])
        .args(["-accel", "tcg,thread=multi,tb-size=8", "-cpu", "max,-avx2", "-smp", "1", "-m", "16M"])
        .args(["-object", &format!("memory-backend-file,id=ram,size=16M,mem-path={},share=on,prealloc=off", path("ram"))])
        .args(["-chardev", &format!("socket,id=qmp,path={},server=on,wait=off", path("qmp"))])
        .args(["-mon", "chardev=qmp,mode=control", "-bios", &path("firmware")]);
    let mut child = vmm.spawn().context("start a virtual machine")?;
    let mut control = None;
    until("the virtual machine can be spoken to", || {
        if let Some(status) = child.try_wait()? {
            bail!("the virtual machine ended with {status}");
        }
        control = UnixStream::connect(folder.join("qmp")).ok();
        Ok(control.is_some())
    })?;
    let control = control.context("the virtual machine can be spoken to")?;
    // Its greeting: from then on it has its memory.
    BufReader::new(&control).read_line(&mut String::new()).context("hear a virtual machine's greeting")?;
    Ok((child, control))
}

/// Lets it run, and waits until its guest has done its work.
pub(crate) fn run(folder: &Path, mut control: &UnixStream) -> Result<()> {
    let mut answers = BufReader::new(control.try_clone()?).lines();
    for command in ["qmp_capabilities", "cont"] {
        writeln!(control, "{}", json!({"execute": command})).context("tell a virtual machine to run")?;
        // Events come in between.
        while !answers.next().context("the virtual machine answers")??.contains("\"return\"") {}
    }
    until("the guest has written its word", || Ok(word_in(&File::open(folder.join("ram"))?, WORD_AT)?))
}

fn word_in(file: &File, at: u64) -> std::io::Result<bool> {
    let mut word = [0; WORD.len()];
    file.read_exact_at(&mut word, at)?;
    Ok(word == *WORD)
}

/// By whatever way: whether the guest's word is read at that address of a process.
type Way = (&'static str, fn(u32, u64) -> std::io::Result<bool>);

const WAYS: [Way; 2] = [
    ("process_vm_readv", |pid, at| {
        let mut word = [0; WORD.len()];
        sys::read_memory(pid, at, &mut word)?;
        Ok(word == *WORD)
    }),
    ("/proc/PID/mem", |pid, at| word_in(&File::open(format!("/proc/{pid}/mem"))?, at)),
];

/// Where there is a program for it.
pub(crate) fn play(node: &mut Node) {
    if Path::new(VMM).exists() {
        say("the memory of a real virtual machine is closed, and it ends at once", attacked(node));
    }
}

/// The twin is nobody's: what is refused about the machine can be done to it.
fn attacked(node: &mut Node) -> Result<()> {
    let (twin, control) = start(Path::new(TWIN))?;
    run(Path::new(TWIN), &control)?;
    let at = guest_memory(twin.id()).context("find the memory of the twin's guest")?.context("it is mapped")? + WORD_AT;
    let mut ends = Vec::new();
    for (name, read) in WAYS {
        ensure!(read(twin.id(), at)?, "{name}: the attack does not read what nobody guards");
        let machine: u32 = node.ask(&Ask::Nested)?;
        ensure!(guest_memory(machine).is_err_and(refused), "its maps are open");
        let lines = records()?.len();
        ensure!(read(machine, at).is_err_and(refused), "{name}: its memory is open");
        let refused_at = std::time::Instant::now();
        until("the virtual machine is ended", || Ok(gone(machine)))?;
        let gone_us = refused_at.elapsed().as_micros() as u64;
        node.seen()?;
        let new = records()?.split_off(lines);
        let end = new.iter().find(|event| event["kind"] == "instances_ended").context("its end is not on record")?;
        let time = |what: &str| end[what].as_u64().with_context(|| format!("the record says {what}"));
        ends.push(json!({"by": name, "stopped_us": (time("killed_at_ns")? - time("tripped_at_ns")?) / 1000, "gone_us": gone_us}));
    }
    println!("NESTED {}", Value::from(ends));
    end(twin)
}

fn end(mut one: Child) -> Result<()> {
    one.kill()?;
    Ok(one.wait().map(drop)?)
}

fn refused(error: std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

/// Where a machine's memory file is mapped; what may not be looked at may also look empty.
fn guest_memory(pid: u32) -> std::io::Result<Option<u64>> {
    let maps = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/maps")))?;
    if maps.is_empty() {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    let line = maps.lines().find(|line| line.ends_with("/ram"));
    Ok(line.and_then(|line| u64::from_str_radix(line.split('-').next()?, 16).ok()))
}
