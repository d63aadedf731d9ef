//! The executable: kill -9, tokens from the command line, private files.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::platform::{Vendor, write_config, write_inputs};

const BINARY: &str = env!("CARGO_BIN_EXE_casemate-server");

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn serve(dir: &Path, config: &Path) -> (Process, serde_json::Value) {
    let run = dir.join("data/run.json");
    let _ = std::fs::remove_file(&run);
    let child = Command::new(BINARY).args(["serve", "--config"]).arg(config).stderr(Stdio::null()).spawn().unwrap();
    let process = Process(child);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok(text) = std::fs::read_to_string(&run) {
            return (process, serde_json::from_str(&text).unwrap());
        }
        assert!(Instant::now() < deadline, "the server did not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn token(config: &Path, role: &str) -> String {
    let made = Command::new(BINARY).args(["token", "--role", role, "--config"]).arg(config).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).unwrap().trim_end().to_owned()
}

async fn status(dir: &Path, run: &serde_json::Value, token: &str) -> u16 {
    casemate_daemon::tls::install_provider();
    let ca = reqwest::Certificate::from_pem(&std::fs::read(dir.join("data/public/ca.pem")).unwrap()).unwrap();
    let http = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
    let url = format!("https://{}/api/v1/instances", run["rest"].as_str().unwrap());
    http.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn survives_a_kill_and_keeps_its_secrets_private() {
    let dir = tempfile::tempdir().unwrap();
    write_inputs(dir.path(), &Vendor::new("Simulated TPM vendor"));
    let config = write_config(dir.path(), "");
    let (mut first, run) = serve(dir.path(), &config).await;
    let secret = token(&config, "tenant");
    assert_eq!(status(dir.path(), &run, &secret).await, 200);
    let ca = std::fs::read(dir.path().join("data/public/ca.pem")).unwrap();

    // A second server on the same folder is refused.
    let second = Command::new(BINARY).args(["serve", "--config"]).arg(&config).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("lock"), "{}", String::from_utf8_lossy(&second.stderr));

    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let (_again, run) = serve(dir.path(), &config).await;
    assert_eq!(status(dir.path(), &run, &secret).await, 200);
    assert_eq!(std::fs::read(dir.path().join("data/public/ca.pem")).unwrap(), ca, "the authority stays the same");

    let data = dir.path().join("data");
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    for name in ["keys/ca.key.pem", "keys/assignment.key"] {
        assert_eq!(std::fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "the token is in {}", path.display());
        }
    }
}

#[test]
fn reports_all_faults_of_a_configuration_together() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_config(dir.path(), "node_lost_ms = 1");
    let text = std::fs::read_to_string(&config).unwrap().replacen("127.0.0.1:0", "nowhere", 1);
    std::fs::write(&config, text).unwrap();
    let output = Command::new(BINARY).args(["serve", "--config"]).arg(&config).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    for fault in ["4 fault(s)", "rest_addr", "reference_values", "vendor_roots", "node_lost_ms"] {
        assert!(text.contains(fault), "{fault} in {text}");
    }
}
