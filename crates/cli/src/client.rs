//! REST client of the platform: TLS pinned to the context's CA, every answer bounded, problems become errors with hints.

mod accounts;
mod maintenance;
mod market;
mod notices;
mod webhooks;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_api::rest::{
    Events, EvidenceBundle, Incidents, Instance, Instances, KeyRelease, NewChallenge, NewInstance, NodeDrain, Nodes, Problem,
    Receipt, Records, Revocations, ScoreCard,
};
use reqwest::{Body, Certificate, Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;

use crate::{context::ContextFile, exit::Hinted};

/// Largest answer, in bytes.
const MAX_ANSWER: u64 = 32 << 20;
/// How long a long poll waits at the platform.
const POLL_MS: u64 = 20_000;
/// Longest wait for an answer, but for uploads; a poll takes its own time, and then this much less.
const ANSWER: Duration = Duration::from_secs(120);
const POLL_ANSWER: Duration = Duration::from_millis(POLL_MS + 20_000);
/// Longest upload.
const UPLOAD: Duration = Duration::from_secs(600);
/// How long what is safe to repeat is repeated while no server answers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(45);
/// Pause after the first try; grows by as much with each, up to the longest.
const PAUSE: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Tries of an answer that breaks off in the middle.
const READS: u32 = 5;
/// Most servers of a platform.
const MAX_SERVERS: usize = 64;

/// A connection to one platform, which may have several servers. They have one database, so any of them will do.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    servers: Arc<[Url]>,
    /// The one that is asked.
    at: Arc<AtomicUsize>,
    token: String,
}

impl Client {
    pub(crate) fn new(context: &ContextFile) -> anyhow::Result<Self> {
        let ca = Certificate::from_pem(context.platform_ca.as_bytes()).context("read platform_ca of the context")?;
        let http = reqwest::Client::builder()
            .tls_certs_only([ca])
            .https_only(true)
            .connect_timeout(Duration::from_secs(10))
            .timeout(ANSWER)
            .no_proxy()
            .build()
            .context("set up TLS")?;
        let addresses = std::iter::once(&context.platform).chain(&context.replicas);
        let servers: Arc<[Url]> = addresses
            .map(|address| Url::parse(address).with_context(|| format!("read the platform's address {address:?} of the context")))
            .collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(servers.len() <= MAX_SERVERS, "the context names more than {MAX_SERVERS} servers");
        Ok(Self { http, servers, at: Arc::default(), token: context.token.clone() })
    }

    pub(crate) async fn nodes(&self) -> anyhow::Result<Nodes> {
        self.get("/nodes").await
    }

    pub(crate) async fn incidents(&self, node: Option<&str>) -> anyhow::Result<Incidents> {
        match node {
            Some(node) => self.get(&format!("/incidents?node={}", segment(node)?)).await,
            None => self.get("/incidents").await,
        }
    }

    /// A repetition after a lost answer is told that the node is not suspended.
    pub(crate) async fn restore_node(&self, node: &str) -> anyhow::Result<()> {
        let request = self.request(Method::POST, &format!("/nodes/{}/restore", segment(node)?));
        send(request, "restore the node").await.map(drop)
    }

    /// Begins or changes a drain, or ends it; the same however often it arrives.
    pub(crate) async fn drain_node(&self, node: &str, drain: Option<NodeDrain>) -> anyhow::Result<()> {
        let node = segment(node)?;
        let (request, attempt) = match drain {
            Some(drain) => (self.request(Method::POST, &format!("/nodes/{node}/drain")).json(&drain), "drain the node"),
            None => (self.request(Method::POST, &format!("/nodes/{node}/undrain")), "end the drain of the node"),
        };
        self.retry(request, attempt).await.map(drop)
    }

    pub(crate) async fn instances(&self) -> anyhow::Result<Instances> {
        self.get("/instances").await
    }

    pub(crate) async fn instance(&self, id: &str) -> anyhow::Result<Instance> {
        self.get(&format!("/instances/{}", segment(id)?)).await
    }

    pub(crate) async fn create(&self, new: &NewInstance, idempotency_key: &str) -> anyhow::Result<Instance> {
        let request = self.request(Method::POST, "/instances").header("Idempotency-Key", idempotency_key).json(new);
        // The key makes a repetition safe.
        self.fetch(request, "ask for an instance").await
    }

    pub(crate) async fn score_card(&self, id: &str) -> anyhow::Result<ScoreCard> {
        self.get(&format!("/instances/{}/score-card", segment(id)?)).await
    }

    /// Events after number `after`; waits for one at the platform.
    pub(crate) async fn events(&self, id: &str, after: u64) -> anyhow::Result<Events> {
        self.poll(&format!("/instances/{}/events?after={after}&wait_ms={POLL_MS}", segment(id)?)).await
    }

    /// Records from number `from` on; waits for one at the platform if `wait`.
    pub(crate) async fn records(&self, id: &str, from: u64, wait: Wait) -> anyhow::Result<Records> {
        let wait_ms = match wait {
            Wait::ForMore => POLL_MS,
            Wait::No => 0,
        };
        self.poll(&format!("/instances/{}/records?from={from}&wait_ms={wait_ms}", segment(id)?)).await
    }

    /// Asks for evidence. Not repeated here: every try needs a nonce of its own (see [`is_unavailable`]).
    pub(crate) async fn challenge(&self, id: &str, nonce: &[u8; 32]) -> anyhow::Result<EvidenceBundle> {
        let path = format!("/instances/{}/challenges", segment(id)?);
        let request = self.request(Method::POST, &path).json(&NewChallenge { nonce: BASE64.encode(nonce) });
        read(self.once(request, "ask for evidence").await?, "ask for evidence").await
    }

    /// The signed revocation list in force; `None` where the platform has none. Whether it is good is for the verifier to say.
    pub(crate) async fn revocations(&self) -> anyhow::Result<Option<String>> {
        let attempt = "ask for the revocation list";
        let (answer, _) = self.reach(self.request(Method::GET, "/appraisals/revocations"), attempt).await?;
        match answer.status() {
            StatusCode::OK => read::<Revocations>(answer, attempt).await.map(|list| Some(list.file)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(problem(answer, attempt).await),
        }
    }

    /// Hands over sealed keys; the platform takes a repetition for what it is.
    pub(crate) async fn release(&self, id: &str, sealed: &[u8]) -> anyhow::Result<()> {
        let path = format!("/instances/{}/keys", segment(id)?);
        let request = self.request(Method::POST, &path).json(&KeyRelease { sealed: BASE64.encode(sealed) });
        self.retry(request, "hand over sealed keys").await.map(drop)
    }

    pub(crate) async fn stop(&self, id: &str) -> anyhow::Result<()> {
        let request = self.request(Method::POST, &format!("/instances/{}/stop", segment(id)?));
        self.retry(request, "stop the instance").await.map(drop)
    }

    pub(crate) async fn remove(&self, id: &str) -> anyhow::Result<()> {
        let request = self.request(Method::DELETE, &format!("/instances/{}", segment(id)?));
        match self.reach(request, "remove the instance").await? {
            (answer, _) if answer.status().is_success() => Ok(()),
            // The first try did it, and only its answer was lost.
            (answer, tries) if tries > 0 && answer.status() == StatusCode::NOT_FOUND => Ok(()),
            (answer, _) => Err(problem(answer, "remove the instance").await),
        }
    }

    pub(crate) async fn receipt(&self, id: &str) -> anyhow::Result<Receipt> {
        self.get(&format!("/instances/{}/receipt", segment(id)?)).await
    }

    pub(crate) async fn has_blob(&self, digest: &str) -> anyhow::Result<bool> {
        let request = self.request(Method::HEAD, &format!("/blobs/{digest}"));
        let (answer, _) = self.reach(request, "ask for a blob").await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(problem(answer, "ask for a blob").await),
        }
    }

    /// Uploads a file under its digest; `progress` hears of every chunk. Not repeated here; the same upload again does no harm.
    pub(crate) async fn upload(
        &self,
        digest: &str,
        file: &Path,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> anyhow::Result<()> {
        let attempt = || format!("upload {}", file.display());
        let file_handle = tokio::fs::File::open(file).await.with_context(attempt)?;
        let length = file_handle.metadata().await.with_context(attempt)?.len();
        let stream = chunks(file_handle, progress);
        let request = self.request(Method::PUT, &format!("/blobs/{digest}"));
        let request = request.header("Content-Length", length).header("Content-Type", "application/octet-stream");
        self.once(request.timeout(UPLOAD).body(Body::wrap_stream(stream)), "upload").await.with_context(attempt).map(drop)
    }

    async fn poll<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.fetch(self.request(Method::GET, path).timeout(POLL_ANSWER), path).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.fetch(self.request(Method::GET, path), path).await
    }

    /// Sends what is safe to repeat, and reads the answer; also of a server that dies in the middle of it.
    async fn fetch<T: DeserializeOwned>(&self, request: RequestBuilder, attempt: &str) -> anyhow::Result<T> {
        for _ in 1..READS {
            let again = request.try_clone().context("a request without a stream can be cloned")?;
            match read(self.retry(again, attempt).await?, attempt).await {
                Err(error) if error.chain().any(|cause| cause.is::<reqwest::Error>()) => self.fail_over(self.server()),
                done => return done,
            }
        }
        read(self.retry(request, attempt).await?, attempt).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let base = self.servers[self.server()].as_str().trim_end_matches('/');
        self.http.request(method, format!("{base}/api/v1{path}")).bearer_auth(&self.token)
    }

    fn server(&self) -> usize {
        self.at.load(Ordering::Relaxed) % self.servers.len()
    }

    /// From now on the next server is asked, unless somebody has seen to that already.
    fn fail_over(&self, failed: usize) {
        let next = (failed + 1) % self.servers.len();
        // Either way another server than the failed one is asked.
        let _ = self.at.compare_exchange(failed, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// One try; if it fails for want of a server, the caller's next one goes to another.
    async fn once(&self, request: RequestBuilder, attempt: &str) -> anyhow::Result<Response> {
        let server = self.server();
        let sent = send(request, attempt).await;
        sent.inspect_err(|error| {
            if is_unavailable(error) {
                self.fail_over(server)
            }
        })
    }

    /// A success.
    async fn retry(&self, request: RequestBuilder, attempt: &str) -> anyhow::Result<Response> {
        let (answer, _) = self.reach(request, attempt).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(problem(answer, attempt).await) }
    }

    /// Repeats what is safe to repeat while no server can be reached; the last server's answer, and how often it was tried before.
    async fn reach(&self, request: RequestBuilder, attempt: &str) -> anyhow::Result<(Response, u32)> {
        let (mut tries, begun) = (0, Instant::now());
        loop {
            let server = self.server();
            let mut again = request.try_clone().and_then(|again| again.build().ok()).context("a request can be sent again")?;
            move_to(again.url_mut(), &self.servers[server]);
            let patient = begun.elapsed() < PATIENCE;
            match self.http.execute(again).await {
                Ok(answer) if is_busy(answer.status()) && patient => {}
                Ok(answer) if is_busy(answer.status()) => return Err(problem(answer, attempt).await),
                Ok(answer) => return Ok((answer, tries)),
                Err(error) if is_passing(&error) && patient => {}
                Err(error) => return Err(unreachable(error, &self.servers)),
            }
            self.fail_over(server);
            tries += 1;
            tokio::time::sleep((PAUSE * tries).min(PAUSE_MAX)).await;
        }
    }
}

/// The same request to another server.
fn move_to(url: &mut Url, server: &Url) {
    // An address that could be requested has a host; the scheme is the same for all.
    let _ = url.set_host(server.host_str());
    let _ = url.set_port(server.port());
}

/// Whether a poll waits for something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    ForMore,
    No,
}

/// The platform, or the node behind it, is away at the moment.
#[derive(Debug, thiserror::Error)]
#[error("not available at the moment")]
struct Unavailable;

/// Whether the same question may be answered in a moment.
pub(crate) fn is_unavailable(error: &anyhow::Error) -> bool {
    let connection = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<reqwest::Error>().is_some_and(is_passing);
    error.chain().any(|cause| cause.is::<Unavailable>() || connection(cause))
}

/// No server could be reached, or it went away before the end of its answer. What it says is read elsewhere.
fn is_passing(error: &reqwest::Error) -> bool {
    error.is_connect() || error.is_request() || error.is_body() || error.is_decode() || error.is_timeout()
}

/// A server that cannot answer at the moment: its database or the node is away, or it has too much to do.
fn is_busy(status: StatusCode) -> bool {
    matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
}

async fn send(request: RequestBuilder, attempt: &str) -> anyhow::Result<Response> {
    let answer = request.send().await.with_context(|| attempt.to_owned())?;
    if answer.status().is_success() { Ok(answer) } else { Err(problem(answer, attempt).await) }
}

async fn read<T: DeserializeOwned>(answer: Response, attempt: &str) -> anyhow::Result<T> {
    let bytes = body(answer).await.with_context(|| format!("read the answer to: {attempt}"))?;
    serde_json::from_slice(&bytes).with_context(|| format!("understand the answer to: {attempt}"))
}

async fn body(mut answer: Response) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        anyhow::ensure!((bytes.len() + chunk.len()) as u64 <= MAX_ANSWER, "the answer is longer than {MAX_ANSWER} bytes");
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

async fn problem(answer: Response, attempt: &str) -> anyhow::Error {
    let status = answer.status();
    let text = body(answer).await.unwrap_or_default();
    match serde_json::from_slice::<Problem>(&text) {
        Ok(problem) => {
            let detail = problem.detail.map(|detail| format!(": {detail}")).unwrap_or_default();
            let message = format!("the platform refused to {attempt}: {}{detail}", problem.title);
            let hint = problem.hint.unwrap_or_else(|| format!("problem type {}", problem.kind));
            let hinted = Hinted { message: crate::printer::clean(&message), hint: crate::printer::clean(&hint) };
            match status {
                status if is_busy(status) => anyhow::Error::new(Unavailable).context(hinted),
                _ => hinted.into(),
            }
        }
        Err(_) => anyhow::anyhow!("the platform answered {status} to: {attempt}"),
    }
}

fn unreachable(error: reqwest::Error, servers: &[Url]) -> anyhow::Error {
    let names: Vec<&str> = servers.iter().map(|server| server.as_str().trim_end_matches('/')).collect();
    let hint = "is it running? `casemate dev status` tells for a development platform".to_owned();
    anyhow::Error::new(error).context(Hinted { message: format!("reach the platform at {}", names.join(", ")), hint })
}

fn segment(id: &str) -> anyhow::Result<&str> {
    id.parse::<casemate_lifecycle::InstanceId>().with_context(|| format!("read instance id {id:?}"))?;
    Ok(id)
}

fn chunks(
    file: tokio::fs::File,
    progress: impl Fn(u64) + Send + Sync + 'static,
) -> impl futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static {
    futures::stream::try_unfold((file, progress), |(mut file, progress)| async move {
        let mut buffer = bytes::BytesMut::with_capacity(256 << 10);
        let count = tokio::io::AsyncReadExt::read_buf(&mut file, &mut buffer).await?;
        progress(count as u64);
        Ok((count > 0).then(|| (buffer.freeze(), (file, progress))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_gets_the_same_request() {
        let mut url = Url::parse("https://a.example:1/api/v1/instances?x=1").unwrap();
        move_to(&mut url, &Url::parse("https://[::1]:9").unwrap());
        assert_eq!(url.as_str(), "https://[::1]:9/api/v1/instances?x=1");
    }

    #[test]
    fn two_who_notice_the_same_failure_move_on_once() {
        let servers = ["https://a", "https://b", "https://c"].map(|server| Url::parse(server).unwrap());
        casemate_daemon::tls::install_provider();
        let http = reqwest::Client::builder().build().unwrap();
        let client = Client { http, servers: servers.into(), at: Arc::default(), token: String::new() };
        client.fail_over(0);
        client.fail_over(0);
        assert_eq!(client.server(), 1);
        client.fail_over(1);
        client.fail_over(2);
        assert_eq!(client.server(), 0);
    }
}
