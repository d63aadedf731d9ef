//! Enrolment and renewal: no passing appraisal, no certificate.
//!
//! ```text
//! node                                     platform
//! EK certificate, EK, AK, request   --->   EK chain to its vendor's root?
//!                                   <---   credential that only this TPM opens, nonce
//! opened secret, quote over nonce   --->   same TPM? measured as it should be?
//! and request                       <---   node certificate, bound to the AK
//! ```

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use casemate_api::node::{
    self, EnrolChallenge, EnrolProof, EnrolRequest, RenewNonce, RenewProof, RenewRequest, node_client::NodeClient,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tonic::transport::Channel;

use crate::{
    clock,
    config::Config,
    credential::{CertificateRequest, Credential, CredentialError},
    failure,
    files::{self, FileError},
    platform::{self, Platform},
    tpm::{NodeQuote, NodeTpm, NodeTpmError},
};

/// Domain of the qualifying data at enrolment.
const ENROL: &[u8] = b"casemate/enrol/v1";
/// Domain of the qualifying data at renewal.
const RENEW: &[u8] = b"casemate/renew/v1";
/// Longest wait for one answer of the platform.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// First pause after a refusal or a failure; doubles.
const RETRY: Duration = Duration::from_secs(1);
/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Renewal happens within this time before it is due, or a quarter of the time left: not all nodes at once.
const JITTER_MS: u64 = 30_000;
/// Longest name of a start of the machine, in bytes.
const MAX_BOOT_ID: u64 = 64;
/// Largest token file, in bytes.
const MAX_TOKEN: u64 = 4096;

/// Why the node did not get its certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    /// The token file is not readable.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no token where the configuration says.
    #[error("the node is not enrolled, and there is no bootstrap token: set bootstrap_token_file to a file with one")]
    NoToken,
    /// A file of `ek_intermediates`.
    #[error("read certificates {path}")]
    Intermediates {
        path: String,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The node's TPM.
    #[error(transparent)]
    Tpm(#[from] NodeTpmError),
    /// Keys, request, file.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The address or the certificate of the platform.
    #[error("set up the connection to the platform")]
    Connection(#[from] tonic::transport::Error),
    /// The platform refused, or was not there.
    #[error("{attempt}: the platform answered {:?}: {}", status.code(), status.message())]
    Platform { attempt: &'static str, status: Box<tonic::Status> },
    /// It took too long.
    #[error("{attempt}: the platform did not answer within 60 s")]
    Timeout { attempt: &'static str },
    /// Its answer makes no sense.
    #[error("the platform's nonce is not 32 bytes long")]
    Nonce,
}

/// What enrolment needs of the agent.
#[derive(Clone)]
pub(crate) struct Enroller {
    pub(crate) config: Config,
    pub(crate) ca_pem: String,
    pub(crate) tpm: NodeTpm,
    /// Public half of the receipt key.
    pub(crate) receipt_key: [u8; 32],
    pub(crate) inventory: node::Inventory,
}

impl Enroller {
    /// Enrols at one server with the bootstrap token; the credential is on disk when this returns.
    pub(crate) async fn enrol(&self, server: &str) -> Result<Credential, EnrolError> {
        let bootstrap_token = self.token()?;
        let identity = self.tpm.identity().await?;
        let request = CertificateRequest::new()?;
        let mut ek_chain = vec![identity.ek_certificate];
        ek_chain.extend(self.intermediates()?);
        let mut client = platform::enrolment(server, &self.ca_pem)?;
        let begin = EnrolRequest {
            bootstrap_token,
            ek_chain,
            ek_public: identity.ek_public,
            ak_public: identity.ak_public,
            csr: request.der.clone(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            receipt_key: self.receipt_key.to_vec(),
        };
        let challenge: EnrolChallenge = answer("begin enrolment", client.begin(begin)).await?;
        let secret = self.tpm.activate(challenge.credential_blob, challenge.encrypted_secret).await?;
        let quote = self.quote(ENROL, &challenge.nonce, &request.der, 0).await?;
        let proof =
            EnrolProof { session: challenge.session, secret, quote: Some(quote), inventory: Some(self.inventory.clone()) };
        let credential = answer("finish enrolment", client.finish(proof)).await?;
        self.keep(credential, &request)
    }

    /// Renews the certificate with a fresh quote.
    pub(crate) async fn renew(&self, mut client: NodeClient<Channel>) -> Result<Credential, EnrolError> {
        let RenewNonce { nonce, ima_offset } = answer("begin renewal", client.renew_challenge(RenewRequest {})).await?;
        let request = CertificateRequest::new()?;
        // After another start of the machine the list begins anew, whatever the platform remembers.
        let offset = if self.sent_in_this_boot()? { ima_offset } else { 0 };
        let quote = self.quote(RENEW, &nonce, &request.der, offset).await?;
        let receipt_key = self.receipt_key.to_vec();
        let proof = RenewProof { csr: request.der.clone(), quote: Some(quote), nonce, receipt_key };
        let credential = answer("renew", client.renew(proof)).await?;
        self.keep(credential, &request)
    }

    /// Enrols, however often it takes.
    pub(crate) async fn enrol_until_done(&self) -> Credential {
        let mut pause = RETRY;
        for server in self.config.platform.iter().cycle() {
            match self.enrol(server).await {
                Ok(credential) => return credential,
                Err(error) => tracing::error!(error = failure::chain(&error), retry_s = pause.as_secs(), "enrolment failed"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        unreachable!("the configuration names at least one server")
    }

    /// Keeps the certificate fresh for as long as the agent runs, and renews it at once when `wanted`.
    pub(crate) async fn keep_renewed(self, mut credential: Credential, platform: watch::Sender<Arc<Platform>>, wanted: &Notify) {
        let mut pause = RETRY;
        loop {
            let left = credential.renew_at_ms.saturating_sub(clock::now_ms());
            let due = credential.renew_at_ms.saturating_sub(clock::jitter(JITTER_MS.min(left / 4)));
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(due.saturating_sub(clock::now_ms()))) => {}
                () = wanted.notified() => tracing::info!("the platform wants a fresh appraisal of this node"),
            }
            let connection = platform.borrow().clone();
            match self.renew_or_enrol(&connection).await {
                Ok((fresh, connection)) => {
                    tracing::info!(node.id = %fresh.node, renew_at_ms = fresh.renew_at_ms, "node certificate renewed");
                    credential = fresh;
                    platform.send_replace(Arc::new(connection));
                    pause = RETRY;
                }
                Err(error) => {
                    tracing::error!(error = failure::chain(&error), retry_s = pause.as_secs(), "node certificate not renewed");
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
            // Also after a success: a platform that wants renewal at once, always, must not become a busy loop.
            tokio::time::sleep(pause).await;
        }
    }

    /// A certificate that has expired cannot renew itself; with a fresh token the node enrols again.
    async fn renew_or_enrol(&self, connection: &Platform) -> Result<(Credential, Platform), EnrolError> {
        let server = connection.server();
        let credential = match self.renew(connection.client_of(server)).await {
            Ok(credential) => credential,
            Err(error) if self.token().is_ok() => {
                tracing::warn!(error = failure::chain(&error), "renewal failed, enrolling again with the bootstrap token");
                connection.fail_over(server);
                self.enrol_anywhere().await?
            }
            Err(error) => {
                connection.fail_over(server);
                return Err(error);
            }
        };
        let platform = Platform::new(&self.config.platform, &self.ca_pem, &credential)?;
        Ok((credential, platform))
    }

    /// Every server once; the last one's refusal is the one to be told.
    async fn enrol_anywhere(&self) -> Result<Credential, EnrolError> {
        let (last, others) = self.config.platform.split_last().expect("the configuration names at least one server");
        for server in others {
            if let Ok(credential) = self.enrol(server).await {
                return Ok(credential);
            }
        }
        self.enrol(last).await
    }

    fn keep(&self, answer: node::NodeCredential, request: &CertificateRequest) -> Result<Credential, EnrolError> {
        let credential = Credential::new(answer, request)?;
        credential.save(&self.config.state_dir)?;
        if self.config.logs.ima.is_some() {
            files::replace(&self.sent_path(), boot_id()?.as_bytes())?;
        }
        Ok(credential)
    }

    /// Whether the platform took a list of files of this boot: this or an earlier agent sent it.
    fn sent_in_this_boot(&self) -> Result<bool, EnrolError> {
        let sent = files::read(&self.sent_path(), MAX_BOOT_ID)?;
        Ok(self.config.logs.ima.is_some() && sent == Some(boot_id()?.into_bytes()))
    }

    fn sent_path(&self) -> PathBuf {
        self.config.state_dir.join("ima-boot-id")
    }

    async fn quote(&self, domain: &[u8], nonce: &[u8], csr: &[u8], offset: u64) -> Result<node::NodeQuote, EnrolError> {
        let nonce: [u8; 32] = nonce.try_into().map_err(|_| EnrolError::Nonce)?;
        let qualifying = qualifying(domain, &nonce, csr, &self.receipt_key);
        let (NodeQuote { bundle, event_log }, ima_list) = self.tpm.quote_with_files(qualifying, offset).await?;
        Ok(node::NodeQuote {
            attest: bundle.attest,
            signature: bundle.signature,
            pcrs: bundle.pcrs.into_iter().map(|(pcr, value)| (pcr, value.0.to_vec())).collect(),
            event_log,
            ima_offset: if ima_list.is_some() { offset } else { 0 },
            ima_list,
        })
    }

    fn token(&self) -> Result<String, EnrolError> {
        let path = self.config.bootstrap_token_file.as_deref().ok_or(EnrolError::NoToken)?;
        let bytes = files::read(path, MAX_TOKEN)?.ok_or(EnrolError::NoToken)?;
        let token = String::from_utf8(bytes).map_err(|_| EnrolError::NoToken)?.trim().to_owned();
        if token.is_empty() { Err(EnrolError::NoToken) } else { Ok(token) }
    }

    fn intermediates(&self) -> Result<Vec<Vec<u8>>, EnrolError> {
        let read = |path: &Path| -> Result<Vec<Vec<u8>>, rustls::pki_types::pem::Error> {
            CertificateDer::pem_file_iter(path)?.map(|certificate| Ok(certificate?.to_vec())).collect()
        };
        let mut all = Vec::new();
        for path in &self.config.ek_intermediates {
            all.extend(read(path).map_err(|source| EnrolError::Intermediates { path: path.display().to_string(), source })?);
        }
        Ok(all)
    }
}

/// What a node's quote is about: this nonce, this request, this receipt key.
fn qualifying(domain: &[u8], nonce: &[u8; 32], csr: &[u8], receipt_key: &[u8; 32]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(domain);
    hash.update(nonce);
    hash.update(Sha256::digest(csr));
    hash.update(receipt_key);
    hash.finalize().into()
}

/// What the kernel calls this start of the machine.
fn boot_id() -> Result<String, EnrolError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let id = files::read(path, MAX_BOOT_ID)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&id).trim().to_owned())
}

async fn answer<T>(
    attempt: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, EnrolError> {
    match timeout(ANSWER_WAIT, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(EnrolError::Platform { attempt, status: Box::new(status) }),
        Err(_) => Err(EnrolError::Timeout { attempt }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_for_one_purpose_fits_no_other() {
        let base = qualifying(ENROL, &[1; 32], b"csr", &[2; 32]);
        let others = [
            qualifying(RENEW, &[1; 32], b"csr", &[2; 32]),
            qualifying(ENROL, &[0; 32], b"csr", &[2; 32]),
            qualifying(ENROL, &[1; 32], b"other", &[2; 32]),
            qualifying(ENROL, &[1; 32], b"csr", &[3; 32]),
        ];
        assert!(others.iter().all(|other| *other != base));
    }
}
