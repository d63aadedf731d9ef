//! One call, with every bound that there is.

use std::{net::IpAddr, sync::Arc, time::Duration};

use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header, redirect,
};

use super::{
    Secret,
    address::{Reach, is_public},
};
use crate::fault::chain;

/// To be connected, and for the whole of a call.
const CONNECT: Duration = Duration::from_secs(5);
const WHOLE: Duration = Duration::from_secs(10);
/// Longest address.
const MAX_URL: usize = 500;
const USER_AGENT: &str = concat!("casemate/", env!("CARGO_PKG_VERSION"));

/// Why a call failed; shown to who named the address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Its address is none that may be called.
    #[error("{0}")]
    Url(&'static str),
    /// There is nothing to verify others by.
    #[error("the platform's server has no certificate authorities")]
    Authorities,
    /// The name leads elsewhere than to public addresses, or nowhere.
    #[error("the name is not known, or leads to an address that is not public")]
    Address,
    /// Nobody could be reached there.
    #[error("no connection")]
    Connect,
    /// No answer came in time.
    #[error("no answer within {} s", WHOLE.as_secs())]
    Time,
    /// The connection broke, or what came is not HTTP.
    #[error("no answer that is HTTP")]
    Answer,
}

/// What is sent.
#[derive(Debug)]
pub struct Call<'a> {
    /// To whom.
    pub url: &'a str,
    /// With whose secret.
    pub secret: &'a Secret,
    /// The same for each attempt.
    pub id: &'a str,
    /// When, in seconds since 1970.
    pub at_s: u64,
    /// JSON.
    pub body: Vec<u8>,
}

/// Makes calls; cheap to clone.
#[derive(Debug, Clone)]
pub struct Sender {
    reach: Reach,
    /// Absent where the system has no certificate authorities.
    public: Option<Client>,
    /// Without TLS, to this machine only.
    local: Option<Client>,
}

impl Sender {
    /// One that goes so far. A server without certificate authorities does everything else.
    pub fn new(reach: Reach) -> Self {
        // The TLS library panics without a provider; where the process has chosen one, this changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = |is_allowed: fn(IpAddr) -> bool| {
            Client::builder()
                .dns_resolver(Arc::new(Resolver { is_allowed }))
                // A redirect would lead where nobody has looked, a proxy as well.
                .redirect(redirect::Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT)
                .timeout(WHOLE)
                // Each call looks anew where the name leads.
                .pool_max_idle_per_host(0)
                .http1_only()
                .user_agent(USER_AGENT)
        };
        let made = |client: reqwest::Result<Client>| {
            client.inspect_err(|error| tracing::warn!(error.chain = %chain(error), "webhooks cannot be called")).ok()
        };
        let local = || made(client(|address| address.is_loopback()).tls_certs_only([]).build());
        Self {
            reach,
            public: made(client(is_public).https_only(true).build()),
            local: if reach == Reach::InsecureLoopback { local() } else { None },
        }
    }

    /// How far it goes.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Makes the call; HTTP's status of the answer. The answer itself is not read.
    pub async fn call(&self, call: Call<'_>) -> Result<u16, CallError> {
        let url = checked_url(call.url, self.reach()).map_err(CallError::Url)?;
        let client = if url.scheme() == "http" { &self.local } else { &self.public };
        let client = client.as_ref().ok_or(CallError::Authorities)?;
        let signature = call.secret.sign(call.id, call.at_s, &call.body);
        let request = client
            .post(url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", call.id)
            .header("webhook-timestamp", call.at_s)
            .header("webhook-signature", signature)
            .body(call.body);
        let sent = request.send().await;
        sent.map(|answer| answer.status().as_u16()).map_err(|error| failure(&error))
    }
}

/// The address, if it may be called: `https://` with a name or a public address, for trials `http://` on this machine.
pub fn checked_url(text: &str, reach: Reach) -> Result<Url, &'static str> {
    if text.len() > MAX_URL {
        return Err("it is too long");
    }
    let url = Url::parse(text).map_err(|_| "it is not a URL")?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("it must have neither credentials nor a fragment");
    }
    // Of each form that an IPv4 address can be written in, the parser has made the usual one.
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let (public, local) = match host.parse::<IpAddr>() {
        Ok(address) => (is_public(address), address.is_loopback()),
        Err(_) => (!host.is_empty(), host == "localhost"),
    };
    match (url.scheme(), reach) {
        ("https", _) if public => Ok(url),
        ("https", _) => Err("it must name a public address"),
        ("http", Reach::InsecureLoopback) if local => Ok(url),
        _ => Err("it must begin with https://"),
    }
}

/// Looks names up; the client connects to what comes from here and nothing else.
struct Resolver {
    is_allowed: fn(IpAddr) -> bool,
}

/// The name leads where it must not, or nowhere.
#[derive(Debug, thiserror::Error)]
#[error("no address that may be called")]
struct Refused;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let is_allowed = self.is_allowed;
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|_| Refused)?.collect();
            // One that is not allowed among others that are is no accident.
            let all = found.iter().all(|address| is_allowed(address.ip()));
            let addresses: Addrs = Box::new(found.into_iter());
            if all { Ok(addresses) } else { Err(Refused.into()) }
        })
    }
}

fn failure(error: &reqwest::Error) -> CallError {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.is::<Refused>() {
            return CallError::Address;
        }
        cause = inner.source();
    }
    if error.is_timeout() {
        CallError::Time
    } else if error.is_connect() {
        CallError::Connect
    } else {
        CallError::Answer
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Who answers one call with this, and gives back what was asked.
    async fn answering(answer: Vec<u8>) -> (String, tokio::task::JoinHandle<(String, TcpStream)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/hook", listener.local_addr().unwrap().port());
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut asked, mut bytes) = (Vec::new(), [0; 4096]);
            while !asked.ends_with(b"{}") {
                let count = stream.read(&mut bytes).await.unwrap();
                asked.extend_from_slice(&bytes[..count]);
            }
            stream.write_all(&answer).await.unwrap();
            (String::from_utf8(asked).unwrap(), stream)
        });
        (url, task)
    }

    async fn call(reach: Reach, url: &str) -> Result<u16, CallError> {
        let secret = Secret::new([1; 32]);
        let call = Call { url, secret: &secret, id: "msg_1", at_s: 5, body: b"{}".to_vec() };
        Sender::new(reach).call(call).await
    }

    #[tokio::test]
    async fn a_call_carries_the_headers_of_the_standard() {
        let (url, task) = answering(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
        assert_eq!(call(Reach::InsecureLoopback, &url).await, Ok(204));
        let (asked, _) = task.await.unwrap();
        let signature = Secret::new([1; 32]).sign("msg_1", 5, b"{}");
        for part in ["POST /hook HTTP/1.1", "webhook-id: msg_1", "webhook-timestamp: 5", "content-type: application/json"] {
            assert!(asked.contains(part), "{part} in {asked}");
        }
        assert!(asked.contains(&format!("webhook-signature: {signature}")), "{asked}");
    }

    #[tokio::test]
    async fn no_redirect_is_followed() {
        let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = inside.local_addr().unwrap().port();
        for status in [301, 302, 307, 308] {
            let answer =
                format!("HTTP/1.1 {status} Moved\r\nlocation: http://127.0.0.1:{port}/secret\r\ncontent-length: 0\r\n\r\n");
            let (url, task) = answering(answer.into_bytes()).await;
            assert_eq!(call(Reach::InsecureLoopback, &url).await, Ok(status));
            task.await.unwrap();
        }
        let asked = tokio::time::timeout(Duration::from_millis(50), inside.accept()).await;
        assert!(asked.is_err(), "somebody came to where the redirects lead");
    }

    #[tokio::test]
    async fn an_answer_without_end_is_not_waited_for() {
        let (url, task) = answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()).await;
        assert_eq!(call(Reach::InsecureLoopback, &url).await, Ok(200));
        let (_, mut stream) = task.await.unwrap();
        let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
        let mut sent = 0_usize;
        while sent < 256 << 20 && stream.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
        assert!(sent < 32 << 20, "{sent} bytes of an answer were taken");
    }

    #[tokio::test]
    async fn headers_without_end_are_no_answer() {
        let (url, task) = answering([b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: y\r\n".repeat(200_000)].concat()).await;
        assert_eq!(call(Reach::InsecureLoopback, &url).await, Err(CallError::Answer));
        task.abort();
    }

    #[tokio::test]
    async fn what_is_not_public_is_not_called() {
        // Somebody listens there, whom no call reaches.
        let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = inside.local_addr().unwrap().port();
        for host in ["127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0"] {
            let refused = call(Reach::Public, &format!("https://{host}:{port}/")).await;
            assert_eq!(refused, Err(CallError::Url("it must name a public address")), "{host}");
            let refused = call(Reach::Public, &format!("http://{host}:{port}/")).await;
            assert_eq!(refused, Err(CallError::Url("it must begin with https://")), "{host}");
        }
        // A name that leads there is looked up at the time of the call.
        assert_eq!(call(Reach::Public, &format!("https://localhost:{port}/")).await, Err(CallError::Address));
        assert_eq!(call(Reach::InsecureLoopback, &format!("https://localhost:{port}/")).await, Err(CallError::Address));
        let asked = tokio::time::timeout(Duration::from_millis(50), inside.accept()).await;
        assert!(asked.is_err(), "somebody came");
    }

    #[test]
    fn addresses_are_of_one_form() {
        for good in ["https://hooks.example/casemate?x=1", "https://8.8.8.8:8443/"] {
            assert!(checked_url(good, Reach::Public).is_ok(), "{good}");
        }
        for local in ["http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/"] {
            assert!(checked_url(local, Reach::InsecureLoopback).is_ok(), "{local}");
            assert!(checked_url(local, Reach::Public).is_err(), "{local}");
        }
        let bad = [
            "",
            "hooks.example",
            "ftp://hooks.example/",
            "file:///etc/passwd",
            "https://user:password@hooks.example/",
            "https://hooks.example/#x",
            "http://hooks.example/",
            "http://127.0.0.1.example/",
            "http://10.0.0.1/",
            "https:///",
            "gopher://x/",
        ];
        for bad in bad {
            assert!(checked_url(bad, Reach::InsecureLoopback).is_err(), "{bad}");
        }
        assert!(checked_url(&format!("https://hooks.example/{}", "x".repeat(500)), Reach::Public).is_err());
    }
}
