//! An HTTP server that answers as a test says, well or badly.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// What came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// First byte asked for.
    pub(crate) from: Option<usize>,
    pub(crate) authorization: Option<String>,
}

/// What goes back.
pub(crate) struct Reply {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    length: usize,
    is_endless: bool,
}

impl Reply {
    pub(crate) fn new(status: &'static str) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), length: 0, is_endless: false }
    }

    pub(crate) fn ok(body: &[u8]) -> Self {
        Self { body: body.to_vec(), length: body.len(), ..Self::new("200 OK") }
    }

    /// The part that was asked for, or the whole.
    pub(crate) fn part(request: &Request, body: &[u8]) -> Self {
        match request.from {
            Some(from) => Self::ok(&body[from..]).range(from, body.len()),
            None => Self::ok(body),
        }
    }

    /// Says that this is the part from `from`.
    pub(crate) fn range(self, from: usize, whole: usize) -> Self {
        Self { status: "206 Partial Content", ..self.header(&format!("Content-Range: bytes {from}-{}/{whole}", whole - 1)) }
    }

    pub(crate) fn header(mut self, header: &str) -> Self {
        self.headers.push(header.into());
        self
    }

    /// Breaks off after `count` bytes of the body.
    pub(crate) fn cut(mut self, count: usize) -> Self {
        self.body.truncate(count);
        self
    }

    pub(crate) fn endless() -> Self {
        Self { is_endless: true, ..Self::new("200 OK") }
    }
}

/// The running server; its threads end with the test process.
pub(crate) struct Server {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, reply) = (requests.clone(), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, reply) = (log.clone(), reply.clone());
                std::thread::spawn(move || serve(stream, &log, &*reply));
            }
        });
        Self { address, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Request>>, reply: &dyn Fn(&Request) -> Reply) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, ..Request::default() };
    loop {
        let line = lines.next()?.ok()?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.from = value.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse().ok()),
            "authorization" => request.authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    log.lock().unwrap().push(request.clone());
    let reply = reply(&request);
    let mut head = format!("HTTP/1.1 {}\r\nConnection: close\r\n", reply.status);
    for header in &reply.headers {
        head += &format!("{header}\r\n");
    }
    if !reply.is_endless {
        head += &format!("Content-Length: {}\r\n", reply.length);
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    stream.write_all(&reply.body).ok()?;
    if reply.is_endless {
        // Until the client hangs up.
        loop {
            stream.write_all(&[b' '; 4096]).ok()?;
        }
    }
    Some(())
}
