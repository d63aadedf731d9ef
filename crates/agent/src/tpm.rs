//! The node's TPM: one thread owns it, everybody else sends it work.
//!
//! Real TPMs take one command at a time and need from milliseconds to seconds for it. The agent never starts, clears or
//! extends it: that is the firmware's business.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use casemate_api::node::{MAX_EVENT_LOG, MAX_IMA_LIST};
use casemate_attester::{AccessError, Attester as _, Tpm, TpmAttester, TpmError, Transport, quote_bundle};
use casemate_evidence::instance::{NODE_PCRS, QuoteBundle};
use tokio::sync::{mpsc, oneshot};

use crate::files::FileError;

/// Work that waits for the TPM.
const MAX_JOBS: usize = 64;

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
    /// A log is longer than what a message carries.
    #[error("the log {} has more than {limit} bytes{}", path.display(), if *offset > 0 { format!(" after the first {offset}") } else { String::new() })]
    LongLog {
        /// Which.
        path: PathBuf,
        /// From where it was read.
        offset: u64,
        /// The limit.
        limit: usize,
    },
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

/// Where the logs are.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    /// The firmware's.
    pub(crate) firmware: PathBuf,
    /// Events of the node's own software, where somebody else than the firmware measured it.
    pub(crate) software: Option<PathBuf>,
    /// The kernel's list of files.
    pub(crate) ima: Option<PathBuf>,
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
    logs: Logs,
    attester: Option<Attester>,
}

impl NodeTpm {
    /// Starts the thread. It ends when the last clone of what is returned is dropped.
    ///
    /// # Panics
    /// When the system has no room for another thread.
    pub(crate) fn start(access: String, logs: Logs) -> Self {
        let (jobs, mut queue) = mpsc::channel::<Job>(MAX_JOBS);
        let mut owner = Owner { access, logs, attester: None };
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
            Ok(NodeQuote { bundle, event_log: owner.logs.events()? })
        })
        .await
    }

    /// The same with the kernel's list of files from byte `offset` on, where the node has one. It is read after the quote, so that it
    /// leads there at least.
    pub(crate) async fn quote_with_files(
        &self,
        qualifying: [u8; 32],
        offset: u64,
    ) -> Result<(NodeQuote, Option<Vec<u8>>), NodeTpmError> {
        let quote = self.quote(qualifying).await?;
        let list = self.run(move |owner| owner.logs.files(offset)).await?;
        Ok((quote, list))
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
}

impl Logs {
    /// What was measured at the start of the machine, and of the node's software.
    fn events(&self) -> Result<Vec<u8>, NodeTpmError> {
        let mut log = read_from(&self.firmware, 0, MAX_EVENT_LOG)?;
        if let Some(software) = &self.software {
            log.extend(read_from(software, 0, MAX_EVENT_LOG.saturating_sub(log.len()))?);
        }
        Ok(log)
    }

    /// The list of files from byte `offset` on.
    fn files(&self, offset: u64) -> Result<Option<Vec<u8>>, NodeTpmError> {
        self.ima.as_deref().map(|path| read_from(path, offset, MAX_IMA_LIST)).transpose()
    }
}

/// Files of securityfs have no size: they are read to the end, with a limit.
fn read_from(path: &Path, offset: u64, limit: usize) -> Result<Vec<u8>, NodeTpmError> {
    let mut file = File::open(path).map_err(FileError::at("open log", path))?;
    file.seek(SeekFrom::Start(offset)).map_err(FileError::at("seek in log", path))?;
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(FileError::at("read log", path))?;
    if bytes.len() > limit {
        return Err(NodeTpmError::LongLog { path: path.to_owned(), offset, limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_read_whole_or_from_where_the_platform_left_off() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (firmware, software, list) = (at("firmware", b"boot"), at("software", b"agent"), at("list", b"0123456789"));
        let logs = Logs { firmware: firmware.clone(), software: Some(software), ima: Some(list.clone()) };
        assert_eq!(logs.events().unwrap(), b"bootagent");
        assert_eq!(logs.files(0).unwrap().unwrap(), b"0123456789");
        assert_eq!(logs.files(4).unwrap().unwrap(), b"456789");
        assert_eq!(logs.files(99).unwrap().unwrap(), b"");
        let alone = Logs { software: None, ima: None, ..logs };
        assert_eq!((alone.events().unwrap(), alone.files(0).unwrap()), (b"boot".to_vec(), None));

        let problem = read_from(&list, 2, 7).unwrap_err().to_string();
        assert!(problem.ends_with("has more than 7 bytes after the first 2"), "{problem}");
        assert_eq!(read_from(&list, 2, 8).unwrap(), b"23456789");
        let absent = Logs { firmware: dir.path().join("absent"), software: None, ima: None };
        assert!(absent.events().unwrap_err().to_string().starts_with("open log"));
    }
}
