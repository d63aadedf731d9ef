//! As much of an HTTP server as the two have: one request per connection here.

use std::{
    io::{BufRead, BufReader, Cursor, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use serde_json::Value;

use crate::Fault;

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// `None` where there is none, or none that is JSON.
    pub(crate) body: Option<Value>,
    /// What came along.
    pub(crate) descriptors: Vec<OwnedFd>,
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn none() -> Self {
        Self { status: 204, body: String::new() }
    }

    pub(crate) fn json(value: &Value) -> Self {
        Self { status: 200, body: value.to_string() }
    }
}

/// Serves until the process ends.
pub(crate) fn serve(listener: &UnixListener, fault: &Fault, mut answer: impl FnMut(Request) -> Response) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let Some(request) = read(&stream) else { continue };
        let known = ["GET", "PUT", "PATCH"].contains(&request.method.as_str());
        let response = match known {
            true => answer(request),
            // As the real ones say it: with a line break in a JSON string.
            false => Response { status: 400, body: "{ \"error\": \"Invalid HTTP Method\nPOST\" }".to_owned() },
        };
        write(&mut stream, &response, fault);
    }
}

fn read(stream: &UnixStream) -> Option<Request> {
    let (begin, descriptors) = first(stream)?;
    let mut reader = BufReader::new(begin.chain(stream));
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("Content-Length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, body: serde_json::from_slice(&body).ok(), descriptors })
}

/// The first bytes, with which descriptors may come.
fn first(stream: &UnixStream) -> Option<(Cursor<Vec<u8>>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    bytes.truncate(received.bytes);
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    Some((Cursor::new(bytes), rights.flatten().collect()))
}

fn write(stream: &mut UnixStream, response: &Response, fault: &Fault) {
    let Response { status, body } = response;
    let mut text = format!("HTTP/1.1 {status} \r\nServer: test\r\nConnection: keep-alive\r\n");
    if *status != 204 {
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    let bytes = text.as_bytes();
    let end = if fault.is("half-answer") { bytes.len() * 2 / 3 } else { bytes.len() };
    let _ = stream.write_all(&bytes[..end]);
}
