//! Answers on disk, each in one file that is named by the digest of the question. What is not whole or not about the question is
//! as good as absent.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How old an answer may be when it is handed out. Counted from when it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Of what says something about now: revocation lists, OCSP answers, TCB info, identities, manifests.
    pub statements: Duration,
    /// Of certificates, which say nothing about now and are named by what they are for. AMD limits how often one may ask.
    pub certificates: Duration,
}

impl Default for Floor {
    /// A day, and 30 days.
    fn default() -> Self {
        Self { statements: Duration::from_secs(24 * 3600), certificates: Duration::from_secs(30 * 24 * 3600) }
    }
}

impl Floor {
    /// The same for all.
    pub const fn of(age: Duration) -> Self {
        Self { statements: age, certificates: age }
    }
}

/// Which of the two ages is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Statement,
    Certificate,
}

impl Floor {
    pub(crate) fn of_life(self, life: Life) -> Duration {
        match life {
            Life::Statement => self.statements,
            Life::Certificate => self.certificates,
        }
    }
}

/// An answer, with when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// In the form that the verifier takes.
    pub(crate) body: Vec<u8>,
    /// The chain of who signed it, where that comes beside it.
    pub(crate) issuers: Option<String>,
    /// Seconds since 1970.
    pub(crate) asked_at: u64,
}

impl Kept {
    /// Whether it may be handed out at `now`. What is from the future is of unknown age, so it may not.
    pub(crate) fn is_fresh(&self, now: u64, floor: Duration) -> bool {
        now.checked_sub(self.asked_at).is_some_and(|age| age <= floor.as_secs())
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    version: u16,
    question: String,
    asked_at: u64,
    issuers: Option<String>,
    sha256: String,
    body: String,
}

impl Store {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    /// What was kept of a question.
    pub(crate) fn load(&self, question: &str) -> Option<Kept> {
        let mut bytes = Vec::new();
        fs::File::open(self.path(question)).ok()?.take(MAX_FILE + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > MAX_FILE {
            return None;
        }
        let found: OnDisk = serde_json::from_slice(&bytes).ok()?;
        let body = BASE64.decode(&found.body).ok()?;
        let whole = found.version == 1 && found.question == question && found.sha256 == hex::encode(Sha256::digest(&body));
        whole.then_some(Kept { body, issuers: found.issuers, asked_at: found.asked_at })
    }

    /// Replaces what was kept, whole or not at all.
    pub(crate) fn save(&self, question: &str, kept: &Kept) -> io::Result<()> {
        let on_disk = OnDisk {
            version: 1,
            question: question.to_owned(),
            asked_at: kept.asked_at,
            issuers: kept.issuers.clone(),
            sha256: hex::encode(Sha256::digest(&kept.body)),
            body: BASE64.encode(&kept.body),
        };
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        serde_json::to_writer(&mut file, &on_disk)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(self.path(question)).map_err(|error| error.error)?;
        Ok(())
    }

    fn path(&self, question: &str) -> PathBuf {
        self.dir.join(format!("{}.json", hex::encode(Sha256::digest(question))))
    }
}

/// Largest file: the largest answer in base64, and what is around it.
const MAX_FILE: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn kept() -> Kept {
        Kept { body: b"answer".to_vec(), issuers: Some("chain".into()), asked_at: 1000 }
    }

    #[test]
    fn what_is_saved_comes_back_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("cache")).unwrap();
        assert_eq!(fs::metadata(dir.path().join("cache")).unwrap().permissions().mode() & 0o777, 0o700);
        store.save("GET a", &kept()).unwrap();
        assert_eq!(store.load("GET a"), Some(kept()));
        assert_eq!(store.load("GET b"), None);
        // Another question's file under this one's name.
        fs::copy(store.path("GET a"), store.path("GET b")).unwrap();
        assert_eq!(store.load("GET b"), None);
        assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 2, "no temporary files are left");
    }

    #[test]
    fn a_damaged_file_is_as_good_as_absent() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().to_owned()).unwrap();
        store.save("q", &kept()).unwrap();
        let good = fs::read(store.path("q")).unwrap();
        let text = String::from_utf8(good.clone()).unwrap();
        for bad in [
            Vec::new(),
            good[..good.len() / 2].to_vec(),
            text.replace(&BASE64.encode("answer"), &BASE64.encode("anzwer")).into_bytes(),
            text.replace("\"version\":1", "\"version\":2").into_bytes(),
            vec![b' '; usize::try_from(MAX_FILE).unwrap() + 1],
        ] {
            fs::write(store.path("q"), bad).unwrap();
            assert_eq!(store.load("q"), None);
        }
        store.save("q", &kept()).unwrap();
        assert_eq!(store.load("q"), Some(kept()));
    }

    #[test]
    fn nothing_older_than_the_floor_is_fresh_and_nothing_from_the_future() {
        let floor = Duration::from_secs(10);
        assert!(kept().is_fresh(1000, floor) && kept().is_fresh(1010, floor));
        assert!(!kept().is_fresh(1011, floor) && !kept().is_fresh(999, floor) && !kept().is_fresh(0, floor));
        assert!(kept().is_fresh(1000, Duration::ZERO) && !kept().is_fresh(1001, Duration::ZERO));
    }
}
