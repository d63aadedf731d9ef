//! One server that has a repository: authentication and single requests. Every answer is bounded.

use std::{sync::Mutex, time::Duration};

use futures::StreamExt;
use oci_client::secrets::RegistryAuth;
use reqwest::{RequestBuilder, Response, StatusCode, header};

use super::{
    super::{
        access::{Scheme, is_this_host},
        auth,
        manifest::{INDEX_TYPES, MANIFEST_TYPES},
    },
    challenge::{self, Challenge},
};
use crate::source::Access;

pub(super) struct Endpoint {
    /// `HOST` or `HOST:PORT`, under which credentials are looked up.
    host: String,
    repository: String,
    http: reqwest::Client,
    base_url: String,
    credentials: RegistryAuth,
    /// What the last challenge was answered with.
    answer: Mutex<Answer>,
}

/// What goes along with each request.
#[derive(Clone, Default)]
enum Answer {
    #[default]
    None,
    Basic,
    Bearer(String),
}

/// Why one attempt failed. Addresses are those that we asked for: where storage was redirected to may be signed for its reader.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("set up HTTP")]
    Setup(#[source] reqwest::Error),
    #[error("authenticate to {host}: {problem}")]
    Auth { host: String, problem: String },
    #[error("request {url}")]
    Request { url: String, source: reqwest::Error },
    #[error("request {url}: the answer is {status}")]
    Status { url: String, status: StatusCode, wait: Option<Duration> },
    #[error("request {url}: more than {limit} bytes came")]
    TooLong { url: String, limit: u64 },
    #[error("request {url}: the answer has another part than the one from byte {from}")]
    Range { url: String, from: u64 },
}

impl Fault {
    /// Whether asking the same server again may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Request { source, .. } => !source.is_builder() && !source.is_redirect(),
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Range { .. } => true,
            Self::Setup(_) | Self::Auth { .. } | Self::TooLong { .. } => false,
        }
    }

    /// How long the server wants to be left alone.
    pub(super) fn wait(&self) -> Option<Duration> {
        if let Self::Status { wait, .. } = self { *wait } else { None }
    }
}

impl Endpoint {
    /// `api_host` is asked, with the credentials of `host`.
    pub(super) fn new(host: String, api_host: &str, scheme: Scheme, repository: &str, access: &Access) -> Result<Self, Fault> {
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(READ_TIMEOUT);
        // Redirects to storage are usual, and take no credentials along; away from TLS they are not allowed.
        let http = http.user_agent(USER_AGENT).https_only(scheme == Scheme::Https).build().map_err(Fault::Setup)?;
        let base_url = format!("{}://{api_host}/v2/{repository}", scheme.as_str());
        let credentials = auth::for_registry(&host, access.auth_file.as_deref());
        Ok(Self { host, repository: repository.to_owned(), http, base_url, credentials, answer: Mutex::default() })
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// A whole document of at most `limit` bytes, not verified.
    pub(super) async fn get(&self, what: &str, limit: u64) -> Result<Vec<u8>, Fault> {
        let url = format!("{}/{what}", self.base_url);
        let response = self.request(&url, 0).await?;
        bounded(&url, response, limit).await
    }

    /// The blob from byte `from` on, and how many bytes of the answer are before that: all of them where the server knows no
    /// parts.
    pub(super) async fn open(&self, what: &str, from: u64) -> Result<(String, Response, u64), Fault> {
        let url = format!("{}/{what}", self.base_url);
        let response = self.request(&url, from).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok((url, response, from));
        }
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        let start = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok());
        if from > 0 && start == Some(from) { Ok((url, response, 0)) } else { Err(Fault::Range { url, from }) }
    }

    async fn request(&self, url: &str, from: u64) -> Result<Response, Fault> {
        let first = self.send(url, from).await?;
        let response = if first.status() == StatusCode::UNAUTHORIZED {
            let challenges = first.headers().get_all(header::WWW_AUTHENTICATE);
            let challenge = challenges.iter().find_map(|value| challenge::parse(value.to_str().ok()?));
            self.answer_challenge(challenge).await?;
            self.send(url, from).await?
        } else {
            first
        };
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::UNAUTHORIZED => Err(self.refused("the registry refuses our answer to its challenge")),
            status => {
                let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                Err(Fault::Status { url: url.to_owned(), status, wait: wait.map(Duration::from_secs) })
            }
        }
    }

    async fn send(&self, url: &str, from: u64) -> Result<Response, Fault> {
        let accepted = [MANIFEST_TYPES, INDEX_TYPES].concat().join(", ");
        let mut request = self.http.get(url).header(header::ACCEPT, format!("{accepted}, */*"));
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let answer = self.answer.lock().expect("no holder of this lock panics").clone();
        request = match answer {
            Answer::None => request,
            Answer::Basic => self.with_password(request),
            Answer::Bearer(token) => request.bearer_auth(token),
        };
        request.send().await.map_err(|source| Fault::Request { url: url.to_owned(), source: source.without_url() })
    }

    async fn answer_challenge(&self, challenge: Option<Challenge>) -> Result<(), Fault> {
        let answer = match challenge.ok_or_else(|| self.refused("it asks in a way that is not known"))? {
            Challenge::Basic if matches!(self.credentials, RegistryAuth::Basic(..)) => Answer::Basic,
            Challenge::Basic => return Err(self.refused("it wants a name and a password, and none are configured")),
            Challenge::Bearer { realm, service } => Answer::Bearer(self.token(&realm, service.as_deref()).await?),
        };
        *self.answer.lock().expect("no holder of this lock panics") = answer;
        Ok(())
    }

    async fn token(&self, realm: &str, service: Option<&str>) -> Result<String, Fault> {
        let is_local = self.base_url.starts_with("http://");
        let url = challenge::token_url(realm, service, &self.repository, |host| is_local && is_this_host(host));
        let url = url.ok_or_else(|| self.refused("its token server is not reached by TLS"))?;
        let place = format!("the token server {}", url.host_str().unwrap_or_default());
        let request = self.with_password(self.http.get(url));
        let response = request.send().await;
        let response = response.map_err(|source| Fault::Request { url: place.clone(), source: source.without_url() })?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(&format!("{place} answers {}", response.status())));
        }
        let answer = bounded(&place, response, TOKEN_BYTES).await?;
        challenge::token(&answer).ok_or_else(|| self.refused(&format!("{place} sends no token")))
    }

    fn with_password(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.credentials {
            RegistryAuth::Basic(user, password) => request.basic_auth(user, Some(password)),
            _ => request,
        }
    }

    fn refused(&self, problem: &str) -> Fault {
        Fault::Auth { host: self.host.clone(), problem: problem.to_owned() }
    }
}

async fn bounded(url: &str, response: Response, limit: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|source| Fault::Request { url: url.to_owned(), source: source.without_url() })?;
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > limit {
            return Err(Fault::TooLong { url: url.to_owned(), limit });
        }
    }
    Ok(bytes)
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const TOKEN_BYTES: u64 = 64 << 10;
const USER_AGENT: &str = concat!("casemate/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_that_was_asked_for_is_used_on_this_host_too() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = |scheme| Endpoint::new("m".into(), "localhost:5000", scheme, "a/b", &Access::default()).unwrap().base_url;
        assert_eq!(url(Scheme::Https), "https://localhost:5000/v2/a/b");
        assert_eq!(url(Scheme::of_registry("localhost:5000")), "http://localhost:5000/v2/a/b");
        assert_eq!(url(Scheme::of_registry("registry.example")), "https://localhost:5000/v2/a/b");
    }
}
