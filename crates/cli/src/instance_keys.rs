//! What the tenant keeps of an instance: its private key and what was verified. Mode 0600, in the tenant's data folder.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use casemate_seal::HpkeSecret;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{context, exit::Hinted};

/// The tenant's own record of an instance.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub(crate) struct InstanceKeys {
    /// The instance.
    #[zeroize(skip)]
    pub(crate) instance: String,
    /// Digest of the workload that the tenant submitted, hex.
    #[zeroize(skip)]
    pub(crate) workload_digest: String,
    /// Seed of the tenant's X25519 key, hex.
    pub(crate) tenant_seed: String,
    /// The guest's HPKE key, hex, once this CLI verified it.
    #[zeroize(skip)]
    pub(crate) guest_hpke: Option<String>,
    /// Digest of the launch record that was verified, hex.
    #[zeroize(skip)]
    pub(crate) launch_record_digest: Option<String>,
}

impl InstanceKeys {
    pub(crate) fn load(instance: &str) -> anyhow::Result<Self> {
        let path = path(instance)?;
        let text = match fs::read_to_string(&path) {
            Ok(text) => zeroize::Zeroizing::new(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let hint = format!("the instance was started elsewhere; its key is in {} there", path.display());
                return Err(Hinted { message: format!("this user has no key of instance {instance}"), hint }.into());
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))
    }

    pub(crate) fn save(&self) -> anyhow::Result<()> {
        context::write_private(&path(&self.instance)?, &zeroize::Zeroizing::new(serde_json::to_vec(self)?))
    }

    pub(crate) fn remove(instance: &str) -> anyhow::Result<()> {
        match fs::remove_file(path(instance)?) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn tenant(&self) -> anyhow::Result<HpkeSecret> {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        hex::decode_to_slice(&self.tenant_seed, seed.as_mut()).context("read the tenant's key")?;
        Ok(HpkeSecret::from_seed(*seed))
    }

    pub(crate) fn workload_digest(&self) -> anyhow::Result<[u8; 32]> {
        casemate_api::workload::parse_hex32(&self.workload_digest).context("read the workload digest")
    }
}

fn path(instance: &str) -> anyhow::Result<PathBuf> {
    let id: casemate_lifecycle::InstanceId = instance.parse().with_context(|| format!("read instance id {instance:?}"))?;
    Ok(context::data_dir()?.join("instances").join(format!("{id}.json")))
}
