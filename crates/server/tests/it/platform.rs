//! A platform in this process, and a client for it.

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::{
    rest,
    workload::{Asset, Image, Isolation, Layer, Process, Resources, Workload, format_digest},
};
use casemate_server::{config::Config, server::Server, service::make_token, store::Role};
use ed25519_dalek::{Signer as _, SigningKey};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use reqwest::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::postgres::store_section;

/// Digests that the reference values know.
pub(crate) const AGENT: [u8; 32] = [0xa1; 32];
pub(crate) const VMM: [u8; 32] = [0xa2; 32];
pub(crate) const KERNEL: [u8; 32] = [0xb1; 32];
pub(crate) const INITRD: [u8; 32] = [0xb2; 32];
pub(crate) const ROOT_HASH: [u8; 32] = [0xb3; 32];

/// The maker of TPMs.
pub(crate) struct Vendor {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Vendor {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }
}

/// A running platform. The folder outlives restarts.
pub(crate) struct Platform {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) server: Server,
    pub(crate) vendor: Arc<Vendor>,
    drain: watch::Sender<bool>,
    http: reqwest::Client,
    timing: String,
}

impl Platform {
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// With more lines of configuration.
    pub(crate) async fn with(timing: &str) -> Self {
        casemate_daemon::tls::install_provider();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let vendor = Arc::new(Vendor::new("Simulated TPM vendor"));
        write_inputs(dir.path(), &vendor);
        let (server, drain, http) = serve(dir.path(), timing).await;
        Self { dir, server, vendor, drain, http, timing: timing.to_owned() }
    }

    /// Only the role `verifier`, with nothing that it does not need.
    pub(crate) async fn alone() -> Self {
        casemate_daemon::tls::install_provider();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let (server, drain, http) = serve(dir.path(), ALONE).await;
        let vendor = Arc::new(Vendor::new("Simulated TPM vendor"));
        Self { dir, server, vendor, drain, http, timing: ALONE.to_owned() }
    }

    /// Ends the server as a drain does, and starts it anew on the same folder.
    pub(crate) async fn restart(self) -> Self {
        let Self { dir, server, vendor, drain, timing, .. } = self;
        drain.send_replace(true);
        server.wait().await;
        let (server, drain, http) = serve(dir.path(), &timing).await;
        Self { dir, server, vendor, drain, http, timing }
    }

    /// Ends the server as a drain does.
    #[allow(dead_code, reason = "not every binary of tests needs it")]
    pub(crate) async fn stop(self) {
        self.drain.send_replace(true);
        self.server.wait().await;
    }

    /// One more server on the same database. It has a folder of its own beside the first one's, which all share.
    #[allow(dead_code, reason = "only with an engine that several can use")]
    pub(crate) async fn replica(&self, number: u32) -> Self {
        let path = write_replica_config(self.dir.path(), &self.timing, number);
        let (server, drain, http) = serve_with(self.dir.path(), &path).await;
        Self { dir: self.dir.clone(), server, vendor: self.vendor.clone(), drain, http, timing: self.timing.clone() }
    }

    pub(crate) async fn token(&self, role: Role) -> Client {
        let (token, _) = make_token(self.server.store(), role, None, None).await.unwrap();
        self.client(token)
    }

    pub(crate) fn client(&self, token: String) -> Client {
        Client { http: self.http.clone(), base: format!("https://localhost:{}/api/v1", self.server.rest().port()), token }
    }

    /// Puts a signed revocation list into force.
    pub(crate) async fn put_revocations(&self, file: &str) {
        let operator = self.token(Role::Operator).await;
        let request = operator.request(Method::PUT, "/appraisals/revocations").body(file.to_owned());
        operator.send(request).await.json::<rest::Revocations>(200);
    }

    pub(crate) fn ca_pem(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("data/public/ca.pem")).unwrap()
    }

    pub(crate) async fn bootstrap_token(&self) -> String {
        make_token(self.server.store(), Role::Bootstrap, None, None).await.unwrap().0
    }
}

async fn serve(dir: &Path, timing: &str) -> (Server, watch::Sender<bool>, reqwest::Client) {
    serve_with(dir, &write_config(dir, timing)).await
}

async fn serve_with(dir: &Path, config: &Path) -> (Server, watch::Sender<bool>, reqwest::Client) {
    let config: Config = casemate_daemon::config::load(config).unwrap();
    let (drain, draining) = watch::channel(false);
    let server = Server::start(config.check().unwrap(), draining).await.unwrap();
    // A server that certifies no nodes has no authority; its own certificate is pinned.
    let pinned = ["data/public/ca.pem", "data/public/server.pem"].map(|name| std::fs::read(dir.join(name)));
    let ca = pinned.into_iter().find_map(Result::ok).unwrap();
    let http = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    (server, drain, http)
}

/// Reference values and the vendor's root.
pub(crate) fn write_inputs(dir: &Path, vendor: &Vendor) {
    let key = SigningKey::from_bytes(&[7; 32]);
    let payload = serde_json::json!({
        "version": 1,
        "guest_os": [{
            "name": "test", "kernel": hex::encode(KERNEL), "initrd": hex::encode(INITRD), "root_hash": hex::encode(ROOT_HASH),
            "command_lines": [command_line()],
        }],
        "node_software": { "agent": [hex::encode(AGENT)], "vmm": [hex::encode(VMM)] },
    })
    .to_string();
    let signature = key.sign(&[b"casemate/reference-values/v1\0", payload.as_bytes()].concat());
    let file = serde_json::json!({
        "payload": payload,
        "signature": STANDARD.encode(signature.to_bytes()),
        "key": STANDARD.encode(key.verifying_key().to_bytes()),
    });
    std::fs::write(dir.join("reference-values.json"), file.to_string()).unwrap();
    std::fs::write(dir.join("vendor.pem"), &vendor.pem).unwrap();
}

pub(crate) fn command_line() -> String {
    format!("quiet casemate.root={}:00:1:2", hex::encode(ROOT_HASH))
}

const ALONE: &str = "roles = [\"verifier\"]\nrest_addr = \"127.0.0.1:0\"\nnames = [\"localhost\"]\n";

pub(crate) fn write_config(dir: &Path, timing: &str) -> std::path::PathBuf {
    if timing == ALONE {
        let path = dir.join("server.toml");
        std::fs::write(&path, format!("{timing}data_dir = {:?}\n{}", dir.join("data"), store_section(dir))).unwrap();
        return path;
    }
    let text = format!(
        "data_dir = {data:?}\nrest_addr = \"127.0.0.1:0\"\nnode_addr = \"127.0.0.1:0\"\nnames = [\"localhost\", \"127.0.0.1\"]\n\
         reference_values = {values:?}\nreference_key = \"{key}\"\nvendor_roots = [{vendor:?}]\nallow_simulated = true\n{own}{timing}\n{store}",
        // A test may bring a database of its own.
        store = if timing.contains("[store]") { String::new() } else { store_section(dir) },
        own = if timing.contains("revocation") { "" } else { "own_revocation_list = true\n" },
        data = dir.join("data"),
        values = dir.join("reference-values.json"),
        vendor = dir.join("vendor.pem"),
        key = STANDARD.encode(SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes()),
    );
    let path = dir.join("server.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// The same for one more replica, in a file of its own.
#[allow(dead_code, reason = "only with an engine that several can use")]
pub(crate) fn write_replica_config(dir: &Path, timing: &str, number: u32) -> std::path::PathBuf {
    let text = std::fs::read_to_string(write_config(dir, timing)).unwrap();
    let (shared, own) = (dir.join("data"), dir.join(format!("data-{number}")));
    let text = text.replacen(&format!("data_dir = {shared:?}"), &format!("data_dir = {own:?}\nshared_dir = {shared:?}"), 1);
    let path = dir.join(format!("server-{number}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

/// A client with one token.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    pub(crate) token: String,
}

/// An answer: status and body.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self, status: u16) -> T {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `status type: detail (hint)`.
    #[track_caller]
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem: rest::Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        let name = problem.kind.strip_prefix("urn:casemate:problem:").unwrap();
        let hint = problem.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{} {name}: {}{hint}", problem.status, problem.detail.unwrap_or_default())
    }
}

impl Client {
    /// For the server at `address`, whose authority is `ca_pem`.
    #[allow(dead_code, reason = "not every binary of tests needs it")]
    pub(crate) fn new(address: &str, ca_pem: &[u8], token: String) -> Self {
        let ca = reqwest::Certificate::from_pem(ca_pem).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([ca]).timeout(Duration::from_secs(60)).build().unwrap();
        Self { http, base: format!("https://{address}/api/v1"), token }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token)
    }

    /// A path that is not under `/api/v1`.
    pub(crate) fn outside(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.base.trim_end_matches("/api/v1")))
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &impl Serialize) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn put_blob(&self, bytes: &[u8]) -> Answer {
        let digest = format_digest(&Sha256::digest(bytes).into());
        self.send(self.request(Method::PUT, &format!("/blobs/{digest}")).body(bytes.to_vec())).await
    }

    /// Uploads the blobs of [`workload`] and asks for an instance of it.
    pub(crate) async fn create(&self) -> rest::Instance {
        assert!(self.put_blob(LAYER).await.status.is_success());
        assert!(self.put_blob(ASSET).await.status.is_success());
        self.post("/instances", &new_instance(&workload())).await.json(201)
    }

    pub(crate) async fn instance(&self, id: &str) -> rest::Instance {
        self.get(&format!("/instances/{id}")).await.json(200)
    }

    pub(crate) async fn events(&self, id: &str) -> Vec<rest::Event> {
        self.get(&format!("/instances/{id}/events")).await.json::<rest::Events>(200).events
    }

    /// Waits, by long polls, for the first event that `wanted` accepts.
    pub(crate) async fn wait_for(&self, id: &str, wanted: impl Fn(&rest::Event) -> bool) -> rest::Event {
        let mut after = 0;
        for _ in 0..100 {
            let path = format!("/instances/{id}/events?after={after}&wait_ms=5000");
            for event in self.get(&path).await.json::<rest::Events>(200).events {
                assert_eq!(event.seq, after + 1, "events have no gaps");
                after = event.seq;
                if wanted(&event) {
                    return event;
                }
            }
        }
        panic!("no such event: {:#?}", self.events(id).await);
    }

    pub(crate) async fn wait_for_step(&self, id: &str, step: &str) -> rest::Event {
        self.wait_for(id, |event| event.kind == "step" && event.text == step).await
    }

    pub(crate) async fn wait_for_failure(&self, id: &str) -> rest::Failure {
        let event = self.wait_for(id, |event| event.kind == "failure").await;
        serde_json::from_value(event.data.unwrap()).unwrap()
    }
}

pub(crate) const LAYER: &[u8] = b"a layer";
pub(crate) const ASSET: &[u8] = b"an encrypted asset";

pub(crate) fn workload() -> Workload {
    Workload {
        version: 1,
        name: "demo".into(),
        isolation: Isolation::Microvm,
        image: Image {
            source: String::new(),
            manifest: format_digest(&[1; 32]),
            layers: vec![Layer {
                blob: format_digest(&Sha256::digest(LAYER).into()),
                root_hash: hex::encode([3; 32]),
                data_blocks: 9,
                key: None,
            }],
        },
        process: Process { args: vec!["/bin/true".into()], env: Default::default(), cwd: "/".into(), user: String::new() },
        resources: Resources { cpus: 1, memory_mib: 256, scratch_mib: 64 },
        assets: vec![Asset {
            name: "data".into(),
            digest: format_digest(&Sha256::digest(ASSET).into()),
            size_bytes: ASSET.len() as u64,
            path: "/data".into(),
        }],
        network: None,
        output_path: String::new(),
        ttl_s: 60,
        tenant_key: hex::encode([5; 32]),
    }
}

pub(crate) fn new_instance(workload: &Workload) -> rest::NewInstance {
    rest::NewInstance {
        workload: String::from_utf8(workload.to_canonical()).unwrap(),
        node: None,
        project: None,
        placement: None,
    }
}
