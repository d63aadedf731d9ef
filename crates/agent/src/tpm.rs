//! The node's TPM: one thread owns it, everybody else sends it work.
//!
//! Real TPMs take one command at a time and need from milliseconds to seconds for it. The agent never starts, clears or
//! extends it: that is the firmware's business.

use std::{fs::File, io::Read as _, path::PathBuf};

use casemate_attester::{AccessError, Attester as _, Tpm, TpmAttester, TpmError, Transport, quote_bundle};
use casemate_evidence::instance::{NODE_PCRS, QuoteBundle};
use tokio::sync::{mpsc, oneshot};

use crate::files::FileError;

/// Work that waits for the TPM.
const MAX_JOBS: usize = 64;
/// Largest event log, in bytes; it travels in every evidence.
const MAX_EVENT_LOG: u64 = 512 << 10;

/// Why the node's TPM gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeTpmError {
    /// It is not reachable.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It did not do what it should.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The event log.
    #[error(transparent)]
    EventLog(#[from] FileError),
    /// The log is longer than [`MAX_EVENT_LOG`].
    #[error("the event log {} is longer than {MAX_EVENT_LOG} bytes", .0.display())]
    LongEventLog(PathBuf),
    /// Its thread has ended.
    #[error("the thread of the node's TPM has ended")]
    Gone,
}

/// What identifies the TPM.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// DER.
    pub(crate) ek_certificate: Vec<u8>,
    /// TPMT_PUBLIC.
    pub(crate) ek_public: Vec<u8>,
    /// TPMT_PUBLIC.
    pub(crate) ak_public: Vec<u8>,
}

/// A quote of the node with the log that explains its PCRs.
#[derive(Debug, Clone)]
pub(crate) struct NodeQuote {
    pub(crate) bundle: QuoteBundle,
    pub(crate) event_log: Vec<u8>,
}

/// Where work for the TPM is sent.
#[derive(Debug, Clone)]
pub(crate) struct NodeTpm {
    jobs: mpsc::Sender<Job>,
}

type Attester = TpmAttester<Box<dyn Transport + Send>>;
type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// What the thread owns; opened at the first job, and again after a failure.
struct Owner {
    access: String,
    event_log: PathBuf,
    attester: Option<Attester>,
}

impl NodeTpm {
    /// Starts the thread. It ends when the last clone of what is returned is dropped.
    ///
    /// # Panics
    /// When the system has no room for another thread.
    pub(crate) fn start(access: String, event_log: PathBuf) -> Self {
        let (jobs, mut queue) = mpsc::channel::<Job>(MAX_JOBS);
        let mut owner = Owner { access, event_log, attester: None };
        std::thread::Builder::new()
            .name("node-tpm".into())
            .stack_size(512 << 10)
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut owner);
                }
            })
            .expect("the system has room for one more thread at start");
        Self { jobs }
    }

    /// Who the TPM is.
    pub(crate) async fn identity(&self) -> Result<Identity, NodeTpmError> {
        self.run(|owner| {
            owner.with(|attester| {
                let ak_public = attester.public().to_vec();
                let tpm = attester.tpm_mut();
                let ek_certificate = tpm.read_ek_certificate()?;
                let ek = tpm.create_ek()?;
                tpm.flush(ek.handle)?;
                Ok(Identity { ek_certificate, ek_public: ek.public, ak_public })
            })
        })
        .await
    }

    /// Opens a credential that was made for this TPM and its attestation key.
    pub(crate) async fn activate(&self, blob: Vec<u8>, encrypted_secret: Vec<u8>) -> Result<Vec<u8>, NodeTpmError> {
        self.run(move |owner| {
            owner.with(|attester| {
                let ek = attester.tpm_mut().create_ek()?;
                let secret = attester.activate_credential(&ek, &blob, &encrypted_secret);
                attester.tpm_mut().flush(ek.handle)?;
                secret
            })
        })
        .await
    }

    /// Quotes [`NODE_PCRS`].
    pub(crate) async fn quote(&self, qualifying: [u8; 32]) -> Result<NodeQuote, NodeTpmError> {
        self.run(move |owner| {
            let bundle = owner.with(|attester| quote_bundle(attester, &qualifying, &NODE_PCRS))?;
            Ok(NodeQuote { bundle, event_log: owner.read_event_log()? })
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Owner) -> Result<T, NodeTpmError> + Send + 'static,
    ) -> Result<T, NodeTpmError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |owner| {
            // Whoever asked may have gone.
            let _ = reply.send(work(owner));
        });
        self.jobs.send(job).await.map_err(|_| NodeTpmError::Gone)?;
        answer.await.map_err(|_| NodeTpmError::Gone)?
    }
}

impl Owner {
    /// Does `work` with the open TPM; after a failure the next work opens it anew.
    fn with<T>(&mut self, work: impl FnOnce(&mut Attester) -> Result<T, TpmError>) -> Result<T, NodeTpmError> {
        let mut attester = match self.attester.take() {
            Some(attester) => attester,
            None => self.open()?,
        };
        let value = work(&mut attester)?;
        self.attester = Some(attester);
        Ok(value)
    }

    fn open(&self) -> Result<Attester, NodeTpmError> {
        let mut tpm = Tpm::new(casemate_attester::open(&self.access)?);
        // An agent that was killed may have left its keys in a TPM without a resource manager.
        tpm.flush_all()?;
        Ok(TpmAttester::new(tpm)?)
    }

    fn read_event_log(&self) -> Result<Vec<u8>, NodeTpmError> {
        let path = &self.event_log;
        let mut bytes = Vec::new();
        // securityfs files have no size: read to the end, with a limit.
        let file = File::open(path).map_err(FileError::at("open event log", path))?;
        file.take(MAX_EVENT_LOG + 1).read_to_end(&mut bytes).map_err(FileError::at("read event log", path))?;
        if bytes.len() as u64 > MAX_EVENT_LOG {
            return Err(NodeTpmError::LongEventLog(path.clone()));
        }
        Ok(bytes)
    }
}
