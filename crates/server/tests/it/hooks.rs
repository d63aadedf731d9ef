//! Somebody who is called: real HTTP on this machine.

use std::sync::{Arc, Mutex};

use casemate_api::rest::WebhookEvent;
use casemate_server::webhooks::{Secret, verify};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// Lets calls to this machine happen.
pub(crate) const LOOPBACK: &str = "[webhooks]\ninsecure_loopback = true\n";

/// A call that came.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Heard {
    pub(crate) fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("{name} in {}", self.head))
    }

    /// The event, if the call is from who has the secret.
    pub(crate) fn event(&self, secret: &str) -> Option<WebhookEvent> {
        self.is_signed(secret, &self.body).then(|| serde_json::from_slice(&self.body).unwrap())
    }

    pub(crate) fn is_signed(&self, secret: &str, body: &[u8]) -> bool {
        let (secret, at_s) = (Secret::parse(secret).unwrap(), self.header("webhook-timestamp").parse().unwrap());
        let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        verify(&secret, self.header("webhook-id"), at_s, self.header("webhook-signature"), body, now_s)
    }
}

/// Answers calls with these, one after the other, and then with 200.
pub(crate) struct Hook {
    pub(crate) url: String,
    calls: mpsc::UnboundedReceiver<Heard>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hook {
    pub(crate) async fn new(answers: &[u16]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/hook", listener.local_addr().unwrap().port());
        let (heard, calls) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(answers.to_vec()));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, heard.clone(), Arc::clone(&answers)));
            }
        });
        Self { url, calls, task }
    }

    /// The next call.
    pub(crate) async fn next(&mut self) -> Heard {
        let heard = tokio::time::timeout(std::time::Duration::from_secs(30), self.calls.recv()).await;
        heard.expect("nobody called").unwrap()
    }

    /// Calls that have come meanwhile.
    pub(crate) fn others(&mut self) -> Vec<Heard> {
        std::iter::from_fn(|| self.calls.try_recv().ok()).collect()
    }
}

async fn answer(mut stream: TcpStream, heard: mpsc::UnboundedSender<Heard>, answers: Arc<Mutex<Vec<u16>>>) {
    let mut bytes = Vec::new();
    let call = loop {
        if stream.read_buf(&mut bytes).await.unwrap() == 0 {
            return;
        }
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let call = Heard { head: String::from_utf8(bytes[..end].to_vec()).unwrap(), body: bytes[end + 4..].to_vec() };
        if call.body.len() == call.header("content-length").parse::<usize>().unwrap() {
            break call;
        }
    };
    let status = {
        let mut answers = answers.lock().unwrap();
        if answers.is_empty() { 200 } else { answers.remove(0) }
    };
    heard.send(call).unwrap();
    let text = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
}
