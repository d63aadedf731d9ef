//! One question over HTTP, with every bound that there is.

use std::time::Duration;

use reqwest::{Client, StatusCode, Url, header, redirect};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use crate::{
    FetchError, SetupError,
    form::Form,
    sources::{is_this_machine, may_be_asked},
    store::{Kept, Life},
};

/// Bounds of one fetch.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// To be connected.
    pub connect: Duration,
    /// For one attempt, with the body.
    pub attempt: Duration,
    /// For all attempts and waits together.
    pub total: Duration,
    /// How often a question is sent at most.
    pub attempts: u32,
    /// Before the second attempt; doubled for each further one, with up to a quarter more by chance.
    pub pause: Duration,
    /// Longest wait that a service may ask for.
    pub longest_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            attempt: Duration::from_secs(30),
            total: Duration::from_secs(120),
            attempts: 4,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
        }
    }
}

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) url: String,
    /// Sent by POST where there is one.
    pub(crate) post: Option<Vec<u8>>,
    pub(crate) form: Form,
    pub(crate) life: Life,
    /// The header with the chain of who signed the answer. It must be there.
    pub(crate) issuers: Option<&'static str>,
    /// What was asked for by name, where the answer repeats it.
    pub(crate) about: Option<String>,
}

impl Ask {
    pub(crate) fn get(url: String, form: Form, life: Life) -> Self {
        Self { url, post: None, form, life, issuers: None, about: None }
    }
}

/// The clients: proxies of the environment are not for this machine.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    remote: Client,
    local: Client,
    limits: Limits,
}

/// Why one attempt failed, and how long the service wants to be left alone.
struct Fault {
    error: FetchError,
    may_pass: bool,
    wait: Option<Duration>,
}

impl Http {
    pub(crate) fn new(limits: Limits) -> Result<Self, SetupError> {
        // The TLS library panics without a provider; where the process has chosen one, this changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            Client::builder()
                .connect_timeout(limits.connect)
                .timeout(limits.attempt)
                .redirect(redirect::Policy::custom(follow))
                .user_agent(USER_AGENT)
        };
        let remote = builder().build().map_err(SetupError::Tls)?;
        let local = builder().no_proxy().build().map_err(SetupError::Tls)?;
        Ok(Self { remote, local, limits })
    }

    /// Asks until there is an answer of the right form, or no hope of one.
    pub(crate) async fn fetch(&self, ask: &Ask) -> Result<Kept, FetchError> {
        let late = |_| FetchError::Time { url: ask.url.clone(), limit_s: self.limits.total.as_secs() };
        tokio::time::timeout(self.limits.total, self.attempts(ask)).await.map_err(late)?
    }

    async fn attempts(&self, ask: &Ask) -> Result<Kept, FetchError> {
        let mut pause = self.limits.pause;
        let mut attempt = 1;
        loop {
            let fault = match self.attempt(ask).await {
                Ok(kept) => return Ok(kept),
                Err(fault) => fault,
            };
            let wait = fault.wait.unwrap_or_else(|| pause + jitter(pause));
            if fault.may_pass && wait > self.limits.longest_pause {
                return Err(FetchError::Throttled { url: ask.url.clone(), wait_s: wait.as_secs() });
            }
            if !fault.may_pass || attempt >= self.limits.attempts {
                return Err(fault.error);
            }
            tracing::info!(endorsements.url = ask.url, attempt, error = %fault.error, "asking again");
            tokio::time::sleep(wait).await;
            pause *= 2;
            attempt += 1;
        }
    }

    async fn attempt(&self, ask: &Ask) -> Result<Kept, Fault> {
        let failed = |source: reqwest::Error| {
            let may_pass = !source.is_builder() && !source.is_redirect();
            Fault { error: FetchError::Request { url: ask.url.clone(), source }, may_pass, wait: None }
        };
        let asked_at = crate::fetcher::now();
        let mut response = self.request(ask).send().await.map_err(failed)?;
        let status = response.status();
        if status != StatusCode::OK {
            let may_pass = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
            let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
            return Err(Fault { error: FetchError::Status { url: ask.url.clone(), status }, may_pass, wait });
        }
        let limit = ask.form.limit();
        let too_long = || Fault { error: FetchError::TooLong { url: ask.url.clone(), limit }, may_pass: false, wait: None };
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        let content = |problem| {
            let error = FetchError::Content { url: ask.url.clone(), expected: ask.form.name(), problem };
            Fault { error, may_pass: false, wait: None }
        };
        let issuers = match ask.issuers {
            Some(name) => Some(issuers(response.headers(), name).map_err(content)?),
            None => None,
        };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > limit {
                return Err(too_long());
            }
            body.extend_from_slice(&chunk);
        }
        let body = ask.form.accept(body, ask.about.as_deref()).map_err(content)?;
        Ok(Kept { body, issuers, asked_at })
    }

    fn request(&self, ask: &Ask) -> reqwest::RequestBuilder {
        let is_local = Url::parse(&ask.url).is_ok_and(|url| is_this_machine(&url));
        let client = if is_local { &self.local } else { &self.remote };
        match &ask.post {
            None => client.get(&ask.url),
            Some(body) => client.post(&ask.url).header(header::CONTENT_TYPE, "application/ocsp-request").body(body.clone()),
        }
    }
}

/// A few redirects, never away from TLS, and never from elsewhere to this machine.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from_here = attempt.previous().first().is_some_and(is_this_machine);
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error("too many redirects");
    }
    if !may_be_asked(attempt.url()) || (is_this_machine(attempt.url()) && !from_here) {
        return attempt.error("a redirect to an address that is not asked");
    }
    attempt.follow()
}

/// The chain in a header: PEM, percent-encoded.
fn issuers(headers: &header::HeaderMap, name: &'static str) -> Result<String, String> {
    let value = headers.get(name).ok_or_else(|| format!("it comes without the header {name}"))?;
    if value.len() > MAX_ISSUERS {
        return Err(format!("the header {name} is longer than {MAX_ISSUERS} bytes"));
    }
    let pem = percent_decoded(value.as_bytes()).ok_or_else(|| format!("the header {name} is not percent-encoded text"))?;
    crate::form::certificates(pem.as_bytes()).map_err(|problem| format!("the header {name}: {problem}"))?;
    Ok(pem)
}

fn percent_decoded(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%' {
            let (digits, after) = after.split_at_checked(2)?;
            bytes.push(hex::decode(digits).ok()?[0]);
            rest = after;
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Seconds, or a date.
fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = OffsetDateTime::parse(value.trim(), &Rfc2822).ok()?;
    Some(Duration::try_from(date - OffsetDateTime::now_utc()).unwrap_or_default())
}

/// Up to a quarter of `pause`, so that many who were refused at once do not come back at once.
fn jitter(pause: Duration) -> Duration {
    let mut byte = [0];
    // Without randomness they come back together, which is not wrong.
    let _ = getrandom::fill(&mut byte);
    pause * u32::from(byte[0]) / 1024
}

const MAX_REDIRECTS: usize = 5;
const MAX_ISSUERS: usize = 32 << 10;
const USER_AGENT: &str = concat!("casemate/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_in_seconds_or_until_a_date() {
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let later = retry_after("Fri, 01 Jan 2100 00:00:00 GMT").unwrap();
        assert!(later > Duration::from_secs(365 * 24 * 3600));
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("-1"), None);
    }

    #[test]
    fn percent_encoding_is_undone_or_refused() {
        assert_eq!(percent_decoded(b"a%20b%0Ac+d").as_deref(), Some("a b\nc+d"));
        for bad in [&b"%"[..], b"%2", b"%zz", b"%ff"] {
            assert_eq!(percent_decoded(bad), None);
        }
    }
}
