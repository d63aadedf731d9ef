//! Puts the parts together and runs them.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::{
    appraiser::Appraiser,
    authority::{Authority, AuthorityError},
    blobs::Blobs,
    clock::now_ms,
    config::Settings,
    files::{self, FileError},
    grpc::NodeApi,
    listener, rest,
    service::{Parts, Service},
    store::{Store, StoreError},
};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or folder failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store failed.
    #[error("open the store")]
    Store(#[from] StoreError),
    /// Keys or certificates failed.
    #[error("prepare keys and certificates")]
    Authority(#[from] AuthorityError),
    /// A trust anchor is not usable.
    #[error("pin the trust anchors")]
    Anchors(#[from] casemate_verifier::AnchorError),
    /// TLS could not be set up.
    #[error("set up TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An address could not be bound.
    #[error("listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    service: Service,
    tasks: JoinSet<()>,
    rest: SocketAddr,
    node: SocketAddr,
    run_file: PathBuf,
    // Held as long as the server lives.
    _lock: File,
}

impl Server {
    /// Opens the data folder, listens, and writes `run.json`. Serves until `draining` becomes `true`.
    pub async fn start(settings: Settings, draining: watch::Receiver<bool>) -> Result<Self, StartError> {
        files::private_dir(&settings.data_dir)?;
        let lock = files::lock(&settings.data_dir.join("lock"))?;
        let store = Store::open(&database(&settings.data_dir)).await?;
        let authority = Authority::open(&settings.data_dir, now_ms())?;
        let (chain, key) = authority.server_certificate(&settings.names, now_ms())?;
        let rest_tls = tls(chain.clone(), key.clone_key(), None, &[b"h2", b"http/1.1"])?;
        let node_tls = tls(chain, key, Some(authority.certificate()), &[b"h2"])?;
        let (ca_pem, roots) = (authority.certificate_pem(), &settings.vendor_roots);
        let appraiser = Appraiser::new(&ca_pem, roots, settings.references, settings.simulated)?;
        let blobs = Blobs::open(settings.data_dir.join("blobs"), settings.limits.blob_bytes)?;
        let parts = Parts { store, blobs, authority, appraiser, limits: settings.limits, draining: draining.clone() };
        let service = Service::new(parts);

        let rest_listener = listen(settings.rest_addr).await?;
        let node_listener = listen(settings.node_addr).await?;
        let address =
            |listener: &TcpListener, address| listener.local_addr().map_err(|source| StartError::Listen { address, source });
        let rest = address(&rest_listener, settings.rest_addr)?;
        let node = address(&node_listener, settings.node_addr)?;

        let mut tasks = JoinSet::new();
        tasks.spawn(listener::serve(rest_listener, rest_tls, rest::router(service.clone()), draining.clone()));
        tasks.spawn(listener::serve(node_listener, node_tls, NodeApi::new(service.clone()), draining));
        tasks.spawn(service.clone().upkeep());
        let run_file = settings.data_dir.join("run.json");
        let run = serde_json::json!({ "rest": rest.to_string(), "node": node.to_string(), "pid": std::process::id() });
        files::write(&run_file, run.to_string().as_bytes(), 0o600)?;
        tracing::info!(rest.address = %rest, node.address = %node, "the platform listens");
        Ok(Self { service, tasks, rest, node, run_file, _lock: lock })
    }

    /// Where REST listens.
    pub fn rest(&self) -> SocketAddr {
        self.rest
    }

    /// Where nodes connect.
    pub fn node(&self) -> SocketAddr {
        self.node
    }

    /// The services behind it.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Waits until everything has ended after a drain.
    pub async fn wait(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(error = %error, "a task of the server failed");
            }
        }
        self.service.store().close().await;
        // A stale file only names a process that is gone.
        let _ = std::fs::remove_file(&self.run_file);
        tracing::info!("the platform has stopped");
    }
}

/// The database file in a data folder.
pub fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("casemate.db")
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })
}

fn tls(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<&CertificateDer<'static>>,
    protocols: &[&[u8]],
) -> Result<TlsAcceptor, StartError> {
    fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StartError {
        StartError::Tls(error.into())
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = &[&rustls::version::TLS13];
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).map_err(failed)?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.clone()).map_err(failed)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            // Enrolment comes without a certificate; the node methods ask for one themselves.
            builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().map_err(failed)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(failed)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}
