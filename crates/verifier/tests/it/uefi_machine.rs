//! A machine with real UEFI firmware, a TPM and the distribution's kernel, started in QEMU to tell how it booted.
//!
//! ```text
//! kernel, initrd, command line ──fw_cfg──> OVMF ──measures──> swtpm <──/dev/tpm0── witness.c (PID 1) <──serial line── attester
//! ```
//!
//! The attester runs out here, as it does on a node; PID 1 only carries its commands. No KVM: it is slow in nested machines.

use std::{
    fs,
    io::Read as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use casemate_attester::{Attester as _, Tpm, TpmAttester, UnixSocket, quote_bundle};
use casemate_evidence::{
    eventlog::{Event, EventLog, LogFormat, MAX_LOG_BYTES},
    instance::{NODE_PCRS, QuoteBundle},
};
use sha2::{Digest as _, Sha256};

use crate::world::{AGENT, VMM, software_event};

/// What a booted machine shows.
pub(crate) struct Booted {
    pub(crate) log: Vec<u8>,
    pub(crate) quote: QuoteBundle,
    /// The same machine as a node of a platform: agent and VMM were measured, too.
    pub(crate) node_log: Vec<u8>,
    pub(crate) node_quote: QuoteBundle,
}

/// What machines boot.
pub(crate) struct Boot {
    pub(crate) kernel: PathBuf,
    initrd: PathBuf,
    firmware: Firmware,
}

/// Code, and variables of a machine that was never on: no keys, so no secure boot.
struct Firmware {
    code: &'static str,
    variables: &'static str,
}

impl Boot {
    /// The kernel's package comes over the network the first time. `None` where kernel or firmware cannot be had, which is an error
    /// where `CASEMATE_TEST_TOOLS=require`.
    pub(crate) fn prepare(folder: &Path) -> Option<Self> {
        let kernel = folder.join("kernel");
        match (Firmware::find(), distro_kernel(&kernel)) {
            (Some(firmware), Ok(())) => {
                let initrd = folder.join("initrd");
                fs::write(&initrd, archive(&fs::read(compiled(folder)).unwrap())).unwrap();
                Some(Self { kernel, initrd, firmware })
            }
            (None, _) => without("no UEFI firmware: the package ovmf is not installed"),
            (_, Err(error)) => without(&format!("no kernel: {error}")),
        }
    }

    /// Boots with `line`, quotes `pcrs` over `qualifying`, switches off.
    pub(crate) fn run(&self, line: &str, qualifying: &[u8], pcrs: &[u32]) -> Booted {
        let folder = tempfile::tempdir().unwrap();
        let _swtpm = start_swtpm(folder.path());
        let _qemu = self.start_qemu(folder.path(), line);
        let mut stream = UnixStream::connect(listening(folder.path().join("line"))).unwrap();
        stream.set_read_timeout(Some(BOOT_LIMIT)).unwrap();
        let log = read_log(&mut stream).unwrap_or_else(|error| {
            let console = fs::read(folder.path().join("console")).unwrap_or_default();
            panic!("the machine does not show its log: {error}; its console:\n{}", String::from_utf8_lossy(&console))
        });
        let mut attester = TpmAttester::new(Tpm::new(UnixSocket::from_stream(stream).unwrap())).unwrap();
        let quote = quote_bundle(&mut attester, qualifying, pcrs).unwrap();
        let software = [software_event("casemate-agent", AGENT), software_event("casemate-vmm", VMM)];
        for event in &software {
            attester.pcr_extend(event.pcr, event.measured_sha256().unwrap()).unwrap();
        }
        let node_quote = quote_bundle(&mut attester, &crate::node::QUALIFYING, &NODE_PCRS).unwrap();
        Booted { node_log: with_software(&log, software), log, quote, node_quote }
    }

    fn start_qemu(&self, folder: &Path, line: &str) -> Running {
        let at = |name: &str| folder.join(name).display().to_string();
        fs::copy(self.firmware.variables, folder.join("variables")).unwrap();
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", &(MEMORY >> 20).to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={}", self.firmware.code)])
            .args(["-drive", &format!("if=pflash,unit=1,format=raw,file={}", at("variables"))])
            .args(["-chardev", &format!("socket,id=tpm,path={}", at("tpm.ctrl"))])
            .args(["-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm"])
            .args(["-serial", &format!("file:{}", at("console"))])
            .args(["-chardev", &format!("socket,id=line,server=on,wait=on,path={}", at("line")), "-serial", "chardev:line"])
            .args(["-append", line, "-kernel"])
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(&self.initrd);
        Running::start(command, "qemu-system-x86")
    }

    /// Authenticode digests that firmware may find: of the kernel as it is in its package, and as QEMU before version 10 hands it
    /// over, with the fields of the setup header filled that a boot loader fills ("The Linux/x86 Boot Protocol").
    pub(crate) fn kernel_digests(&self) -> [[u8; 32]; 2] {
        let kernel = fs::read(&self.kernel).unwrap();
        let initrd = u32::try_from(fs::metadata(&self.initrd).unwrap().len()).unwrap();
        let mut loaded = kernel.clone();
        let mut put = |at: usize, bytes: &[u8]| loaded[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x210, &[0xb0, kernel[0x211] | 0x80]);
        put(0x218, &(((MEMORY - ACPI_TABLES - 1) - initrd) & !0xfff).to_le_bytes());
        put(0x21c, &initrd.to_le_bytes());
        put(0x224, &0xfe00_u16.to_le_bytes());
        put(0x228, &0x2_0000_u32.to_le_bytes());
        [authenticode(&kernel), authenticode(&loaded)]
    }

    /// SHA-256 of the initrd, as an EFI stub measures it.
    pub(crate) fn initrd_digest(&self) -> [u8; 32] {
        Sha256::digest(fs::read(&self.initrd).unwrap()).into()
    }
}

impl Firmware {
    fn find() -> Option<Self> {
        let firmware = Self { code: "/usr/share/OVMF/OVMF_CODE_4M.fd", variables: "/usr/share/OVMF/OVMF_VARS_4M.fd" };
        [firmware.code, firmware.variables].iter().all(|path| Path::new(path).is_file()).then_some(firmware)
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Running {
    fn start(mut command: Command, package: &str) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("start {command:?}: {error}; it is in the package {package}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn without(why: &str) -> Option<Boot> {
    assert!(std::env::var_os("CASEMATE_TEST_TOOLS").is_none_or(|value| value != "require"), "{why}");
    eprintln!("SKIPPED: {why}");
    None
}

/// Has the builder take it out of the locked package.
fn distro_kernel(out: &Path) -> Result<(), String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["xtask", "distro-kernel", "--out"]).arg(out).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().map_err(|error| error.to_string())?;
    output.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn compiled(folder: &Path) -> PathBuf {
    let (source, out) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/witness.c"), folder.join("witness"));
    let output = Command::new("cc").args(["-static", "-Os", "-Wall", "-o"]).arg(&out).arg(source).output().unwrap();
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    out
}

/// An archive in "newc" format with nothing but `/init`.
fn archive(init: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [("init", 0o100_755, init), ("TRAILER!!!", 0, &[][..])] {
        // Number, mode, owner, group, links, time, size, device, device node, length of the name, check sum.
        let fields = [1, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend(b"070701");
        fields.iter().for_each(|field| archive.extend(format!("{field:08x}").bytes()));
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// Each event has a digest for each bank; of other banks nothing is judged here.
fn with_software(log: &[u8], software: [Event; 2]) -> Vec<u8> {
    let mut log = EventLog::parse(log).unwrap();
    let LogFormat::CryptoAgile(spec) = &log.format else { panic!("UEFI firmware writes crypto-agile logs") };
    for mut event in software {
        for bank in &spec.banks {
            event.digests.entry(bank.alg).or_insert_with(|| vec![0; bank.digest_size.into()]);
        }
        log.events.push(event);
    }
    log.encode()
}

/// It ends by itself when QEMU does.
fn start_swtpm(folder: &Path) -> Running {
    let state = folder.join("tpm");
    fs::create_dir(&state).unwrap();
    let mut command = Command::new("swtpm");
    command
        .args(["socket", "--tpm2", "--terminate", "--tpmstate", &format!("dir={}", state.display())])
        .args(["--ctrl", &format!("type=unixio,path={}", folder.join("tpm.ctrl").display())]);
    let swtpm = Running::start(command, "swtpm");
    listening(folder.join("tpm.ctrl"));
    swtpm
}

/// Neither program says that it listens, and the socket's file is there a moment before that. A first connection to find it out would
/// be taken for the last one.
fn listening(socket: PathBuf) -> PathBuf {
    let limit = Instant::now() + Duration::from_secs(30);
    while !listens(&socket) {
        assert!(Instant::now() < limit, "nobody listens at {}", socket.display());
        thread::sleep(Duration::from_millis(5));
    }
    socket
}

/// The kernel's table of sockets: number, references, protocol, flags, type, state, inode, path.
fn listens(socket: &Path) -> bool {
    const ACCEPTS_CONNECTIONS: &str = "00010000";
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace();
        fields.nth(3) == Some(ACCEPTS_CONNECTIONS) && fields.nth(3).is_some_and(|path| Path::new(path) == socket)
    })
}

/// The firmware has its console on this line, too, before PID 1 takes it.
fn read_log(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(MARK) {
        stream.read_exact(&mut byte)?;
        seen.push(byte[0]);
    }
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    assert!(length <= MAX_LOG_BYTES, "a log of {length} bytes");
    let mut log = vec![0; length];
    stream.read_exact(&mut log)?;
    Ok(log)
}

/// SHA-256 of a signed PE32+ image without its check sum, the entry of its certificate table, and that table at its end ("Windows
/// Authenticode Portable Executable Signature Format").
fn authenticode(image: &[u8]) -> [u8; 32] {
    let number = |at: usize| u32::from_le_bytes(image[at..at + 4].try_into().unwrap()) as usize;
    let optional = number(0x3c) + 24;
    assert_eq!(image[optional..optional + 2], [0x0b, 0x02], "PE32+");
    let (check_sum, entry) = (optional + 64, optional + 112 + 4 * 8);
    let (table, size) = (number(entry), number(entry + 4));
    assert!(size > 0 && table + size == image.len(), "the distribution signs its kernel");
    let parts = [&image[..check_sum], &image[check_sum + 4..entry], &image[entry + 8..table]];
    parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part)).finalize().into()
}

const MARK: &[u8] = b"\nCASEMATE-WITNESS\n";
const MEMORY: u32 = 512 << 20;
/// What QEMU keeps free at the end of memory.
const ACPI_TABLES: u32 = 0x2_8000;
/// A boot takes about ten seconds on an idle machine, many times that on a loaded one.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
