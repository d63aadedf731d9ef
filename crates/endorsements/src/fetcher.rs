//! Cache, then network, and each question only once at a time.

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use sha2::{Digest as _, Sha256};

use crate::{
    EndorsementError, FetchError, Floor, Limits, SetupError, Sources,
    http::{Ask, Http},
    store::{Kept, Store},
};

/// How a fetcher works.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where to fetch from.
    pub sources: Sources,
    /// How old an answer may be.
    pub floor: Floor,
    /// Folder for answers; without one nothing is kept.
    pub cache: Option<PathBuf>,
    /// Bounds of each fetch.
    pub limits: Limits,
}

/// Fetches vendors' endorsements; see the crate's documentation. Clones share their questions.
#[derive(Debug, Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    http: Http,
    store: Option<Store>,
    floor: Floor,
    sources: Sources,
    flights: Mutex<HashMap<String, WeakShared<Flight>>>,
}

type Outcome = Result<Arc<Kept>, Arc<FetchError>>;
type Flight = BoxFuture<'static, Outcome>;

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("sources", &self.sources).field("floor", &self.floor).finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Checks the addresses and makes the cache's folder. Nothing is fetched yet.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let Settings { sources, floor, cache, limits } = settings;
        let sources = sources.checked()?;
        let open = |path: PathBuf| Store::open(path.clone()).map_err(|source| SetupError::Cache { path, source });
        let store = cache.map(open).transpose()?;
        let inner = Inner { http: Http::new(limits)?, store, floor, sources, flights: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn sources(&self) -> &Sources {
        &self.inner.sources
    }

    /// The answer to a question that is about `what`, no older than the floor.
    pub(crate) async fn ask(&self, what: &'static str, ask: Ask) -> Result<Arc<Kept>, EndorsementError> {
        self.flight(ask).await.map_err(|source| EndorsementError::Fetch { what, source })
    }

    /// The flight that is under way for this question, or a new one.
    fn flight(&self, ask: Ask) -> Shared<Flight> {
        let question = question(&ask);
        // A holder does nothing that could fail halfway.
        let mut flights = self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
        if let Some(flight) = flights.get(&question).and_then(WeakShared::upgrade) {
            return flight;
        }
        let inner = Arc::clone(&self.inner);
        let name = question.clone();
        let flight = async move { inner.obtain(&name, &ask).await.map(Arc::new).map_err(Arc::new) }.boxed().shared();
        flights.extend(flight.downgrade().map(|weak| (question, weak)));
        flight
    }
}

impl Inner {
    async fn obtain(&self, question: &str, ask: &Ask) -> Result<Kept, FetchError> {
        let floor = self.floor.of_life(ask.life);
        let kept = self.load(question).await.filter(|kept| kept.issuers.is_some() == ask.issuers.is_some());
        if let Some(kept) = kept.as_ref().filter(|kept| kept.is_fresh(now(), floor)) {
            return Ok(kept.clone());
        }
        match self.http.fetch(ask).await {
            Ok(fetched) => {
                self.save(question, &fetched).await;
                Ok(fetched)
            }
            Err(source) => Err(match kept {
                None => source,
                Some(kept) => FetchError::Stale {
                    url: ask.url.clone(),
                    age_s: now().saturating_sub(kept.asked_at),
                    floor_s: floor.as_secs(),
                    source: Box::new(source),
                },
            }),
        }
    }

    async fn load(&self, question: &str) -> Option<Kept> {
        let (store, question) = (self.store.clone()?, question.to_owned());
        off_thread(move || store.load(&question)).await
    }

    /// A cache that cannot be written costs time, not trust.
    async fn save(&self, question: &str, kept: &Kept) {
        let Some(store) = self.store.clone() else { return };
        let (name, kept) = (question.to_owned(), kept.clone());
        if let Err(error) = off_thread(move || store.save(&name, &kept)).await {
            tracing::warn!(endorsements.question = question, %error, "an answer could not be kept");
        }
    }
}

/// What a cached answer is an answer to.
fn question(ask: &Ask) -> String {
    match &ask.post {
        None => format!("GET {}", ask.url),
        Some(body) => format!("POST {} {}", ask.url, hex::encode(Sha256::digest(body))),
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
