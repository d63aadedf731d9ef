//! The context file: which platform, with which token, and what is trusted for it.
//!
//! Trust anchors are pinned here by the tenant; the platform's answers never change them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};

use crate::{args::Globals, exit::Hinted};

/// A platform and what is pinned for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContextFile {
    /// REST address, e.g. `https://127.0.0.1:7443`.
    pub(crate) platform: String,
    /// REST addresses of more servers of the same platform: where one is away, the next is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) replicas: Vec<String>,
    /// The platform's CA certificate, PEM: for TLS and for node certificates.
    pub(crate) platform_ca: String,
    /// API token.
    pub(crate) token: String,
    /// Ed25519 key that signs reference values, base64.
    pub(crate) reference_key: String,
    /// File with the signed reference values.
    pub(crate) reference_values: PathBuf,
    /// Ed25519 key that signs revocation lists, base64. Without one every verdict is a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revocation_key: Option<String>,
    /// TPM vendor roots, PEM.
    pub(crate) vendor_roots: Vec<String>,
    /// Whether evidence that rests on a simulator is good enough. For development only.
    pub(crate) allow_simulated: bool,
    /// Set by `casemate dev up`: which development platform this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dev_state: Option<PathBuf>,
}

impl ContextFile {
    /// The context that the options, the environment or the default path name.
    pub(crate) fn load(globals: &Globals) -> anyhow::Result<Self> {
        let path = match &globals.context {
            Some(path) => path.clone(),
            None => default_path()?,
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let hint =
                    "start a platform and node on this machine with `casemate dev up`, or name a context with --context FILE"
                        .to_owned();
                return Err(Hinted { message: format!("there is no context file {}", path.display()), hint }.into());
            }
            Err(error) => return Err(error).with_context(|| format!("read context {}", path.display())),
        };
        serde_json::from_str(&text).with_context(|| format!("parse context {}", path.display()))
    }

    /// Writes it, readable by its owner only.
    pub(crate) fn save(&self, path: &Path) -> anyhow::Result<()> {
        write_private(path, &serde_json::to_vec_pretty(self)?)
    }

    /// The pinned key of revocation lists.
    pub(crate) fn revocation_key(&self) -> anyhow::Result<Option<[u8; 32]>> {
        let Some(text) = &self.revocation_key else { return Ok(None) };
        let bytes = BASE64.decode(text).context("decode revocation_key of the context")?;
        let key = bytes.try_into().map_err(|_| anyhow::anyhow!("revocation_key of the context does not have 32 bytes"));
        key.map(Some)
    }

    /// The pinned key of the reference values.
    pub(crate) fn reference_key(&self) -> anyhow::Result<[u8; 32]> {
        let bytes = BASE64.decode(&self.reference_key).context("decode reference_key of the context")?;
        bytes.try_into().map_err(|_| anyhow::anyhow!("reference_key of the context does not have 32 bytes"))
    }
}

/// `$XDG_CONFIG_HOME/casemate/context.json`.
pub(crate) fn default_path() -> anyhow::Result<PathBuf> {
    Ok(base_dir("XDG_CONFIG_HOME", ".config")?.join("casemate/context.json"))
}

/// `$XDG_DATA_HOME/casemate`.
pub(crate) fn data_dir() -> anyhow::Result<PathBuf> {
    Ok(base_dir("XDG_DATA_HOME", ".local/share")?.join("casemate"))
}

/// `$XDG_STATE_HOME/casemate`.
pub(crate) fn state_dir() -> anyhow::Result<PathBuf> {
    Ok(base_dir("XDG_STATE_HOME", ".local/state")?.join("casemate"))
}

/// `$XDG_CACHE_HOME/casemate`.
pub(crate) fn cache_dir() -> anyhow::Result<PathBuf> {
    Ok(base_dir("XDG_CACHE_HOME", ".cache")?.join("casemate"))
}

/// Creates or replaces a file of mode 0600 in a folder of mode 0700, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    use std::{io::Write as _, os::unix::fs::DirBuilderExt as _};
    let dir = path.parent().context("a file needs a folder")?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| format!("create folder {}", dir.display()))?;
    // A named temporary file has mode 0600 from the start.
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(|| format!("create a file in {}", dir.display()))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

fn base_dir(variable: &str, below_home: &str) -> anyhow::Result<PathBuf> {
    if let Some(dir) = std::env::var_os(variable).filter(|dir| Path::new(dir).is_absolute()) {
        return Ok(dir.into());
    }
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    Ok(PathBuf::from(home).join(below_home))
}
