//! A service on this machine that answers as it is told to.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use casemate_endorsements::{Fetcher, Floor, Limits, Settings, Sources};

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
}

/// What goes back.
pub(crate) enum Answer {
    Whole {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// The connection ends after the body, which is shorter than announced.
    Truncated {
        announced: usize,
        body: Vec<u8>,
    },
    /// No length is announced, and zeros come until the other side has enough.
    Endless,
    /// Nothing comes, until the other side goes.
    Hang,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Whole { status: 200, headers: vec![], body: body.into() }
    }

    pub(crate) fn status(status: u16) -> Self {
        Self::Whole { status, headers: vec![], body: b"no".to_vec() }
    }

    pub(crate) fn with(self, name: &'static str, value: impl Into<String>) -> Self {
        match self {
            Self::Whole { status, mut headers, body } => {
                headers.push((name, value.into()));
                Self::Whole { status, headers, body }
            }
            other => other,
        }
    }
}

type Handler = dyn Fn(&Asked, usize) -> Answer + Send + Sync;

/// Lives until the test's process ends.
pub(crate) struct Service {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Service {
    /// The second argument of `handler` is how many requests came before.
    pub(crate) fn start(handler: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, handler): (_, Arc<Handler>) = (Arc::clone(&asked), Arc::new(handler));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (seen, handler) = (Arc::clone(&seen), Arc::clone(&handler));
                // That the other side hung up is not this service's trouble.
                thread::spawn(move || serve(stream, &seen, &*handler));
            }
        });
        Self { url, asked }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// All services are this one.
    pub(crate) fn sources(&self) -> Sources {
        Sources {
            amd_kds: self.url.clone(),
            intel_pcs: self.url.clone(),
            intel_root_crl: format!("{}/IntelSGXRootCA.der", self.url),
            nvidia_rim: self.url.clone(),
            nvidia_ocsp: format!("{}/ocsp", self.url),
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings { sources: self.sources(), limits: QUICK, ..Settings::default() }
    }

    pub(crate) fn fetcher(&self) -> Fetcher {
        Fetcher::new(self.settings()).unwrap()
    }

    /// Keeps answers in `dir` for `age`.
    pub(crate) fn keeping(&self, dir: &std::path::Path, age: Duration) -> Fetcher {
        Fetcher::new(Settings { cache: Some(dir.to_owned()), floor: Floor::of(age), ..self.settings() }).unwrap()
    }
}

/// Short pauses, so that tests are; long limits, so that a busy machine fails none.
pub(crate) const QUICK: Limits = Limits {
    connect: Duration::from_secs(60),
    attempt: Duration::from_secs(120),
    total: Duration::from_secs(300),
    attempts: 3,
    pause: Duration::from_millis(5),
    longest_pause: Duration::from_secs(5),
};

fn serve(stream: TcpStream, seen: &Mutex<Vec<Asked>>, handler: &Handler) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let asked = Asked { method, path, body };
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(asked.clone());
        seen.len() - 1
    };
    write(stream, handler(&asked, before))
}

fn write(mut stream: TcpStream, answer: Answer) -> Option<()> {
    match answer {
        Answer::Whole { status, headers, body } => {
            let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            stream.write_all((head + "\r\n").as_bytes()).and_then(|()| stream.write_all(&body)).ok()
        }
        Answer::Truncated { announced, body } => {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).ok()
        }
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").ok()?;
            while stream.write_all(&[b'0'; 4096]).is_ok() {}
            None
        }
        Answer::Hang => stream.read(&mut [0]).ok().map(drop),
    }
}
