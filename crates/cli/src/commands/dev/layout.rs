//! Where the development platform and node keep their things.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use crate::context;

/// Folders and files below one state folder, and a short run folder for sockets.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) state: PathBuf,
    /// Short, because a Unix socket's path has at most 107 bytes.
    pub(super) run: PathBuf,
}

impl Layout {
    pub(super) fn new(state: Option<PathBuf>) -> anyhow::Result<Self> {
        let state = match state {
            Some(state) => std::path::absolute(&state).with_context(|| format!("resolve {}", state.display()))?,
            None => context::state_dir()?.join("dev"),
        };
        let digest = hex::encode(&Sha256::digest(state.as_os_str().as_encoded_bytes())[..4]);
        Ok(Self { run: PathBuf::from(format!("/run/casemate-dev-{digest}")), state })
    }

    /// Creates the folders, for root only.
    pub(super) fn create(&self) -> anyhow::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        for dir in [&self.state, &self.run, &self.tpm(), &self.tpm_ca(), &self.logs()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| format!("create folder {}", dir.display()))?;
        }
        Ok(())
    }

    /// Removes everything; only after `down`.
    pub(super) fn purge(&self) -> anyhow::Result<()> {
        match fs::remove_dir_all(&self.state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.state.display()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn tpm(&self) -> PathBuf {
        self.state.join("tpm")
    }
    pub(super) fn tpm_ca(&self) -> PathBuf {
        self.state.join("tpm-ca")
    }
    pub(super) fn tpm_socket(&self) -> PathBuf {
        self.run.join("tpm.sock")
    }
    pub(super) fn event_log(&self) -> PathBuf {
        self.state.join("event-log.bin")
    }
    pub(super) fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }
    pub(super) fn server_data(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }
    pub(super) fn server_config(&self, name: &str) -> PathBuf {
        self.state.join(format!("{name}.toml"))
    }
    /// Keys and blobs: of one server its own folder, of replicas one beside them.
    pub(super) fn shared(&self, replicas: bool) -> PathBuf {
        self.state.join(if replicas { "shared" } else { "server" })
    }
    pub(super) fn postgres_data(&self) -> PathBuf {
        self.state.join("postgres")
    }
    pub(super) fn agent_data(&self) -> PathBuf {
        self.state.join("agent")
    }
    pub(super) fn agent_run(&self) -> PathBuf {
        self.run.join("agent")
    }
    pub(super) fn agent_config(&self) -> PathBuf {
        self.state.join("agent.toml")
    }
    pub(super) fn bootstrap_token(&self) -> PathBuf {
        self.state.join("bootstrap-token")
    }
    pub(super) fn reference_values(&self) -> PathBuf {
        self.state.join("reference-values.json")
    }
    pub(super) fn reference_key(&self) -> PathBuf {
        self.state.join("reference.key")
    }
    pub(super) fn context(&self) -> PathBuf {
        self.state.join("context.json")
    }
    /// The same for the platform's operator.
    pub(super) fn operator_context(&self) -> PathBuf {
        self.state.join("operator.json")
    }
    pub(super) fn pid_file(&self, name: &str) -> PathBuf {
        self.state.join(format!("{name}.pid"))
    }
}
