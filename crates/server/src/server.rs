//! Puts the parts together and runs them.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use casemate_verifier::TrustAnchors;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::{
    appraiser::Appraiser,
    authority::{Authority, AuthorityError, lone_certificate},
    blobs::Blobs,
    clock::now_ms,
    config::{PlatformSettings, Settings, Simulated, VerifierSettings},
    files::{self, FileError},
    grpc::NodeApi,
    listener, rest,
    revocations::{Keeper, KeeperError},
    service::{
        Accounts, Parts, Rules, Service,
        appraisals::{AppraisalParts, AppraisalStartError, Appraisals},
        forget, keep_alive,
    },
    store::{Replica, Store, StoreAccess, StoreError},
    webhooks::Sender,
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
    /// The verifier failed.
    #[error("prepare the verifier")]
    Appraisals(#[from] AppraisalStartError),
    /// The revocation list failed.
    #[error("prepare the revocation list")]
    Revocations(#[from] KeeperError),
    /// This server has other keys than the platform that the database belongs to.
    #[error("the key of {0} is not the one that this platform began with; all replicas need the same shared_dir")]
    OtherKeys(&'static str),
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
    store: Store,
    replica: Replica,
    service: Option<Service>,
    tasks: JoinSet<()>,
    rest: SocketAddr,
    node: Option<SocketAddr>,
    run_file: PathBuf,
    // Held as long as the server lives.
    _lock: File,
}

impl Server {
    /// Opens the data folder, listens, and writes `run.json`. Serves until `draining` becomes `true`.
    ///
    /// The one place that decides what a role means: `platform` is the REST routes of `api`, the listener of `nodes` and the upkeep
    /// of instances; `verifier` is its routes. What every server has is REST, a certificate of its own, and forgetting.
    pub async fn start(settings: Settings, draining: watch::Receiver<bool>) -> Result<Self, StartError> {
        let Settings {
            data_dir,
            shared_dir,
            store,
            replica_life,
            roles,
            rest_addr,
            names,
            simulated,
            revocations,
            quota,
            rates,
            platform,
            verifier,
        } = settings;
        files::private_dir(&data_dir)?;
        let lock = files::lock(&data_dir.join("lock"))?;
        let alone = matches!(store, StoreAccess::Sqlite(_));
        let store = Store::open(&store).await?;
        let replica = begin_replica(&store, alone, replica_life).await?;
        // Who certifies no nodes has no authority that somebody could take.
        let authority = platform.as_ref().map(|_| Authority::open(&shared_dir, now_ms())).transpose()?;
        if let Some(authority) = &authority {
            same_keys(&store, authority).await?;
        }
        let (chain, key) = match &authority {
            Some(authority) => authority.server_certificate(&names, now_ms())?,
            None => lone_certificate(&data_dir, &names, now_ms())?,
        };
        let certificate = Certificate { chain, key };

        let shared = Shared {
            revocations: Keeper::open(&shared_dir, &store, revocations).await?,
            rules: Rules::new(store.clone()),
            simulated,
        };
        let appraisals = match verifier {
            None => None,
            Some(verifier) => {
                // A platform's own nodes are its verifier's, too.
                let own_ca = authority.as_ref().map(Authority::certificate_pem);
                let parts = appraisal_parts(verifier, own_ca, &store, &shared)?;
                Some(Appraisals::open(&shared_dir, parts)?)
            }
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_alive(store.clone(), replica.clone(), replica_life, draining.clone()));
        tasks.spawn(forget(store.clone(), replica.clone(), draining.clone()));
        tasks.spawn(shared.revocations.clone().keep_fresh(draining.clone()));
        let (mut service, mut node) = (None, None);
        if let Some((settings, authority)) = platform.zip(authority) {
            let node_tls = certificate.tls(Some(authority.certificate()), &[b"h2"])?;
            let (listener, address) = listen(settings.node_addr).await?;
            let platform = platform_service(&shared_dir, (&store, &replica), authority, settings, &shared, &draining)?;
            // Listening begins before anything can happen that somebody waits for.
            tasks.spawn(platform.clone().pass_on(store.awake()));
            tasks.spawn(store.clone().hear_replicas(draining.clone()));
            tasks.spawn(listener::serve(listener, node_tls, NodeApi::new(platform.clone()), draining.clone()));
            tasks.spawn(platform.clone().upkeep());
            tasks.spawn(platform.clone().deliver());
            (service, node) = (Some(platform), Some(address));
        }
        let (listener, rest) = listen(rest_addr).await?;
        let (accounts, gate) = (Accounts::new(store.clone(), quota), rest::Gate::new(store.clone(), rates));
        let common = rest::Common { store: store.clone(), roles, accounts, gate };
        let router = rest::router(rest::Served { common, api: service.clone(), verifier: appraisals });
        tasks.spawn(listener::serve(listener, certificate.tls(None, &[b"h2", b"http/1.1"])?, router, draining));

        let run_file = data_dir.join("run.json");
        write_run_file(&run_file, rest, node)?;
        tracing::info!(rest.address = %rest, node.address = node.map(tracing::field::display), "the server listens");
        Ok(Self { store, replica, service, tasks, rest, node, run_file, _lock: lock })
    }

    /// Where REST listens.
    pub fn rest(&self) -> SocketAddr {
        self.rest
    }

    /// Where nodes connect, if they can.
    pub fn node(&self) -> Option<SocketAddr> {
        self.node
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The services of the platform, if this server runs it.
    pub fn service(&self) -> Option<&Service> {
        self.service.as_ref()
    }

    /// Waits until everything has ended after a drain.
    pub async fn wait(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(error = %error, "a task of the server failed");
            }
        }
        // What this server did is another one's at once, and not when its time is over.
        if let Err(error) = self.store.end_replica(&self.replica).await {
            tracing::warn!(error.chain = %crate::fault::chain(&error), "the end of this replica was not noted");
        }
        self.store.close().await;
        // A stale file only names a process that is gone.
        let _ = std::fs::remove_file(&self.run_file);
        tracing::info!("the server has stopped");
    }
}

/// Says in the store that this server lives. One that is alone has a lock, which says that nobody else does.
async fn begin_replica(store: &Store, alone: bool, life: std::time::Duration) -> Result<Replica, StartError> {
    let replica = Replica::new();
    if alone {
        store.end_other_replicas(&replica).await?;
    }
    store.renew_replica(&replica, u64::try_from(life.as_millis()).unwrap_or(u64::MAX)).await?;
    Ok(replica)
}

/// Nodes and tenants pin these keys: a replica with others would be another platform.
async fn same_keys(store: &Store, authority: &Authority) -> Result<(), StartError> {
    let assignments = Sha256::digest(authority.assignment_public()).into();
    let certificate = Sha256::digest(authority.certificate()).into();
    for (name, digest) in [("certificates", certificate), ("assignments", assignments)] {
        if !store.same_key(name, &digest).await? {
            return Err(StartError::OtherKeys(name));
        }
    }
    Ok(())
}

/// What both the platform and the verifier judge by.
#[derive(Clone)]
struct Shared {
    revocations: Keeper,
    rules: Rules,
    simulated: Simulated,
}

fn appraisal_parts(
    settings: VerifierSettings,
    own_ca: Option<String>,
    store: &Store,
    shared: &Shared,
) -> Result<AppraisalParts, StartError> {
    let VerifierSettings { platform_ca, vendor_roots, references, developer, limits } = settings;
    let platform_ca = own_ca.unwrap_or_default() + &platform_ca;
    let anchors = match (platform_ca.is_empty(), vendor_roots.is_empty()) {
        (false, false) => Some(TrustAnchors::new(&platform_ca, &vendor_roots)?),
        _ => None,
    };
    let Shared { revocations, rules, simulated } = shared.clone();
    Ok(AppraisalParts { store: store.clone(), anchors, references, simulated, revocations, rules, developer, limits })
}

fn platform_service(
    shared_dir: &Path,
    (store, replica): (&Store, &Replica),
    authority: Authority,
    settings: PlatformSettings,
    shared: &Shared,
    draining: &watch::Receiver<bool>,
) -> Result<Service, StartError> {
    let PlatformSettings { references, vendor_roots, node_policy, last_word, reach, limits, .. } = settings;
    let Shared { revocations, rules, simulated } = shared.clone();
    let appraiser = Appraiser::new(&authority.certificate_pem(), &vendor_roots, references, simulated, node_policy)?;
    let blobs = Blobs::open(shared_dir.join("blobs"), limits.blob_bytes)?;
    let (store, replica, draining) = (store.clone(), replica.clone(), draining.clone());
    let parts = Parts {
        store,
        replica,
        blobs,
        authority,
        appraiser,
        revocations,
        rules,
        last_word,
        sender: Sender::new(reach),
        limits,
        draining,
    };
    Ok(Service::new(parts))
}

fn write_run_file(path: &Path, rest: SocketAddr, node: Option<SocketAddr>) -> Result<(), FileError> {
    let mut run = serde_json::json!({ "rest": rest.to_string(), "pid": std::process::id() });
    if let Some(node) = node {
        run["node"] = node.to_string().into();
    }
    files::write(path, run.to_string().as_bytes(), 0o600)
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The server's own certificate; the same for all listeners.
struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificate {
    fn tls(&self, clients: Option<&CertificateDer<'static>>, protocols: &[&[u8]]) -> Result<TlsAcceptor, StartError> {
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
        let mut config = builder.with_single_cert(self.chain.clone(), self.key.clone_key()).map_err(failed)?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
