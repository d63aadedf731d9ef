//! The revocation list in force: signed by the configured key, and never replaced by an older one.

use std::sync::{Arc, PoisonError, RwLock};

use casemate_api::rest;
use casemate_verifier::revocation::{RevocationList, Revocations};
use serde::Deserialize;

use super::{super::Caller, Appraisals};
use crate::{
    fault::{Fault, chain},
    store::{Role, Store},
};

/// Longest list, in bytes.
pub const MAX_REVOCATIONS: usize = 4 << 20;

/// A list whose signature was verified, as it came.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) list: RevocationList,
    pub(super) next_update: u64,
    issued_at: u64,
    file: String,
}

/// The list in force, if there is one.
#[derive(Debug)]
pub(super) struct Keeper {
    key: Option<[u8; 32]>,
    held: RwLock<Option<Arc<Held>>>,
}

impl Keeper {
    /// What the store has. A list that the configured key did not sign is left out, and said so.
    pub(super) async fn open(store: &Store, key: Option<[u8; 32]>) -> Result<Self, Fault> {
        let held = match (key, store.revocations().await?) {
            (Some(key), Some((serial, file))) => {
                let held = Held::verified(&file, &key).inspect_err(|fault| {
                    tracing::error!(serial, error = %fault, "the stored revocation list is not used; put a new one");
                });
                held.ok().map(Arc::new)
            }
            _ => None,
        };
        Ok(Self { key, held: RwLock::new(held) })
    }

    /// The list in force.
    pub(super) fn held(&self) -> Option<Arc<Held>> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, new: Arc<Held>) {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        // Of two at the same time the store took both in order; the later serial stays.
        if held.as_ref().is_none_or(|held| held.list.serial() < new.list.serial()) {
            *held = Some(new);
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

impl Appraisals {
    /// Replaces the list. A lower serial than one that was ever accepted is refused, also after a restart.
    pub async fn put_revocations(&self, caller: &Caller, file: &[u8]) -> Result<rest::Revocations, Fault> {
        if caller.role != Role::Operator {
            return Err(Fault::Forbidden("replace the revocation list; that needs an operator's token"));
        }
        let keeper = &self.0.revocations;
        let key = keeper.key.ok_or_else(|| Fault::Conflict {
            detail: "this verifier knows no key that signs revocation lists (verifier.revocation_key)".to_owned(),
        })?;
        let file = std::str::from_utf8(file).map_err(|_| unacceptable("it is not text".to_owned()))?;
        let new = Held::verified(file, &key)?;
        let serial = new.list.serial();
        if !self.store().replace_revocations(serial, file).await? {
            let Some((floor, stored)) = self.store().revocations().await? else {
                return Err(Fault::Conflict { detail: "the revocation list could not be replaced".to_owned() });
            };
            if stored != file {
                let detail = format!("the list has serial {serial}, but {floor} is in force; it must be higher");
                return Err(Fault::Conflict { detail });
            }
        }
        tracing::info!(serial, next_update = new.next_update, "a revocation list is in force");
        let view = new.view();
        keeper.replace(Arc::new(new));
        Ok(view)
    }

    /// The list in force.
    pub async fn revocations(&self, _caller: &Caller) -> Result<rest::Revocations, Fault> {
        let held = self.0.revocations.held();
        held.map(|held| held.view()).ok_or_else(|| Fault::NotFound { what: "list", id: "revocations".to_owned() })
    }
}

fn unacceptable(detail: String) -> Fault {
    Fault::Invalid { what: "revocation list", detail, hint: "send the signed file as it was made" }
}
