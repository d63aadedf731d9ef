//! What this host can do: which VMM, which acceleration, how fast its time stamp counter runs.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use super::q35::probe::probe;
use crate::{Capabilities, DriverError, Features, GuestChannel, Isolation, Support, SystemKind, Topology, error::Context, sys};

/// How guest code is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accel {
    /// By the CPU.
    Kvm,
    /// By translation.
    Tcg,
}

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccelChoice {
    /// KVM where it really works, else TCG, with the reason.
    #[default]
    Auto,
    /// KVM, whatever the CPU says.
    Kvm,
    /// TCG.
    Tcg,
}

/// A program that the search path does not need to know.
pub(crate) fn find_program(name: &str) -> PathBuf {
    let places = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin", "/usr/libexec"];
    let found = places.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| Path::new("/usr/bin").join(name))
}

/// Finds everything out; takes about a tenth of a second.
pub(crate) fn capabilities(qemu: &Path, choice: AccelChoice, network: Support) -> Result<(Capabilities, Accel), DriverError> {
    let (accel, accel_reason) = choose(choice, &CpuFlags::read(), opens(Path::new(KVM)));
    let capabilities = Capabilities {
        name: "qemu",
        version: version("qemu", qemu)?,
        digest: digest(qemu).context("read the VMM", qemu)?,
        machine: "microvm",
        accel: match accel {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        },
        accel_reason,
        isolation: Isolation::Microvm,
        system: SystemKind::Machine,
        channel: GuestChannel::VirtioSerial,
        // A network card takes the place of a disk.
        max_disks: MOST_DISKS - usize::from(network == Support::Yes),
        max_cpus: MOST_CPUS,
        memory_mib: LEAST_MEMORY_MIB..=MOST_MIB,
        scratch_mib: 1..=MOST_MIB,
        topology: Topology::read(Path::new("/")),
        features: features(qemu, network),
        tsc_khz: match accel {
            // Under KVM the guest's kernel reads it from kvmclock.
            Accel::Kvm => None,
            Accel::Tcg => Some(tsc_khz()),
        },
    };
    Ok((capabilities, accel))
}

fn features(qemu: &Path, network: Support) -> Features {
    let protections = probe(qemu);
    Features {
        vtpm: Support::Yes,
        gpu: Support::no("the microvm machine has no PCI bus for one"),
        network,
        sev_snp: protections.sev_snp,
        tdx: protections.tdx,
        pause: Support::no("the evidence of a machine that stood still is not made"),
        snapshot: Support::no("a copy of guest memory would outlive its wipe"),
        hot_plug: Support::no("the microvm machine has no bus for it"),
        placement: Support::Yes,
    }
}

/// Whether the CPU offers virtualisation to this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CpuFlags {
    Virtualisation,
    None,
}

impl CpuFlags {
    fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let flags = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        let found = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
        if found { Self::Virtualisation } else { Self::None }
    }
}

fn opens(kvm: &Path) -> io::Result<()> {
    File::options().read(true).write(true).open(kvm).map(drop)
}

/// For monitors that know nothing else: why KVM can be used, or why it cannot.
pub(crate) fn require_kvm(program: &str, choice: AccelChoice, kvm: &Path) -> Result<String, DriverError> {
    let refuse = |reason: String| Err(DriverError::Unsupported { what: format!("{program} on this host"), reason });
    if choice == AccelChoice::Tcg {
        return refuse("it runs machines by KVM only; hint: the QEMU driver emulates".to_owned());
    }
    if let Err(error) = opens(kvm) {
        return refuse(format!("it needs KVM, and {} does not open: {error}", kvm.display()));
    }
    match choose(choice, &CpuFlags::read(), Ok(())) {
        (Accel::Kvm, reason) => Ok(reason),
        (Accel::Tcg, reason) => refuse(format!("{reason}; hint: accel = \"kvm\" uses {} all the same", kvm.display())),
    }
}

/// `/dev/kvm` alone proves nothing: where it is not backed by the CPU, an ordinary kernel runs slower on it than under TCG.
fn choose(choice: AccelChoice, cpu: &CpuFlags, kvm: io::Result<()>) -> (Accel, String) {
    match (choice, cpu, kvm) {
        (AccelChoice::Tcg, _, _) => (Accel::Tcg, "the configuration asks for tcg".to_owned()),
        (AccelChoice::Kvm, _, _) => (Accel::Kvm, "the configuration asks for kvm".to_owned()),
        (AccelChoice::Auto, CpuFlags::Virtualisation, Ok(())) => {
            (Accel::Kvm, "the CPU has virtualisation and /dev/kvm opens".to_owned())
        }
        (AccelChoice::Auto, CpuFlags::Virtualisation, Err(error)) => {
            (Accel::Tcg, format!("the CPU has virtualisation, but /dev/kvm does not open: {error}"))
        }
        (AccelChoice::Auto, CpuFlags::None, _) => {
            (Accel::Tcg, "the CPU shows neither vmx nor svm; guests are emulated, which is slow".to_owned())
        }
    }
}

/// The first line of what a VMM says of its version.
pub(crate) fn version(name: &'static str, program: &Path) -> Result<String, DriverError> {
    let output =
        Command::new(program).arg("--version").env_clear().stdin(Stdio::null()).output().context("execute the VMM", program)?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next().filter(|_| output.status.success()) {
        Some(line) => Ok(line.chars().take(VERSION_LIMIT).collect()),
        None => Err(DriverError::Process { program: name, detail: format!("--version: {}", output.status) }),
    }
}

/// SHA-256 of a VMM's or a runtime's binary.
pub(crate) fn digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize().into()),
            count => digest.update(&buffer[..count]),
        }
    }
}

/// Measured against the monotonic clock. A pair of readings is as good as the time between its two clock readings is short,
/// so that of several tries the shortest counts.
fn tsc_khz() -> u64 {
    let (first_time, first_count) = reading();
    std::thread::sleep(MEASURED);
    let (last_time, last_count) = reading();
    let elapsed_ns = last_time.duration_since(first_time).as_nanos().max(1);
    let khz = u128::from(last_count.wrapping_sub(first_count)) * 1_000_000 / elapsed_ns;
    u64::try_from(khz).unwrap_or(u64::MAX)
}

fn reading() -> (Instant, u64) {
    let one = || {
        let before = Instant::now();
        let count = sys::time_stamp_counter();
        let width = before.elapsed();
        (width, before + width / 2, count)
    };
    let best = (0..TRIES).map(|_| one()).min_by_key(|(width, _, _)| *width).expect("there is at least one try");
    (best.1, best.2)
}

/// Time over which the counter is measured: 0.1 µs of error at each end are 4 millionths of it.
const MEASURED: Duration = Duration::from_millis(50);

const TRIES: usize = 64;

/// The machine has 24 virtio transports, of which the last never interrupts; one is the channel's, one the scratch disk's.
const MOST_DISKS: usize = 21;

/// Of the guest kernel.
const MOST_CPUS: u32 = 16;

const LEAST_MEMORY_MIB: u64 = 64;

/// Sixteen TiB; a typing error beyond that shall not become arithmetic.
pub(crate) const MOST_MIB: u64 = 16 << 20;

/// The hypervisor's device.
pub(crate) const KVM: &str = "/dev/kvm";

const VERSION_LIMIT: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_is_chosen_only_where_the_cpu_backs_it() {
        let accel = |flags: &str, kvm| choose(AccelChoice::Auto, &CpuFlags::parse(flags), kvm).0;
        assert_eq!(accel("flags\t\t: fpu vmx sse", Ok(())), Accel::Kvm);
        assert_eq!(accel("flags\t\t: fpu svm", Err(io::ErrorKind::NotFound.into())), Accel::Tcg);
        assert_eq!(accel("flags\t\t: fpu hypervisor", Ok(())), Accel::Tcg);
        assert_eq!(accel("", Ok(())), Accel::Tcg);
    }

    #[test]
    fn the_counter_runs_at_a_steady_rate() {
        let (one, other) = (tsc_khz(), tsc_khz());
        assert!(one > 100_000 && one.abs_diff(other) < one / 1000, "{one} {other}");
    }
}
