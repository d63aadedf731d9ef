//! Plays the node's measured boot: extends PCRs and writes the event log that a real firmware and loader would have written.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use casemate_attester::{Tpm, UnixSocket};
use casemate_evidence::eventlog::{Event, EventLog, EventType};
use sha2::{Digest as _, Sha256};

use super::layout::Layout;
use crate::context::write_private;

/// Digests of the node's own software.
#[derive(Debug, Clone)]
pub(super) struct Software {
    pub(super) agent: [u8; 32],
    pub(super) vmm: [u8; 32],
    pub(super) runtimes: Vec<Runtime>,
}

/// An OCI runtime of this machine.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    /// `container` or `sandbox`.
    pub(super) level: &'static str,
    pub(super) digest: [u8; 32],
}

impl Software {
    pub(super) fn measure(agent: &Path, vmm: &Path, runtimes: &[(&'static str, &'static str, PathBuf)]) -> anyhow::Result<Self> {
        let runtime = |(_, level, path): &(&'static str, &'static str, PathBuf)| -> anyhow::Result<Runtime> {
            Ok(Runtime { level, digest: digest_file(path)? })
        };
        let runtimes = runtimes.iter().map(runtime).collect::<anyhow::Result<_>>()?;
        Ok(Self { agent: digest_file(agent)?, vmm: digest_file(vmm)?, runtimes })
    }
}

/// Starts up a TPM that was just powered on and measures into it.
pub(super) fn boot(layout: &Layout, software: &Software) -> anyhow::Result<()> {
    let socket = layout.tpm_socket();
    let transport = UnixSocket::connect(&socket).with_context(|| format!("connect to the TPM at {}", socket.display()))?;
    let mut tpm = Tpm::new(transport);
    tpm.startup_clear().context("start the TPM")?;
    let mut log = EventLog::sha256();
    for event in events(software) {
        let digest = event.measured_sha256().context("every event here has a SHA-256 digest")?;
        tpm.pcr_extend(event.pcr, digest).with_context(|| format!("extend PCR {}", event.pcr))?;
        log.events.push(event);
    }
    write_private(&layout.event_log(), &log.encode())
}

fn events(software: &Software) -> Vec<Event> {
    let separator = |pcr| Event::of_data(pcr, EventType::SEPARATOR, [0; 4]);
    let component = |name: &str, digest: [u8; 32]| {
        Event::of_digest(14, EventType::IPL, digest, format!("{name} sha256:{}", hex::encode(digest)))
    };
    let mut events = vec![Event::of_data(0, EventType::S_CRTM_VERSION, *b"casemate simulated firmware 1")];
    events.extend((0..=7).map(separator));
    events.extend([component("casemate-agent", software.agent), component("casemate-vmm", software.vmm)]);
    events.extend(software.runtimes.iter().map(|runtime| component("casemate-runtime", runtime.digest)));
    events
}

fn digest_file(path: &Path) -> anyhow::Result<[u8; 32]> {
    let attempt = || format!("measure {}", path.display());
    let mut file = fs::File::open(path).with_context(attempt)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).with_context(attempt)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}
