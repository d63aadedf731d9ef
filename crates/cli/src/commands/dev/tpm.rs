//! The node's software TPM, with an endorsement certificate of a vendor root that says what it is: simulated.

use std::{fs, os::unix::net::UnixStream, path::Path, process::Command, time::Duration};

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::{
    layout::Layout,
    process::{self, Process},
};
use crate::{context::write_private, exit::Hinted};

/// The verifier takes every root with the word "Simulated" in its name for a simulator's.
const ROOT_NAME: &str = "Casemate Simulated TPM Vendor Root";

/// Makes vendor root and TPM where there are none yet; returns the root's certificate.
pub(super) fn manufacture(layout: &Layout) -> anyhow::Result<String> {
    let ca = layout.tpm_ca();
    let root = ca.join("issuercert.pem");
    if !root.exists() {
        make_root(&ca)?;
    }
    if !layout.tpm().join("tpm2-00.permall").exists() {
        swtpm_setup(layout)?;
    }
    fs::read_to_string(&root).with_context(|| format!("read {}", root.display()))
}

/// Powers the TPM on: all PCRs are zero.
pub(super) async fn power_on(layout: &Layout) -> anyhow::Result<Process> {
    let socket = layout.tpm_socket();
    let _ = fs::remove_file(&socket);
    let mut command = Command::new("swtpm");
    command.args(["socket", "--tpm2", "--flags", "not-need-init"]);
    command.arg("--tpmstate").arg(format!("dir={}", layout.tpm().display()));
    command.arg("--server").arg(format!("type=unixio,path={},mode=0600", socket.display()));
    // Without a control channel swtpm ends when its first client leaves.
    command.arg("--ctrl").arg(format!("type=unixio,path={},mode=0600", layout.run.join("tpm-ctrl.sock").display()));
    let process = Process::spawn(layout, "tpm", command)?;
    // The socket's file appears before swtpm listens on it.
    let listens = || UnixStream::connect(&socket).is_ok().then_some(());
    process::wait_for(layout, "tpm", &process, Duration::from_secs(10), listens).await?;
    Ok(process)
}

fn make_root(ca: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, ROOT_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    write_private(&ca.join("signkey.pem"), key.serialize_pem().as_bytes())?;
    let conf = format!(
        "statedir = {0}\nsigningkey = {0}/signkey.pem\nissuercert = {0}/issuercert.pem\ncertserial = {0}/certserial\n",
        ca.display()
    );
    write_private(&ca.join("localca.conf"), conf.as_bytes())?;
    let options = "--platform-manufacturer Casemate\n--platform-version 1\n--platform-model Simulated\n";
    write_private(&ca.join("localca.options"), options.as_bytes())?;
    let setup = format!(
        "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = {0}/localca.conf\ncreate_certs_tool_options = {0}/localca.options\n",
        ca.display()
    );
    write_private(&ca.join("setup.conf"), setup.as_bytes())?;
    // Last: its presence says that the root is complete.
    write_private(&ca.join("issuercert.pem"), params.self_signed(&key)?.pem().as_bytes())
}

fn swtpm_setup(layout: &Layout) -> anyhow::Result<()> {
    let output = Command::new("swtpm_setup")
        .args([
            "--tpm2",
            "--create-ek-cert",
            "--lock-nvram",
            "--overwrite",
            "--pcr-banks",
            "sha256",
            "--vmid",
            "casemate-dev-node",
        ])
        .arg("--tpmstate")
        .arg(format!("dir://{}", layout.tpm().display()))
        .arg("--config")
        .arg(layout.tpm_ca().join("setup.conf"))
        .output();
    let output = output.map_err(|error| Hinted {
        message: format!("start swtpm_setup: {error}"),
        hint: "install the packages swtpm and swtpm-tools".into(),
    })?;
    let text = [output.stdout, output.stderr].concat();
    anyhow::ensure!(output.status.success(), "swtpm_setup failed: {}", String::from_utf8_lossy(&text).trim());
    Ok(())
}
