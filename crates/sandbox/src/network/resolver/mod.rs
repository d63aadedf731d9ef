//! The resolver of instances: a name is only found where a rule names it, and only then is its address open.
//!
//! It runs on a thread of its own with a runtime of its own. Each instance has its own sockets, on the node's end of its link, and at most
//! [`MAX_PENDING`] questions under way. An answer reaches the instance after the packet filter has it.

pub(super) mod decoders;
mod message;
mod stream;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use casemate_lifecycle::network::{Name, Policy};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use self::message::{Found, Hostile, Kind, MAX_MESSAGE, MAX_QUESTION, Question, Way};
use super::{address::Link, place::Place, ruleset};

/// Questions of one instance at the same time; more are dropped, and asked again by whoever waits for an answer.
const MAX_PENDING: usize = 16;
/// Answers that are remembered for one instance.
const MAX_REMEMBERED: usize = 256;
/// How long a server has, and how many wrong datagrams it may take.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_WRONG: usize = 8;
/// How long an address stays open beyond the answer that named it: who has looked it up may still be about to connect.
const GRACE: Duration = Duration::from_secs(60);

/// Where one asks for names.
pub(super) const PORT: u16 = 53;

/// What an instance asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names {
    /// Questions.
    pub asked: u64,
    /// Those for names that no rule allows.
    pub refused: u64,
    /// Those whose answer was not passed on: it was hostile, or there was none.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counts {
    asked: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

/// The thread; it ends with this.
#[derive(Debug)]
pub(super) struct Resolver {
    /// `None` only while it is dropped.
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<std::thread::JoinHandle<()>>,
    counts: Mutex<BTreeMap<String, Arc<Counts>>>,
    router: Place,
}

enum Order {
    Serve(Box<Client>),
    /// Said back when it is done.
    Forget(String, std::sync::mpsc::Sender<()>),
}

/// One instance.
struct Client {
    interface: String,
    /// Who may ask.
    address: IpAddr,
    names: Vec<(usize, Name)>,
    socket: StdSocket,
    listener: StdListener,
    counts: Arc<Counts>,
    servers: Arc<[SocketAddr]>,
    router: Place,
}

impl Resolver {
    /// Asks `servers`, one after the other, from the caller's namespace.
    pub(super) fn start(router: Place) -> io::Result<Self> {
        let (orders, inbox) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let thread = std::thread::Builder::new().name("names".to_owned()).spawn(move || runtime.block_on(obey(inbox)))?;
        Ok(Self { orders: Some(orders), thread: Some(thread), counts: Mutex::default(), router })
    }

    /// Answers this instance's questions from now on; one without rules by name has none.
    pub(super) fn serve(&self, link: &Link, policy: &Policy, servers: &Arc<[SocketAddr]>) -> Result<(), super::NetworkError> {
        let names: Vec<(usize, Name)> = policy.names().map(|(index, name)| (index, name.clone())).collect();
        if names.is_empty() {
            return Ok(());
        }
        let at = SocketAddr::from((link.node4, PORT));
        let (socket, listener) = self.router.within(|| {
            let (socket, listener) = (bind(|| StdSocket::bind(at))?, bind(|| StdListener::bind(at))?);
            socket.set_nonblocking(true)?;
            listener.set_nonblocking(true)?;
            Ok((socket, listener))
        })?;
        let counts = Arc::new(Counts::default());
        let client = Client {
            interface: link.interface.clone(),
            address: link.instance4.into(),
            names,
            socket,
            listener,
            counts: Arc::clone(&counts),
            servers: Arc::clone(servers),
            router: self.router.clone(),
        };
        self.counted().insert(link.interface.clone(), counts);
        // Without the thread there are no answers, which is closed and not open.
        self.order(Order::Serve(Box::new(client)));
        Ok(())
    }

    /// No more answers; returns when that is so, since the next instance may get the same address.
    pub(super) fn forget(&self, interface: &str) {
        if self.counted().remove(interface).is_some() {
            let (done, wait) = std::sync::mpsc::channel();
            self.order(Order::Forget(interface.to_owned(), done));
            wait.recv_timeout(PATIENCE).ok();
        }
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            orders.send(order).ok();
        }
    }

    /// Since the agent's start.
    pub(super) fn names(&self, interface: &str) -> Names {
        self.counted().get(interface).map_or_else(Names::default, |counts| Names {
            asked: counts.asked.load(Ordering::Relaxed),
            refused: counts.refused.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
        })
    }

    fn counted(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Counts>>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The last answer of whoever had the address before may still be on its way.
fn bind<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let begin = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begin.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

/// Owns the tasks of all instances; they end with it.
async fn obey(mut inbox: mpsc::UnboundedReceiver<Order>) {
    let mut served: HashMap<String, JoinHandle<()>> = HashMap::new();
    while let Some(order) = inbox.recv().await {
        match order {
            Order::Serve(client) => {
                let interface = client.interface.clone();
                if let Some(old) = served.insert(interface, tokio::spawn(serve(*client))) {
                    old.abort();
                }
            }
            Order::Forget(interface, done) => {
                if let Some(old) = served.remove(&interface) {
                    old.abort();
                    old.await.ok();
                }
                done.send(()).ok();
            }
        }
    }
}

/// Answers one instance, until it is aborted; the questions under way end with it.
async fn serve(client: Client) {
    let (Ok(socket), Ok(listener)) = (client.socket.try_clone(), client.listener.try_clone()) else { return };
    let (Ok(socket), Ok(listener)) = (UdpSocket::from_std(socket), TcpListener::from_std(listener)) else { return };
    let (client, remembered) = (Arc::new(client), Arc::default());
    tokio::join!(serve_datagrams(socket, &client, &remembered), stream::serve(listener, &client, &remembered));
}

async fn serve_datagrams(socket: UdpSocket, client: &Arc<Client>, remembered: &Arc<Remembered>) {
    let socket = Arc::new(socket);
    let (room, mut pending) = (Arc::new(Semaphore::new(MAX_PENDING)), JoinSet::new());
    let mut buffer = [0; MAX_QUESTION + 1];
    loop {
        while pending.try_join_next().is_some() {}
        // An error is that of an earlier answer which nobody took.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        // The packet filter has let nobody else through; this is the second lock on the door.
        if from.ip() != client.address {
            continue;
        }
        let Some(question) = message::question(&buffer[..length], Way::Datagram) else { continue };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (client, socket, remembered) = (Arc::clone(client), Arc::clone(&socket), Arc::clone(remembered));
        pending.spawn(async move {
            let answer = client.answer(&question, &remembered).await;
            socket.send_to(&answer, from).await.ok();
            drop(permit);
        });
    }
}

type Remembered = Mutex<HashMap<(String, Kind), (Instant, Found)>>;

impl Client {
    async fn answer(&self, question: &Question, remembered: &Remembered) -> Vec<u8> {
        self.counts.asked.fetch_add(1, Ordering::Relaxed);
        let rules: Vec<usize> =
            self.names.iter().filter(|(_, name)| name.covers(&question.name)).map(|(rule, _)| *rule).collect();
        if rules.is_empty() {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return question.refuse();
        }
        if question.kind == Kind::Other {
            return question.answer(&Found { addresses: Vec::new(), is_no_name: false, life: PATIENCE });
        }
        if let Some(found) = recall(remembered, question) {
            return question.answer(&found);
        }
        match self.find(question, rules).await {
            Ok(found) => {
                remember(remembered, question, &found);
                question.answer(&found)
            }
            Err(reason) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::info!(interface = %self.interface, name = %question.name, %reason, "a name was not answered");
                question.fail()
            }
        }
    }

    /// Asks the servers in turn, and opens what they know.
    async fn find(&self, question: &Question, rules: Vec<usize>) -> Result<Found, String> {
        let mut reason = "there is no server".to_owned();
        for server in self.servers.iter() {
            match timeout(PATIENCE, ask(*server, question)).await {
                Ok(Ok(found)) => return self.open(found, rules).await,
                // What is hostile is not asked for elsewhere: one good answer of many would be what an attacker hopes for.
                Ok(Err(error @ AskError::Hostile(Hostile::Forbidden(_) | Hostile::TooMany | Hostile::Aliases))) => {
                    return Err(error.to_string());
                }
                Ok(Err(error)) => reason = error.to_string(),
                Err(_) => reason = format!("{server} did not answer within {} s", PATIENCE.as_secs()),
            }
        }
        Err(reason)
    }

    async fn open(&self, found: Found, rules: Vec<usize>) -> Result<Found, String> {
        if found.addresses.is_empty() {
            return Ok(found);
        }
        let text = ruleset::found(&self.interface, &rules, &found.addresses, found.life + GRACE);
        let router = self.router.clone();
        let opened = tokio::task::spawn_blocking(move || router.nft(&text)).await;
        match opened {
            Ok(Ok(())) => Ok(found),
            Ok(Err(error)) => Err(format!("the packet filter does not take it: {error}")),
            Err(error) => Err(format!("the packet filter was not told: {error}")),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("ask {0}: {1}")]
    Io(SocketAddr, io::Error),
    #[error("the answer is not passed on: {0}")]
    Hostile(Hostile),
}

/// One question to one server, from a port of its own and under a number of its own, so that nobody else can answer.
async fn ask(server: SocketAddr, question: &Question) -> Result<Found, AskError> {
    let failed = |error| AskError::Io(server, error);
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(failed)?;
    socket.connect(server).await.map_err(failed)?;
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(|error| failed(io::Error::other(error.to_string())))?;
    let id = u16::from_ne_bytes(id);
    socket.send(&question.ask(id)).await.map_err(failed)?;
    let mut buffer = vec![0; usize::from(MAX_MESSAGE) + 1];
    let mut last = Hostile::Other;
    for _ in 0..MAX_WRONG {
        let length = socket.recv(&mut buffer).await.map_err(failed)?;
        match question.judge(id, &buffer[..length], Way::Datagram) {
            Ok(found) => return Ok(found),
            // There is more than a datagram holds.
            Err(Hostile::Cut) => {
                let answer = stream::ask(server, &question.ask(id)).await.map_err(failed)?;
                return question.judge(id, &answer, Way::Stream).map_err(AskError::Hostile);
            }
            // Somebody guesses; the true answer may still come.
            Err(error @ (Hostile::Other | Hostile::Garbage)) => last = error,
            Err(error) => return Err(AskError::Hostile(error)),
        }
    }
    Err(AskError::Hostile(last))
}

fn recall(remembered: &Remembered, question: &Question) -> Option<Found> {
    let known = remembered.lock().unwrap_or_else(PoisonError::into_inner);
    let (end, found) = known.get(&(question.name.clone(), question.kind))?;
    let left = end.checked_duration_since(Instant::now())?;
    (left >= Duration::from_secs(1)).then(|| Found { life: left, ..found.clone() })
}

fn remember(remembered: &Remembered, question: &Question, found: &Found) {
    let mut known = remembered.lock().unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    if known.len() >= MAX_REMEMBERED {
        known.retain(|_, (end, _)| *end > now);
    }
    if known.len() < MAX_REMEMBERED {
        known.insert((question.name.clone(), question.kind), (now + found.life, found.clone()));
    }
}
