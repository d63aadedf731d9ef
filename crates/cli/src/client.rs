//! REST client of the platform: TLS pinned to the context's CA, every answer bounded, problems become errors with hints.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_api::rest::{
    Events, EvidenceBundle, Instance, Instances, KeyRelease, NewChallenge, NewInstance, Nodes, Problem, Receipt, Records,
    Revocations, ScoreCard,
};
use reqwest::{Body, Certificate, Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::{context::ContextFile, exit::Hinted};

/// Largest answer, in bytes.
const MAX_ANSWER: u64 = 32 << 20;
/// How long a long poll waits at the platform.
const POLL_MS: u64 = 20_000;
/// Tries for reads while the platform restarts.
const TRIES: u32 = 40;

/// A connection to one platform.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl Client {
    pub(crate) fn new(context: &ContextFile) -> anyhow::Result<Self> {
        let ca = Certificate::from_pem(context.platform_ca.as_bytes()).context("read platform_ca of the context")?;
        let http = reqwest::Client::builder()
            .tls_certs_only([ca])
            .https_only(true)
            .connect_timeout(Duration::from_secs(10))
            .timeout(Duration::from_secs(600))
            .no_proxy()
            .build()
            .context("set up TLS")?;
        Ok(Self { http, base: context.platform.trim_end_matches('/').to_owned(), token: context.token.clone() })
    }

    pub(crate) async fn nodes(&self) -> anyhow::Result<Nodes> {
        self.get("/nodes").await
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
        read(self.retry(request, "ask for an instance").await?, "ask for an instance").await
    }

    pub(crate) async fn score_card(&self, id: &str) -> anyhow::Result<ScoreCard> {
        self.get(&format!("/instances/{}/score-card", segment(id)?)).await
    }

    /// Events after number `after`; waits for one at the platform.
    pub(crate) async fn events(&self, id: &str, after: u64) -> anyhow::Result<Events> {
        self.get(&format!("/instances/{}/events?after={after}&wait_ms={POLL_MS}", segment(id)?)).await
    }

    /// Records from number `from` on; waits for one at the platform if `wait`.
    pub(crate) async fn records(&self, id: &str, from: u64, wait: Wait) -> anyhow::Result<Records> {
        let wait_ms = match wait {
            Wait::ForMore => POLL_MS,
            Wait::No => 0,
        };
        self.get(&format!("/instances/{}/records?from={from}&wait_ms={wait_ms}", segment(id)?)).await
    }

    /// Asks for evidence. Not repeated here: every try needs a nonce of its own (see [`is_unavailable`]).
    pub(crate) async fn challenge(&self, id: &str, nonce: &[u8; 32]) -> anyhow::Result<EvidenceBundle> {
        let path = format!("/instances/{}/challenges", segment(id)?);
        let request = self.request(Method::POST, &path).json(&NewChallenge { nonce: BASE64.encode(nonce) });
        read(send(request, "ask for evidence").await?, "ask for evidence").await
    }

    /// The signed revocation list in force; `None` where the platform has none. Whether it is good is for the verifier to say.
    pub(crate) async fn revocations(&self) -> anyhow::Result<Option<String>> {
        let attempt = "ask for the revocation list";
        let answer = self.request(Method::GET, "/appraisals/revocations").send().await.context(attempt)?;
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
        self.retry(request, "remove the instance").await.map(drop)
    }

    pub(crate) async fn receipt(&self, id: &str) -> anyhow::Result<Receipt> {
        self.get(&format!("/instances/{}/receipt", segment(id)?)).await
    }

    pub(crate) async fn has_blob(&self, digest: &str) -> anyhow::Result<bool> {
        let request = self.request(Method::HEAD, &format!("/blobs/{digest}"));
        let answer = request.send().await.with_context(|| format!("ask for blob {digest}"))?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(problem(answer, "ask for a blob").await),
        }
    }

    /// Uploads a file under its digest; `progress` hears of every chunk.
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
        send(request.body(Body::wrap_stream(stream)), "upload").await.with_context(attempt).map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        read(self.retry(self.request(Method::GET, path), path).await?, path).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.base)).bearer_auth(&self.token)
    }

    /// Repeats what is safe to repeat while the platform cannot be reached.
    async fn retry(&self, request: RequestBuilder, attempt: &str) -> anyhow::Result<Response> {
        let mut tries = 0;
        loop {
            let again = request.try_clone().context("a request without a stream can be cloned")?;
            match again.send().await {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE && tries < TRIES => {}
                Ok(answer) => return Err(problem(answer, attempt).await),
                Err(error) if tries < TRIES && (error.is_connect() || error.is_request() || error.is_body()) => {}
                Err(error) => return Err(unreachable(error, &self.base)),
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(u64::from(tries) * 25)).await;
        }
    }
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
    let connection = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<reqwest::Error>().is_some_and(|e| e.is_connect() || e.is_request() || e.is_body())
    };
    error.chain().any(|cause| cause.is::<Unavailable>() || connection(cause))
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
                StatusCode::SERVICE_UNAVAILABLE => anyhow::Error::new(Unavailable).context(hinted),
                _ => hinted.into(),
            }
        }
        Err(_) => anyhow::anyhow!("the platform answered {status} to: {attempt}"),
    }
}

fn unreachable(error: reqwest::Error, base: &str) -> anyhow::Error {
    let hint = "is it running? `casemate dev status` tells for a development platform".to_owned();
    anyhow::Error::new(error).context(Hinted { message: format!("reach the platform at {base}"), hint })
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
