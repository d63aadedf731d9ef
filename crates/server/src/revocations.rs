//! The revocation list in force: signed by the configured key, and never replaced by an older one.
//!
//! A platform for development may issue its own list, with a key that it makes itself: empty, short-lived, renewed in time. So there
//! is no appraisal without a list anywhere, and whoever wants to revoke something has only to bring a key.

use std::{
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::rest;
use casemate_verifier::{
    UnixTime,
    revocation::{RevocationList, Revocations},
};
use ed25519_dalek::SigningKey;
use serde::Deserialize;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use crate::{
    clock::now_ms,
    config::RevocationSource,
    drain::drained,
    fault::{Fault, chain},
    files::{self, FileError},
    store::Store,
};

/// Longest list, in bytes.
pub const MAX_REVOCATIONS: usize = 4 << 20;
/// Life of a list of one's own; it is renewed when half of it is over.
const OWN_LIFE_S: u64 = 24 * 3600;
/// How often that is looked at.
const TICK: Duration = Duration::from_secs(60);

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// A file of the data folder failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// What is stored is not what was written.
    #[error("the key of revocation lists in the data folder is damaged")]
    Damaged,
    /// The system has no randomness.
    #[error("draw randomness")]
    Randomness(#[source] getrandom::Error),
    /// The store.
    #[error("read or write the revocation list")]
    Store(#[source] Fault),
}

/// A list whose signature was verified, as it came.
#[derive(Debug)]
pub struct Held {
    /// The list.
    pub list: RevocationList,
    /// Until when it is fresh, seconds since 1970.
    pub next_update: u64,
    issued_at: u64,
    file: String,
}

/// The list in force, if there is one; cheap to clone.
#[derive(Debug, Clone)]
pub struct Keeper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    signer: Signer,
    held: RwLock<Option<Arc<Held>>>,
}

/// Who signs lists.
enum Signer {
    Nobody,
    Pinned([u8; 32]),
    Own(SigningKey),
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nobody => "Nobody",
            Self::Pinned(_) => "Pinned",
            Self::Own(_) => "Own",
        })
    }
}

impl Keeper {
    /// What the store has. A list that the configured key did not sign is left out, and said so.
    pub async fn open(shared_dir: &Path, store: &Store, source: RevocationSource) -> Result<Self, KeeperError> {
        let signer = match source {
            RevocationSource::Nobody => Signer::Nobody,
            RevocationSource::Pinned(key) => Signer::Pinned(key),
            RevocationSource::Own => Signer::Own(own_key(shared_dir)?),
        };
        let stored = store.revocations().await.map_err(|error| KeeperError::Store(error.into()))?;
        let held = signer.public().zip(stored).and_then(|(key, (serial, file))| {
            let held = Held::verified(&file, &key).inspect_err(|fault| {
                tracing::error!(serial, error = %fault, "the stored revocation list is not used; put a new one");
            });
            held.ok().map(Arc::new)
        });
        let keeper = Self(Arc::new(Inner { store: store.clone(), signer, held: RwLock::new(held) }));
        keeper.renew(now_ms() / 1000).await.map_err(KeeperError::Store)?;
        Ok(keeper)
    }

    /// The list in force, also where another replica took it a moment ago. Nothing may be judged by an older one.
    pub async fn in_force(&self) -> Result<Option<Arc<Held>>, Fault> {
        let known = self.held().map(|held| held.list.serial());
        let Some(key) = self.0.signer.public() else { return Ok(None) };
        if let Some((serial, file)) = self.0.store.revocations_after(known).await? {
            let new = Held::verified(&file, &key).inspect_err(|fault| {
                tracing::error!(serial, error = %fault, "the stored revocation list is not used; put a new one");
            });
            let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
            *held = new.ok().map(Arc::new);
        }
        Ok(self.held())
    }

    /// The list that this replica knows of.
    pub fn held(&self) -> Option<Arc<Held>> {
        self.0.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The list in force, for clients.
    pub async fn view(&self) -> Result<rest::Revocations, Fault> {
        let held = self.in_force().await?;
        held.map(|held| held.view()).ok_or_else(|| Fault::NotFound { what: "list", id: "revocations".to_owned() })
    }

    /// Replaces the list. A lower serial than one that was ever accepted is refused, also after a restart.
    pub async fn put(&self, file: &[u8]) -> Result<rest::Revocations, Fault> {
        let key = match &self.0.signer {
            Signer::Pinned(key) => key,
            Signer::Own(_) => {
                let detail = "this platform issues its own, empty lists (own_revocation_list)".to_owned();
                return Err(Fault::Conflict { detail });
            }
            Signer::Nobody => {
                let detail = "this verifier knows no key that signs revocation lists (verifier.revocation_key)".to_owned();
                return Err(Fault::Conflict { detail });
            }
        };
        let file = std::str::from_utf8(file).map_err(|_| unacceptable("it is not text".to_owned()))?;
        self.take(Held::verified(file, key)?).await
    }

    /// Renews a list of one's own until the server drains.
    pub async fn keep_fresh(self, mut draining: watch::Receiver<bool>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = drained(&mut draining) => return,
            }
            if let Err(fault) = self.renew(now_ms() / 1000).await {
                fault.log();
            }
        }
    }

    /// Issues a list of one's own where half of the last one's life is over.
    async fn renew(&self, now: u64) -> Result<(), Fault> {
        let Signer::Own(key) = &self.0.signer else { return Ok(()) };
        if self.in_force().await?.is_some_and(|held| held.issued_at <= now && held.next_update > now + OWN_LIFE_S / 2) {
            return Ok(());
        }
        let floor = self.0.store.revocations().await?.map_or(0, |(serial, _)| serial);
        let list = Revocations {
            version: 1,
            serial: now.max(floor.saturating_add(1)),
            issued_at: UnixTime(now),
            next_update: UnixTime(now + OWN_LIFE_S),
            chips: Default::default(),
            aks: Default::default(),
            images: Default::default(),
            silicon_generations: Default::default(),
        };
        match self.take(Held::verified(&list.to_signed(key), key.verifying_key().as_bytes())?).await {
            // Another replica was faster.
            Err(Fault::Conflict { .. }) => self.in_force().await.map(drop),
            other => other.map(drop),
        }
    }

    async fn take(&self, new: Held) -> Result<rest::Revocations, Fault> {
        let (store, serial) = (&self.0.store, new.list.serial());
        if !store.replace_revocations(serial, &new.file).await? {
            let Some((floor, stored)) = store.revocations().await? else {
                return Err(Fault::Conflict { detail: "the revocation list could not be replaced".to_owned() });
            };
            if stored != new.file {
                let detail = format!("the list has serial {serial}, but {floor} is in force; it must be higher");
                return Err(Fault::Conflict { detail });
            }
        }
        tracing::info!(serial, next_update = new.next_update, "a revocation list is in force");
        let view = new.view();
        let mut held = self.0.held.write().unwrap_or_else(PoisonError::into_inner);
        // Of two at the same time the store took both in order; the later serial stays.
        if held.as_ref().is_none_or(|held| held.list.serial() < serial) {
            *held = Some(Arc::new(new));
        }
        Ok(view)
    }
}

impl Signer {
    fn public(&self) -> Option<[u8; 32]> {
        match self {
            Self::Nobody => None,
            Self::Pinned(key) => Some(*key),
            Self::Own(key) => Some(key.verifying_key().to_bytes()),
        }
    }
}

impl Held {
    fn verified(file: &str, key: &[u8; 32]) -> Result<Self, Fault> {
        /// The signed file; that its payload is a list was verified.
        #[derive(Deserialize)]
        struct File {
            payload: String,
        }
        let list = RevocationList::from_signed(file.as_bytes(), key).map_err(|error| unacceptable(chain(&error)))?;
        let payload: Result<Revocations, _> =
            serde_json::from_str::<File>(file).and_then(|file| serde_json::from_str(&file.payload));
        let payload = payload.map_err(|error| unacceptable(error.to_string()))?;
        let (issued_at, next_update) = (payload.issued_at.0, payload.next_update.0);
        Ok(Self { list, next_update, issued_at, file: file.to_owned() })
    }

    fn view(&self) -> rest::Revocations {
        rest::Revocations {
            serial: self.list.serial(),
            issued_at: self.issued_at,
            next_update: self.next_update,
            file: self.file.clone(),
        }
    }
}

/// Made once; the public half lies in `public/revocation-key` as base64, for those who pin it.
fn own_key(shared_dir: &Path) -> Result<SigningKey, KeeperError> {
    let (keys, public) = (shared_dir.join("keys"), shared_dir.join("public"));
    files::private_dir(&keys)?;
    files::private_dir(&public)?;
    let mut fresh = [0; 32];
    getrandom::fill(&mut fresh).map_err(KeeperError::Randomness)?;
    let seed = files::keep(&keys.join("revocations.key"), &fresh)?.try_into().map_err(|_| KeeperError::Damaged)?;
    let key = SigningKey::from_bytes(&seed);
    files::write(&public.join("revocation-key"), STANDARD.encode(key.verifying_key().as_bytes()).as_bytes(), 0o644)?;
    Ok(key)
}

fn unacceptable(detail: String) -> Fault {
    Fault::Invalid { what: "revocation list", detail, hint: "send the signed file as it was made" }
}
