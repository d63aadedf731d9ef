//! Somebody who is called by the platform, and checks signatures by the standard's words alone.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Answers with these, and then with 200. Its thread ends with the test's process.
pub(crate) struct Hook {
    pub(crate) url: String,
    calls: Receiver<Call>,
}

/// A call that came.
#[derive(Debug)]
pub(crate) struct Call {
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Hook {
    pub(crate) fn start(answers: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
        let (heard, calls) = channel();
        let answers: Vec<u16> = answers.to_vec();
        std::thread::spawn(move || {
            let mut answers = answers.into_iter();
            for stream in listener.incoming() {
                answer(stream.unwrap(), answers.next().unwrap_or(200), &heard);
            }
        });
        Self { url, calls }
    }

    pub(crate) fn next(&self) -> Call {
        self.calls.recv_timeout(Duration::from_secs(60)).expect("nobody called")
    }
}

impl Call {
    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("{name} in {}", self.head))
    }

    pub(crate) fn is_signed(&self, secret: &str, body: &[u8]) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{}.{}.", self.header("webhook-id"), self.header("webhook-timestamp")).as_bytes());
        mac.update(body);
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.header("webhook-signature") == expected
    }
}

fn answer(mut stream: TcpStream, status: u16, heard: &Sender<Call>) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
    let call = loop {
        let count = stream.read(&mut chunk).unwrap();
        if count == 0 {
            return;
        }
        bytes.extend_from_slice(&chunk[..count]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let call = Call { head: String::from_utf8(bytes[..end].to_vec()).unwrap(), body: bytes[end + 4..].to_vec() };
        if call.body.len() == call.header("content-length").parse::<usize>().unwrap() {
            break call;
        }
    };
    // The test may have all that it wants.
    let _ = heard.send(call);
    write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
}
