//! A hostile platform: stands between the command line and the real server, with the server's own certificate authority, and
//! changes what it likes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;

/// Largest body, in bytes.
const MAX_BODY: usize = 64 << 20;

/// Changes requests and answers.
pub trait Alter: Send + Sync + 'static {
    /// A JSON request on its way to the platform.
    fn request(&self, _path: &str, _body: &mut Value) {}
    /// A JSON answer on its way to the tenant.
    fn answer(&self, _path: &str, _body: &mut Value) {}
}

/// A running proxy; ends with this value.
pub struct Proxy {
    context: PathBuf,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Clone)]
struct Shared {
    client: reqwest::Client,
    upstream: String,
    alter: Arc<dyn Alter>,
}

impl Proxy {
    /// Starts in front of the platform of the context file; `ca_dir` is the server's data folder with its CA key.
    pub fn start(context: &Path, ca_dir: &Path, alter: Arc<dyn Alter>) -> anyhow::Result<Self> {
        // An error says that it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut file: Value = serde_json::from_slice(&fs::read(context)?)?;
        let upstream = file["platform"].as_str().context("a context names its platform")?.to_owned();
        let ca_pem = file["platform_ca"].as_str().context("a context has a CA")?.to_owned();
        let client =
            reqwest::Client::builder().tls_certs_only([reqwest::Certificate::from_pem(ca_pem.as_bytes())?]).no_proxy().build()?;
        let tls = tls_config(&ca_pem, ca_dir)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let shared = Shared { client, upstream, alter };
        let address = runtime.block_on(listen(tls, shared))?;
        file["platform"] = format!("https://{address}").into();
        let path = context.with_file_name(format!("context-{}.json", address.port()));
        fs::write(&path, file.to_string())?;
        Ok(Self { context: path, runtime: Some(runtime) })
    }

    /// A context file that leads to this proxy.
    pub fn context(&self) -> &Path {
        &self.context
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn listen(tls: rustls::ServerConfig, shared: Shared) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new().fallback(forward).with_state(shared);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper_util::service::TowerToHyperService::new(router);
                let builder = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                // A broken connection is the client's to report.
                let _ = builder.serve_connection(hyper_util::rt::TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(address)
}

async fn forward(State(shared): State<Shared>, request: Request) -> Response {
    match pass(&shared, request).await {
        Ok(response) => response,
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

async fn pass(shared: &Shared, request: Request) -> anyhow::Result<Response> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let mut body = to_bytes(body, MAX_BODY).await?;
    change(&mut body, |value| shared.alter.request(&path, value));
    let mut upstream = shared.client.request(parts.method, format!("{}{path}", shared.upstream));
    for name in ["authorization", "content-type", "idempotency-key"] {
        if let Some(value) = parts.headers.get(name) {
            upstream = upstream.header(name, value);
        }
    }
    let answer = upstream.body(body).send().await?;
    let (status, kind) = (answer.status(), answer.headers().get("content-type").cloned());
    let mut body = answer.bytes().await?;
    change(&mut body, |value| shared.alter.answer(&path, value));
    let mut response = Response::builder().status(status);
    if let Some(kind) = kind {
        response = response.header("content-type", kind);
    }
    Ok(response.body(Body::from(body))?)
}

fn change(body: &mut Bytes, with: impl FnOnce(&mut Value)) {
    if let Ok(mut value) = serde_json::from_slice::<Value>(body) {
        let before = value.clone();
        with(&mut value);
        if value != before {
            *body = Bytes::from(value.to_string());
        }
    }
}

fn tls_config(ca_pem: &str, ca_dir: &Path) -> anyhow::Result<rustls::ServerConfig> {
    let ca_key = ca_key(ca_dir)?;
    let issuer = rcgen::Issuer::from_ca_cert_pem(ca_pem, ca_key)?;
    let key = rcgen::KeyPair::generate()?;
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let certificate = params.signed_by(&key, &issuer)?;
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let chain = vec![certificate.der().clone(), CertificateDer::from_pem_slice(ca_pem.as_bytes())?];
    Ok(rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, private)?)
}

fn ca_key(dir: &Path) -> anyhow::Result<rcgen::KeyPair> {
    let path = dir.join("keys/ca.key.pem");
    let pem = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    rcgen::KeyPair::from_pem(&pem).with_context(|| format!("parse {}", path.display()))
}
