//! The guest's life after its boot, told by its phases:
//!
//! ```text
//! booted --Launch--> configured --Release--> keyed --exec--> running --exit--> exited --acknowledged--> power off
//!    \__________________ Stop: power off ________________/       \__ Stop, TTL: SIGTERM, SIGKILL
//! any failure: Fatal on console and channel, power off
//! ```

mod admission;
mod run;

use std::{cell::RefCell, convert::Infallible, rc::Rc, time::Duration};

use casemate_api::{
    guest::{self, FromGuest, ToGuest, from_guest, to_guest},
    workload::{self, Workload},
};
use casemate_seal::{KeyRelease, RecordSealer, open_release};
use tokio::{
    pin,
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    channel::{Channel, Ends},
    entropy,
    evidence::Identity,
    fatal::{Check, Fatal, OrFatal},
    home::Home,
    phase::{Phase, Progress, say},
    workload::spool::Spool,
};
use admission::{Admission, admit};

/// Lives to the end, and powers off. Returns only a failure of the channel itself, of which the host cannot be told.
pub(crate) fn run(home: impl Home) -> Result<Infallible, Fatal> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.or_fatal(Check::Protocol, "start the runtime")?.block_on(async {
        let spool = Rc::new(Spool::new());
        let (mut channel, ends) = home
            .open_port()
            .map(|port| Channel::new(port, spool.clone()))
            .or_fatal(Check::Protocol, "open the channel to the host")?;
        let Ends { inbox, outbox } = ends;
        let mut life = Life { home, inbox, outbox: outbox.clone(), spool, progress: Progress::booted(), idle: false };
        // One future from here to the end: dropping it would end the session and with it the last words.
        let serve = channel.serve();
        pin!(serve);
        let outcome = tokio::select! {
            outcome = life.live() => outcome,
            error = &mut serve => return Err(Fatal::new(Check::Protocol, format!("serve the channel: {error}"))),
        };
        let last_words = match &outcome {
            Ok(()) => NORMAL_END,
            Err(fatal) => {
                fatal.print();
                let _ = outbox.try_send(FromGuest { message: Some(from_guest::Message::Fatal(fatal.to_wire())) });
                FATAL_END
            }
        };
        // What is queued still goes out.
        let _ = timeout(last_words, serve).await;
        life.home.end()
    })
}

/// What every phase has.
struct Life<H> {
    home: H,
    inbox: mpsc::Receiver<ToGuest>,
    outbox: mpsc::Sender<FromGuest>,
    spool: Rc<Spool>,
    progress: Progress,
    /// A challenge was answered: until there is something else to do, what the workload will need is done.
    idle: bool,
}

/// What is known from `Launch` on.
struct Configured {
    // As it came, to recognise it when it comes again.
    launch: guest::Launch,
    workload: Workload,
    tenant_key: [u8; 32],
    identity: Identity,
}

/// Why the waiting for a message ended.
enum Heard {
    Launch(guest::Launch),
    Release(guest::Release),
    Stop(guest::Stop),
}

impl<H: Home> Life<H> {
    /// Up to the end that is no failure.
    async fn live(&mut self) -> Result<(), Fatal> {
        self.report(None).await;
        // The key is made while the host still prepares its first message.
        self.home.settle()?;
        let launch = match self.hear(None).await? {
            Heard::Launch(launch) => launch,
            Heard::Stop(_) => return self.stopped_early().await,
            Heard::Release(_) => return Err(out_of_order("Release")),
        };
        let mut configured = self.configure(launch)?;
        self.reach(Phase::Configured).await;
        let release = match self.hear(Some(&mut configured)).await? {
            Heard::Release(release) => release,
            Heard::Stop(_) => return self.stopped_early().await,
            Heard::Launch(_) => return Err(out_of_order("Launch")),
        };
        let keys = configured.open(&release)?;
        self.idle = false;
        while self.home.next_chore()? {}
        self.run(configured, keys).await
    }

    fn configure(&mut self, launch: guest::Launch) -> Result<Configured, Fatal> {
        let workload = Workload::from_canonical(&launch.workload).or_fatal(Check::WorkloadFormat, "read the workload")?;
        if workload.isolation > self.home.level() {
            let (asked, given) = (workload.isolation, self.home.level());
            let detail = format!("the workload asks for level {}, and this is {}", asked.as_str(), given.as_str());
            return Err(Fatal::new(Check::WorkloadFormat, detail));
        }
        let tenant_key = workload::parse_hex32(&workload.tenant_key);
        let tenant_key = tenant_key.ok_or_else(|| Fatal::new(Check::WorkloadFormat, "read the tenant's key"))?;
        if launch.entropy.len() != ENTROPY || launch.instance.is_empty() || launch.instance.len() > MAX_INSTANCE {
            return Err(Fatal::new(Check::Protocol, "Launch needs 32 bytes of entropy and an instance of 1 to 128 bytes"));
        }
        if launch.network.is_some() != workload.network.is_some() {
            return Err(Fatal::new(
                Check::Network,
                "the launch message and the workload do not agree on whether there is a network",
            ));
        }
        entropy::mix(&launch.entropy)?;
        let digest = workload::digest_of(&launch.workload);
        self.home.measure(digest)?;
        let identity = Identity::generate(launch.instance.clone(), digest)?;
        self.home.open_layers(&workload.image.layers, &launch.layers)?;
        Ok(Configured { launch, workload, tenant_key, identity })
    }

    /// Handles messages until one comes that changes the phase.
    async fn hear(&mut self, mut configured: Option<&mut Configured>) -> Result<Heard, Fatal> {
        loop {
            let heard = tokio::select! {
                biased;
                heard = self.inbox.recv() => heard,
                // By now the answer is with the host, which verifies it.
                () = sleep(ANSWER_SENT), if self.idle => {
                    self.idle = self.home.next_chore()?;
                    continue;
                }
            };
            // The channel holds the other end for as long as the machine lives.
            let Some(ToGuest { message: Some(message) }) = heard else {
                return Err(Fatal::new(Check::Protocol, "a message of an unknown kind came"));
            };
            let known = configured.as_ref().map(|configured| &configured.launch);
            match (admit(self.progress.phase(), known, &message), message, configured.as_deref_mut()) {
                (Admission::Ignore, ..) => {}
                (Admission::Refuse(reason), ..) => return Err(Fatal::new(Check::Protocol, reason)),
                (Admission::Take, to_guest::Message::Launch(launch), _) => return Ok(Heard::Launch(launch)),
                (Admission::Take, to_guest::Message::Release(release), _) => return Ok(Heard::Release(release)),
                (Admission::Take, to_guest::Message::Stop(stop), _) => return Ok(Heard::Stop(stop)),
                (Admission::Take, to_guest::Message::Challenge(challenge), Some(configured)) => {
                    self.answer(configured, &challenge).await?;
                }
                (Admission::Take, to_guest::Message::Challenge(_), None) => return Err(out_of_order("Challenge")),
            }
        }
    }

    async fn answer(&mut self, configured: &mut Configured, challenge: &guest::Challenge) -> Result<(), Fatal> {
        let evidence = configured.identity.answer(&mut self.home, challenge)?;
        self.send(from_guest::Message::Evidence(evidence)).await;
        self.idle |= self.progress.phase() == Phase::Configured;
        Ok(())
    }

    /// Nothing ran, so there are no records and there is no exit code.
    async fn stopped_early(&mut self) -> Result<(), Fatal> {
        say("casemate-guest: stopped before the workload started");
        self.reach(Phase::Exited).await;
        Ok(())
    }

    async fn reach(&mut self, phase: Phase) {
        self.progress.reach(phase);
        self.report(None).await;
    }

    async fn report(&mut self, exit_code: Option<i32>) {
        let status = self.progress.to_status(exit_code, self.spool.next());
        self.send(from_guest::Message::Status(status)).await;
    }

    /// The channel takes messages also while nobody listens, so this does not block for long.
    async fn send(&mut self, message: from_guest::Message) {
        let _ = self.outbox.send(FromGuest { message: Some(message) }).await;
    }
}

impl Configured {
    /// Opens the key release: from the tenant of the workload, for this instance and a nonce that was answered here.
    fn open(&mut self, release: &guest::Release) -> Result<KeyRelease, Fatal> {
        let Identity { hpke, instance, workload_digest, .. } = &self.identity;
        let (hpke, instance, digest) = (hpke.clone(), instance.clone(), *workload_digest);
        open_release(&hpke, &self.tenant_key, &instance, &digest, self.identity.nonces(), &release.sealed)
            .or_fatal(Check::KeysAuthentic, "open the key release")
    }

    fn sealer(&self) -> Result<RefCell<RecordSealer>, Fatal> {
        let Identity { hpke, instance, workload_digest, .. } = &self.identity;
        RecordSealer::new(hpke, &self.tenant_key, instance, workload_digest, &mut entropy::rng())
            .map(RefCell::new)
            .or_fatal(Check::WorkloadFormat, "seal to the tenant's key")
    }
}

fn out_of_order(message: &str) -> Fatal {
    Fatal::new(Check::Protocol, format!("{message} came out of order"))
}

const ENTROPY: usize = 32;
/// From an answer in the queue to its bytes at the host.
const ANSWER_SENT: Duration = Duration::from_millis(2);
const MAX_INSTANCE: usize = 128;
/// The last status is on its way already when the last record was acknowledged.
const NORMAL_END: Duration = Duration::from_millis(100);
const FATAL_END: Duration = Duration::from_millis(200);
