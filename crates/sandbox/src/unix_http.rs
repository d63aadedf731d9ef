//! HTTP/1.1 over a Unix socket, as a client of the two monitors that have such an API: one request per connection, blocking,
//! with a limit on everything.
//!
//! The other end is a monitor that a guest may have taken over. So its socket must be a socket of its own user in its own
//! directory, never a link to somebody else's; and an answer is read by its announced length, whole, or refused.

use std::{
    fs::File,
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::{fs::FileTypeExt, fs::MetadataExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use serde_json::Value;

/// A monitor's API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// The directory that holds the socket.
    pub(crate) directory: PathBuf,
    /// Its name there.
    pub(crate) name: &'static str,
    /// The user that the listener must have.
    pub(crate) user: u32,
    /// Most time for one request, from its first byte to the answer's last.
    pub(crate) limit: Duration,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// Empty for 204.
    pub(crate) body: Vec<u8>,
}

/// Why a request has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("connect for {request}")]
    Connect {
        request: String,
        #[source]
        source: io::Error,
    },
    #[error("{request} has no whole answer")]
    Exchange {
        request: String,
        #[source]
        source: io::Error,
    },
    #[error("{request} took longer than {limit_ms} ms")]
    Timeout { request: String, limit_ms: u64 },
    #[error("{request} was answered with {status}: {message}")]
    Refused { request: String, status: u16, message: String },
    #[error("{request} was answered with what does not follow the API: {detail}")]
    Unexpected { request: String, detail: String },
}

impl Api {
    /// Sends one request and reads its answer, whatever the status is.
    pub(crate) fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, ApiError> {
        self.send_with(method, path, body, &[])
    }

    /// The same with descriptors, which go with the request's first byte.
    pub(crate) fn send_with(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Answer, ApiError> {
        let request = format!("{method} {path}");
        let begin = Instant::now();
        let stream = connect(&self.directory, self.name, self.user)
            .map_err(|source| ApiError::Connect { request: request.clone(), source })?;
        exchange(stream, &encode(method, path, body), descriptors, begin + self.limit).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let limit_ms = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX);
                ApiError::Timeout { request, limit_ms }
            }
            _ => ApiError::Exchange { request, source },
        })
    }
}

/// Connects to a socket in a directory to which the listener's user may write: a link, or a socket of anybody else, is refused.
pub(crate) fn connect(directory: &Path, name: &str, user: u32) -> io::Result<UnixStream> {
    let directory = File::open(directory)?;
    let socket = rustix::fs::openat(&directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let socket = File::from(socket);
    let metadata = socket.metadata()?;
    if !metadata.file_type().is_socket() || metadata.uid() != user {
        let what = format!("{name} is not a socket of user {user}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let stream = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()))?;
    Ok(stream)
}

fn encode(method: &str, path: &str, body: Option<&Value>) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
    let body = body.map(Value::to_string);
    if let Some(body) = &body {
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(&body.unwrap_or_default());
    text.into_bytes()
}

fn exchange(mut stream: UnixStream, request: &[u8], descriptors: &[BorrowedFd<'_>], deadline: Instant) -> io::Result<Answer> {
    stream.set_write_timeout(Some(left(deadline)?))?;
    let sent = if descriptors.is_empty() { 0 } else { send_rights(&stream, request, descriptors)? };
    stream.write_all(&request[sent..])?;
    let mut bytes = Vec::new();
    loop {
        if let Some(answer) = parse(&bytes)? {
            return Ok(answer);
        }
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut piece = [0_u8; 4096];
        match stream.read(&mut piece) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended in the middle")),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends descriptors with as much of the request as goes at once; says how much that was.
fn send_rights(stream: &UnixStream, request: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_LIMIT))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one request"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(request)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The answer once all of it is there.
fn parse(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
    let mut response = httparse::Response::new(&mut headers);
    let begin = match response.parse(bytes) {
        Ok(httparse::Status::Complete(begin)) => begin,
        Ok(httparse::Status::Partial) if bytes.len() > HEAD_LIMIT => return Err(invalid("its head is too long")),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(invalid(&error.to_string())),
    };
    let status = response.code.ok_or_else(|| invalid("it has no status"))?;
    if !(200..600).contains(&status) {
        return Err(invalid(&format!("it has the status {status}")));
    }
    let length = length(response.headers)?;
    if status == 204 && length > 0 {
        return Err(invalid("an answer without content has a body"));
    }
    let body = &bytes[begin..];
    match body.len().cmp(&length) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some(Answer { status, body: body.to_vec() })),
        std::cmp::Ordering::Greater => Err(invalid("more bytes follow than it announces")),
    }
}

fn length(headers: &[httparse::Header<'_>]) -> io::Result<usize> {
    let mut length = None;
    for header in headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(invalid("it is sent in pieces"));
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let digits = Some(header.value).filter(|value| value.iter().all(u8::is_ascii_digit));
            let value = digits.and_then(|value| std::str::from_utf8(value).ok()).and_then(|value| value.parse::<usize>().ok());
            let value =
                value.filter(|value| *value <= BODY_LIMIT).ok_or_else(|| invalid("its length is not one, or too large"))?;
            if length.replace(value).is_some_and(|other| other != value) {
                return Err(invalid("it has two lengths"));
            }
        }
    }
    Ok(length.unwrap_or_default())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Whether everything that was asked for is in what was taken, as asked; the rest there are defaults.
pub(crate) fn holds(taken: &Value, asked: &Value) -> Result<(), String> {
    differing(taken, asked, String::new()).map_or(Ok(()), |place| Err(format!("it did not take{place} as asked")))
}

fn differing(taken: &Value, asked: &Value, place: String) -> Option<String> {
    match (taken, asked) {
        (Value::Object(taken), Value::Object(asked)) => asked.iter().find_map(|(name, asked)| {
            let place = format!("{place} {name}");
            match taken.get(name) {
                Some(taken) => differing(taken, asked, place),
                None => Some(place),
            }
        }),
        (Value::Array(taken), Value::Array(asked)) if taken.len() == asked.len() => {
            let mut pairs = taken.iter().zip(asked).enumerate();
            pairs.find_map(|(index, (taken, asked))| differing(taken, asked, format!("{place} {index}")))
        }
        _ => (taken != asked).then_some(place),
    }
}

/// Text of the other side for a person: one line, printable, bounded.
pub(crate) fn printable(text: &str) -> String {
    let kept = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    let words: Vec<String> = kept.take(MESSAGE_LIMIT).collect::<String>().split_whitespace().map(str::to_owned).collect();
    words.join(" ")
}

/// Most descriptors with one request.
const DESCRIPTORS_LIMIT: usize = 4;

/// Most bytes of a status line with its headers.
const HEAD_LIMIT: usize = 8 * 1024;

const HEADERS_LIMIT: usize = 32;

/// Most bytes of a body; the largest that is read is a machine's configuration, some 10 KiB.
const BODY_LIMIT: usize = 256 * 1024;

/// Most characters of a message.
const MESSAGE_LIMIT: usize = 512;

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::symlink, net::UnixListener};

    use super::*;

    fn own_user() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn refusal(bytes: &[u8]) -> String {
        parse(bytes).unwrap_err().to_string()
    }

    #[test]
    fn answers_are_read_whole() {
        let text = b"HTTP/1.1 400 \r\nServer: x\r\ncontent-length: 4\r\n\r\nbody";
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(parse(text).unwrap(), Some(Answer { status: 400, body: b"body".to_vec() }));
        let none = b"HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(parse(none).unwrap(), Some(Answer { status: 204, body: Vec::new() }));
    }

    #[test]
    fn what_is_ambiguous_or_endless_is_refused() {
        assert!(refusal(b"SSH-2.0-x\r\n\r\n").contains("invalid"));
        assert!(refusal(b"HTTP/1.1 100 Continue\r\n\r\n").contains("status 100"));
        assert!(refusal(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").contains("pieces"));
        assert!(refusal(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab").contains("two lengths"));
        assert!(refusal(b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\na").contains("not one"));
        assert!(refusal(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n").contains("too large"));
        assert!(refusal(b"HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\na").contains("without content"));
        assert!(refusal(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab").contains("more bytes"));
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'a'; HEAD_LIMIT]].concat();
        assert!(refusal(&endless).contains("too long"));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_LIMIT + 1));
        assert!(refusal(many.as_bytes()).contains("too many headers"));
    }

    /// Answers one request with `answer`, then closes.
    fn serve(directory: &Path, answer: &'static [u8]) -> std::thread::JoinHandle<Vec<u8>> {
        let listener = UnixListener::bind(directory.join("api")).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let count = stream.read(&mut request).unwrap();
            request.truncate(count);
            stream.write_all(answer).unwrap();
            request
        })
    }

    fn api(directory: &Path, limit: Duration) -> Api {
        Api { directory: directory.to_owned(), name: "api", user: own_user(), limit }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_request_carries_its_length() {
        let directory = tempfile::tempdir().unwrap();
        let server = serve(directory.path(), b"HTTP/1.1 204 \r\n\r\n");
        let answer = api(directory.path(), LONG).send("PUT", "/x", Some(&serde_json::json!({"a": 1}))).unwrap();
        assert_eq!(answer.status, 204);
        let request = String::from_utf8(server.join().unwrap()).unwrap();
        assert!(request.starts_with("PUT /x HTTP/1.1\r\nHost: localhost\r\n"), "{request}");
        assert!(request.ends_with("Content-Length: 7\r\n\r\n{\"a\":1}"), "{request}");
    }

    #[test]
    fn a_cut_answer_is_no_answer() {
        let directory = tempfile::tempdir().unwrap();
        let server = serve(directory.path(), b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        let answer = api(directory.path(), LONG).send("GET", "/", None);
        assert!(matches!(&answer, Err(ApiError::Exchange { .. })), "{answer:?}");
        server.join().unwrap();
    }

    #[test]
    fn silence_has_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let _listener = UnixListener::bind(directory.path().join("api")).unwrap();
        let answer = api(directory.path(), Duration::from_millis(20)).send("GET", "/", None);
        assert!(matches!(&answer, Err(ApiError::Timeout { limit_ms: 20, .. })), "{answer:?}");
    }

    #[test]
    fn only_the_monitors_own_socket_is_connected_to() {
        let directory = tempfile::tempdir().unwrap();
        let (good, link) = (directory.path().join("good"), directory.path().join("link"));
        let _listener = UnixListener::bind(&good).unwrap();
        symlink(&good, &link).unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        assert!(connect(directory.path(), "good", own_user()).is_ok());
        assert!(connect(directory.path(), "link", own_user()).is_err(), "a link leads to sockets of others");
        assert!(connect(directory.path(), "file", own_user()).is_err());
        assert!(connect(directory.path(), "good", own_user() + 1).is_err());
    }

    #[test]
    fn what_was_taken_must_hold_what_was_asked() {
        let check = |taken: &str, asked: &str| {
            holds(&serde_json::from_str(taken).unwrap(), &serde_json::from_str(asked).unwrap()).err().unwrap_or_default()
        };
        assert_eq!(check(r#"{"a":{"b":1,"c":null},"d":[{"e":2,"f":3}]}"#, r#"{"a":{"b":1},"d":[{"e":2}]}"#), "");
        assert_eq!(check(r#"{"a":{"b":2}}"#, r#"{"a":{"b":1}}"#), "it did not take a b as asked");
        assert_eq!(check(r#"{"a":{}}"#, r#"{"a":{"b":1}}"#), "it did not take a b as asked");
        assert_eq!(check(r#"{"d":[1,2]}"#, r#"{"d":[1]}"#), "it did not take d as asked");
        assert_eq!(check(r#"{"d":[1,2]}"#, r#"{"d":[1,3]}"#), "it did not take d 1 as asked");
    }

    #[test]
    fn messages_are_one_printable_line() {
        assert_eq!(printable("a\n \u{1b}[31mb\r\n"), "a [31mb");
        assert!(printable(&"x ".repeat(9999)).len() <= MESSAGE_LIMIT);
    }
}
