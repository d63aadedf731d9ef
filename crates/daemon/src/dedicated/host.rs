//! What the kernel says of the machine.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use super::{Policy, policy::is_parameter};

/// Longest value of a kernel parameter that is read.
const MAX_VALUE: usize = 4096;

/// What runs, listens and is loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Processes of programs, but those in instances' control groups.
    pub programs: Vec<Program>,
    /// Sockets to which something from the network can come.
    pub sockets: Vec<Socket>,
    /// The parameters that the policy names, as far as the kernel has them.
    pub parameters: BTreeMap<String, String>,
    /// Loaded modules.
    pub modules: Vec<String>,
    /// The words of the kernel's command line.
    pub command_line: Vec<String>,
    /// PCI devices.
    pub devices: Vec<Device>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The file that it executes.
    pub path: String,
    /// Its number.
    pub pid: u32,
}

/// A socket that waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// `tcp`, `udp` or `raw`.
    pub protocol: &'static str,
    /// Where. Of a raw socket the port is the protocol's number.
    pub address: SocketAddr,
}

impl Socket {
    /// As a policy names it: `tcp/22`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.protocol, self.address.port())
    }
}

/// A PCI device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// `0000:01:00.0`.
    pub address: String,
    /// Vendor and device: `10de:2330`.
    pub id: String,
    /// Empty where none has it.
    pub driver: String,
}

/// Looks at the machine whose `/proc` and `/sys` are below `root`, for what the policy speaks of. What cannot be read is an error: a
/// list that is silently shorter would pass.
pub fn look(root: &Path, policy: &Policy) -> io::Result<Facts> {
    let read = |path: &str| named(fs::read_to_string(root.join(path)), &root.join(path));
    let mut facts = Facts::default();
    if policy.programs.is_some() {
        facts.programs = programs(&root.join("proc"))?;
    }
    if policy.sockets.is_some() {
        facts.sockets = sockets(&root.join("proc/net"))?;
    }
    if policy.modules.is_some() {
        let lines = match read("proc/modules") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        facts.modules = lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    }
    for name in policy.parameters.keys().filter(|name| is_parameter(name)) {
        if let Ok(value) = fs::read_to_string(root.join("proc/sys").join(name.replace('.', "/"))) {
            let value: Vec<&str> = value.split_whitespace().collect();
            let value: String = value.join(" ").chars().take(MAX_VALUE).collect();
            facts.parameters.insert(name.clone(), value);
        }
    }
    facts.command_line = read("proc/cmdline")?.split_whitespace().map(str::to_owned).collect();
    if !policy.devices.is_empty() {
        facts.devices = devices(&root.join("sys/bus/pci/devices"))?;
    }
    Ok(facts)
}

fn named<T>(result: io::Result<T>, path: &Path) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// A process may end while it is looked at; one of the kernel executes no file.
fn programs(proc: &Path) -> io::Result<Vec<Program>> {
    let mut found = Vec::new();
    for entry in named(fs::read_dir(proc), proc)? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(is_instance) {
            continue;
        }
        match fs::read_link(entry.path().join("exe")) {
            Ok(path) => found.push(Program { path: path.to_string_lossy().into_owned(), pid }),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => {}
            // It ended: the kernel has no process of this number any more.
            Err(error) if error.raw_os_error() == Some(ESRCH) => {}
            // Not even root may know it: no list has it.
            Err(_) => {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.push(Program { path: format!("unknown ({})", name.trim()), pid });
            }
        }
    }
    Ok(found)
}

/// Whether a control group is that of an instance, or the one that instances lie in. What is in it is a tenant's, or holds him.
pub(super) fn is_instance(group: &str) -> bool {
    group.split('/').any(|part| part.starts_with("casemate-") && !part.contains('.'))
}

fn sockets(net: &Path) -> io::Result<Vec<Socket>> {
    let mut found = Vec::new();
    for (file, protocol) in [("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp"), ("raw", "raw"), ("raw6", "raw")] {
        let path = net.join(file);
        let text = match fs::read_to_string(&path) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.ends_with('6') => continue,
            text => named(text, &path)?,
        };
        for line in text.lines().skip(1).filter(|line| !line.trim().is_empty()) {
            let socket = parse(line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{file}: {line:?}")))?;
            // Of TCP those that listen; of the others those that take from anybody.
            let waits = if protocol == "tcp" { socket.state == LISTEN } else { socket.remote.port() == 0 };
            if waits {
                found.push(Socket { protocol, address: socket.local });
            }
        }
    }
    Ok(found)
}

struct Line {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
}

/// `0: 0100007F:0019 00000000:0000 0A …`: addresses are words of 32 bits in the machine's own order.
fn parse(line: &str) -> Option<Line> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote, state) = (address(words.next()?)?, address(words.next()?)?, words.next()?);
    Some(Line { local, remote, state: u8::from_str_radix(state, 16).ok()? })
}

fn address(text: &str) -> Option<SocketAddr> {
    let (digits, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(digits.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match digits.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (to, at) in bytes.chunks_exact_mut(4).zip([0, 8, 16, 24]) {
                to.copy_from_slice(&word(at)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn devices(folder: &Path) -> io::Result<Vec<Device>> {
    let entries = match fs::read_dir(folder) {
        // A machine without the bus.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => named(entries, folder)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = |name: &str| {
            let text = named(fs::read_to_string(path.join(name)), &path.join(name))?;
            Ok::<_, io::Error>(text.trim().trim_start_matches("0x").to_owned())
        };
        let driver = fs::read_link(path.join("driver")).ok();
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        found.push(Device {
            address: name(&path),
            id: format!("{}:{}", number("vendor")?, number("device")?),
            driver: driver.as_deref().map(name).unwrap_or_default(),
        });
    }
    Ok(found)
}

/// The state of a TCP socket that waits for connections.
const LISTEN: u8 = 0x0a;

/// No such process.
const ESRCH: i32 = 3;
