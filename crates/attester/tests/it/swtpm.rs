//! A software TPM per test.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use casemate_attester::{Tpm, UnixSocket};
use tempfile::TempDir;

/// The state of a TPM, in a folder of its own.
pub(crate) struct State {
    folder: TempDir,
}

/// A running TPM.
pub(crate) struct Swtpm {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl State {
    /// Without an endorsement key certificate; made up by swtpm at its first start.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("tpm")).unwrap();
        Self { folder }
    }

    /// As it comes from a maker: with an endorsement key certificate by a certification authority of this test alone.
    pub(crate) fn with_ek_certificate() -> Self {
        let state = Self::new();
        let ca = state.path("ca");
        fs::create_dir(&ca).unwrap();
        let at = |name: &str| ca.join(name).display().to_string();
        let localca = format!(
            "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
            ca.display(),
            at("key.pem"),
            at("cert.pem"),
            at("serial")
        );
        fs::write(ca.join("localca.conf"), localca).unwrap();
        fs::write(ca.join("options"), "--platform-manufacturer Casemate\n--platform-version 1\n--platform-model test\n").unwrap();
        let setup = format!(
            "create_certs_tool = {}\ncreate_certs_tool_config = {}\ncreate_certs_tool_options = {}\nactive_pcr_banks = sha256\n",
            localca_tool().display(),
            at("localca.conf"),
            at("options")
        );
        fs::write(ca.join("setup.conf"), setup).unwrap();
        let mut command = Command::new("swtpm_setup");
        command.args(["--tpm2", "--create-ek-cert", "--pcr-banks", "sha256", "--vmid", "node-test"]);
        command.arg("--tpmstate").arg(state.path("tpm")).arg("--config").arg(ca.join("setup.conf"));
        let output = command.output().unwrap_or_else(|error| panic!("start swtpm_setup: {error}; {INSTALL}"));
        assert!(output.status.success(), "swtpm_setup: {}", String::from_utf8_lossy(&output.stdout));
        state
    }

    /// A path in the state's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the TPM with this state.
    pub(crate) fn start(&self) -> Swtpm {
        let socket = self.path("sock");
        let _ = fs::remove_file(&socket);
        let log = self.path("log");
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", self.path("tpm").display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}.ctrl", socket.display()))
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("start swtpm: {error}; {INSTALL}"));
        let mut swtpm = Swtpm { child, socket, log };
        swtpm.wait_until_it_listens();
        swtpm
    }
}

impl Swtpm {
    /// A connection to it; it serves one at a time.
    pub(crate) fn connect(&self) -> Tpm<UnixSocket> {
        Tpm::new(UnixSocket::connect(&self.socket).unwrap())
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// swtpm says in no other way that it listens. The socket's file is there a moment before that.
    fn wait_until_it_listens(&mut self) {
        let limit = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&self.socket).is_err() {
            let told = || fs::read_to_string(&self.log).unwrap_or_default();
            assert!(self.child.try_wait().unwrap().is_none(), "swtpm ended before it listened: {}", told());
            assert!(Instant::now() < limit, "swtpm does not listen: {}", told());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn localca_tool() -> PathBuf {
    let places = ["/usr/bin/swtpm_localca", "/usr/share/swtpm/swtpm-localca", "/usr/lib/x86_64-linux-gnu/swtpm/swtpm-localca"];
    let found = places.into_iter().map(PathBuf::from).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("swtpm_localca is not installed; {INSTALL}"))
}

const INSTALL: &str = "these tests need the packages swtpm, swtpm-tools and tpm2-tools";
