//! The time in which there is a guest to talk to: from the machine's start to its end.

use std::time::Duration;

use casemate_api::guest::{Evidence, Fatal, Phase, Record, Status, Stop, from_guest, to_guest};
use casemate_lifecycle::{AGENT_PATIENCE_MS, Event, Failure, Step};
use casemate_sandbox::{DriverError, Exit, ExitCause, SystemKind};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};

use super::owner::{Challenge, Ended, Owner};
use crate::{
    evidence::{Answer, EvidenceError},
    failpoint::Failpoint,
    failure::{self, check},
    files::{FileError, off_thread},
    link::{Link, LinkEvent},
    spool::Appended,
};

/// After the end of the grace period, for the guest's last records.
const STOP_MARGIN: Duration = Duration::from_secs(5);
/// Between two counts of what went over its link.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// From the exit of the workload to the end of the machine: the guest waits 30 s for acknowledgements.
const EXIT_LIMIT: Duration = Duration::from_secs(45);
/// From a fatal message to the end of the machine.
const FATAL_LIMIT: Duration = Duration::from_secs(10);
/// From the end of the machine to the end of its channel.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Exit status of a workload that was ended by a signal.
const TERMINATED: i32 = 128 + 15;
const KILLED: i32 = 128 + 9;
/// By how much the guest's clock may be ahead when its workload's time to live is over.
const EXPIRY_MARGIN_MS: u64 = 2_000;
/// Longest line of the guest's console in a failure.
const MAX_CONSOLE: usize = 400;
/// Phases of the guest that are reported as stages.
const GUEST_STAGES: usize = 16;

/// What belongs to one machine's time.
struct Serving {
    link: Link,
    durable: watch::Sender<u64>,
    to_guest: Option<mpsc::Sender<to_guest::Message>>,
    phase: Phase,
    /// The release went out in this session of the channel.
    released: bool,
    stop_sent: bool,
    /// Challenges that the guest has.
    asked: Vec<Asked>,
    next_challenge: u64,
    /// Evidence being completed, with the number of its challenge.
    completing: JoinSet<(u64, Result<Vec<u8>, EvidenceError>)>,
    syncing: JoinSet<Result<u64, FileError>>,
    deadline: Option<(Instant, Deadline)>,
    /// When the agent ends a workload whose time to live is over, because the guest has not.
    expires: Option<Instant>,
}

/// A challenge that the guest has.
struct Asked {
    /// The number it was given for the guest.
    id: u64,
    challenge: Challenge,
    /// The guest has given its part, which is being completed.
    answered: bool,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deadline {
    /// The guest's first answer, or its answer after a broken session.
    Answer,
    /// The end of the machine.
    End,
}

impl Owner {
    /// Talks to the guest until the machine has ended or has to be ended.
    pub(super) async fn serve(&mut self) -> Ended {
        let Some(launched) = self.book.journal.launched().cloned() else {
            return Ended::Failed(failure::at(self.book.attempting(), check::START, "there is no launch record"));
        };
        let mut serving = Serving::start(self, launched.message);
        let ended = self.talk(&mut serving).await;
        // Whoever waits for evidence still is told why there is none.
        self.challenges.extend(serving.asked.into_iter().map(|asked| asked.challenge));
        ended
    }

    async fn talk(&mut self, serving: &mut Serving) -> Ended {
        let driver = self.driver.clone();
        let id = self.id.clone();
        serving.expires = self.expiry();
        let exit = driver.wait(&id);
        tokio::pin!(exit);
        let is_connected = self.is_connected();
        let mut count = interval_at(Instant::now() + COUNT_EVERY, COUNT_EVERY);
        count.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(ended) = self.advance(serving) {
                return ended;
            }
            let has_room = self.book.has_room();
            let until = serving.deadline.map(|(at, _)| at);
            let step = tokio::select! {
                Some(event) = serving.link.events.recv() => self.heard(serving, event).await,
                Some(record) = serving.link.records.recv(), if has_room => self.record(&record),
                Some(synced) = serving.syncing.join_next() => self.synced(serving, synced),
                Some(completed) = serving.completing.join_next() => { self.completed(serving, completed); Ok(()) }
                request = self.requests.recv() => { self.take_or_sleep(request).await; Ok(()) }
                _ = count.tick(), if is_connected => { self.count().await; Ok(()) }
                () = at(until) => self.too_late(serving),
                () = at(serving.expires) => { self.expired(serving); Ok(()) }
                exit = &mut exit => return self.machine_ended(serving, exit).await,
            };
            if let Err(ended) = step {
                return ended;
            }
        }
    }

    /// Everything that can be sent or begun in the present state.
    fn advance(&mut self, serving: &mut Serving) -> Option<Ended> {
        if serving.syncing.is_empty()
            && let Some(point) = self.book.unsynced()
        {
            serving.syncing.spawn(off_thread(move || point.sync()));
        }
        serving.asked.retain(|asked| !asked.challenge.reply.is_closed());
        if self.stop && !serving.stop_sent {
            let grace_ms = self.book.journal.order.body.grace_ms;
            serving.stop_sent = true;
            // A guest without a workload has nothing to end gracefully.
            if serving.phase < Phase::Keyed || !serving.send(to_guest::Message::Stop(Stop { grace_ms })) {
                return Some(Ended::Stopped);
            }
            serving.deadline = Some((Instant::now() + Duration::from_millis(grace_ms.into()) + STOP_MARGIN, Deadline::End));
        }
        if serving.phase == Phase::Configured && serving.to_guest.is_some() {
            self.ask(serving);
            self.hand_over(serving);
        }
        if serving.phase > Phase::Configured && serving.to_guest.is_some() {
            self.ask(serving);
            self.release = None;
        }
        None
    }

    fn ask(&mut self, serving: &mut Serving) {
        for challenge in self.challenges.drain(..) {
            serving.next_challenge += 1;
            let id = serving.next_challenge;
            let message = casemate_api::guest::Challenge { id, nonce: challenge.nonce.to_vec() };
            serving.send(to_guest::Message::Challenge(message));
            // What was not sent, or not answered, is asked again in the next session.
            serving.asked.push(Asked { id, challenge, answered: false });
        }
    }

    fn hand_over(&mut self, serving: &mut Serving) {
        if let (Some(sealed), false) = (&self.release, serving.released) {
            let release = casemate_api::guest::Release { sealed: sealed.clone() };
            serving.released = serving.send(to_guest::Message::Release(release));
            self.book.stage("delivered");
            self.book.pass(Failpoint::Delivered);
        }
    }

    async fn heard(&mut self, serving: &mut Serving, event: LinkEvent) -> Result<(), Ended> {
        match event {
            LinkEvent::Up(to_guest) => serving.up(to_guest),
            LinkEvent::Down => {
                serving.down(self.ctx.config.boot_timeout);
                let unanswered = serving.asked.extract_if(.., |asked| !asked.answered);
                self.challenges.extend(unanswered.map(|asked| asked.challenge));
            }
            LinkEvent::Control(from_guest::Message::Status(status)) => self.status(serving, status).await,
            LinkEvent::Control(from_guest::Message::Evidence(evidence)) => self.evidence(serving, evidence),
            LinkEvent::Control(from_guest::Message::Fatal(fatal)) => self.fatal(serving, &fatal),
        }
        Ok(())
    }

    async fn status(&mut self, serving: &mut Serving, status: Status) {
        let phase = status.phase();
        tracing::debug!(instance.id = %self.id, guest.phase = phase.as_str_name(), "guest status");
        for (name, ms) in status.reached_ms.iter().filter(|(name, _)| is_stage_name(name)).take(GUEST_STAGES) {
            self.book.guest_stage(name, *ms);
        }
        self.book.guest_observed(status.observed);
        // Also after a new session: a guest never goes back.
        serving.phase = serving.phase.max(phase);
        if serving.phase >= Phase::Configured && matches!(serving.deadline, Some((_, Deadline::Answer))) {
            serving.deadline = None;
        }
        let (step, stage, point) = match phase {
            Phase::Unspecified => return,
            Phase::Booted => (Step::Booted, "booted", Failpoint::Booted),
            Phase::Configured => (Step::Booted, "configured", Failpoint::Configured),
            Phase::Keyed => (Step::Keyed, "keyed", Failpoint::Keyed),
            Phase::Running => (Step::Running, "running", Failpoint::Running),
            Phase::Exited => return self.exited(serving, status.exit_code).await,
        };
        self.book.happened(Event::Reached(step));
        self.book.stage(stage);
        self.book.pass(point);
        if step >= Step::Keyed && self.book.keyed() {
            serving.expires = self.expiry();
            // A restarted agent counts on from here; without this line from its own start.
            if let Err(error) = self.book.save().await {
                tracing::warn!(instance.id = %self.id, error = failure::chain(&error), "the begin of a time to live is not on disk");
            }
        }
    }

    /// The guest ends its workload itself; this is for one that does not.
    fn expiry(&self) -> Option<Instant> {
        Some(Instant::now() + Duration::from_millis(self.book.left_ms(AGENT_PATIENCE_MS)?))
    }

    fn expired(&mut self, serving: &mut Serving) {
        tracing::warn!(instance.id = %self.id, "the guest has not ended its workload in time; the agent does");
        serving.expires = None;
        self.book.expired();
        self.stop = true;
    }

    async fn exited(&mut self, serving: &mut Serving, code: Option<i32>) {
        self.book.happened(Event::Reached(Step::Running));
        self.book.happened(Event::Exited(code.unwrap_or(-1)));
        let was_ended = matches!(code, Some(TERMINATED | KILLED)) && !self.stop;
        if was_ended && self.book.left_ms(0).is_some_and(|left_ms| left_ms <= EXPIRY_MARGIN_MS) {
            self.book.expired();
        }
        self.book.stage("exited");
        // The machine ends by itself soon; without this line a restarted agent would not know how the workload ended.
        self.save_whatever_it_takes().await;
        self.book.pass(Failpoint::Exited);
        serving.deadline = Some((Instant::now() + EXIT_LIMIT, Deadline::End));
    }

    fn fatal(&mut self, serving: &mut Serving, fatal: &Fatal) {
        let failure = failure::of_guest(self.book.attempting(), &fatal.check, &fatal.detail);
        self.book.happened(Event::Failed(failure));
        serving.deadline = Some((Instant::now() + FATAL_LIMIT, Deadline::End));
    }

    fn evidence(&mut self, serving: &mut Serving, evidence: Evidence) {
        let waiting = serving.asked.iter_mut().find(|asked| asked.id == evidence.id && !asked.answered);
        let Some(asked) = waiting else {
            tracing::warn!(instance.id = %self.id, "the guest sent evidence that nobody asked for");
            return;
        };
        asked.answered = true;
        let (id, nonce) = (asked.id, asked.challenge.nonce);
        let record = self.book.journal.launched().map(|launched| launched.record.clone()).unwrap_or_default();
        let (batcher, failpoints) = (self.ctx.evidence.clone(), self.ctx.failpoints());
        let system = self.driver.capabilities().system;
        serving.completing.spawn(async move {
            let evidence = match system {
                SystemKind::Machine => batcher.assemble(nonce, record, evidence).await,
                SystemKind::Container => batcher.assemble_container(nonce, record, evidence).await,
            };
            failpoints.pass(Failpoint::Evidence);
            (id, evidence)
        });
    }

    fn completed(&mut self, serving: &mut Serving, completed: Result<(u64, Result<Vec<u8>, EvidenceError>), JoinError>) {
        self.book.stage("evidence");
        // Only a defect ends such a task without its result: the challenge then waits for its limit of time.
        let Ok((id, evidence)) = completed else { return };
        let Some(index) = serving.asked.iter().position(|asked| asked.id == id) else { return };
        let challenge = serving.asked.swap_remove(index).challenge;
        let system = self.driver.capabilities().system;
        let fail = |error: EvidenceError| failure::at(Step::Attested, check::EVIDENCE, failure::chain(&error));
        // The platform may have hung up.
        let _ = challenge.reply.send(evidence.map(|bytes| Answer::of(system, bytes)).map_err(fail));
    }

    fn record(&mut self, record: &Record) -> Result<(), Ended> {
        let problem = match self.book.append(record.seq, &record.sealed) {
            Ok(Appended::Written) => {
                self.book.stage("first_record");
                return Ok(());
            }
            Ok(Appended::Duplicate) => return Ok(()),
            Ok(Appended::Gap) => format!("record {} is not the next one", record.seq),
            Ok(Appended::TooLong) => format!("record {} has {} bytes", record.seq, record.sealed.len()),
            Err(error) => return Err(Ended::Failed(failure::at(self.book.attempting(), check::VMM, failure::chain(&error)))),
        };
        Err(Ended::Failed(failure::at(self.book.attempting(), check::GUEST_PROTOCOL, problem)))
    }

    fn synced(&mut self, serving: &Serving, synced: Result<Result<u64, FileError>, JoinError>) -> Result<(), Ended> {
        match synced {
            Ok(Ok(next)) => {
                self.book.pass(Failpoint::Spooled);
                self.book.synced(next);
                serving.durable.send_replace(next);
                Ok(())
            }
            // After a failed sync nobody knows what is on disk.
            Ok(Err(error)) => Err(self.failed(check::VMM, &error)),
            Err(error) => Err(self.failed(check::VMM, &error)),
        }
    }

    fn too_late(&mut self, serving: &Serving) -> Result<(), Ended> {
        let limit_ms = self.ctx.config.boot_timeout.as_millis();
        Err(match serving.deadline {
            Some((_, Deadline::End)) => self.outcome("the guest did not power off in time"),
            Some((_, Deadline::Answer)) | None => {
                let detail = format!("the guest did not answer within {limit_ms} ms, it reached {}", serving.phase.as_str_name());
                Ended::Failed(failure::at(self.book.attempting(), check::BOOT_TIMEOUT, detail))
            }
        })
    }

    /// Takes what the guest still said before its end, then judges.
    async fn machine_ended(&mut self, serving: &mut Serving, exit: Result<Exit, DriverError>) -> Ended {
        let until = Instant::now() + DRAIN_LIMIT;
        while !serving.is_silent() && Instant::now() < until {
            let step = tokio::select! {
                biased;
                Some(event) = serving.link.events.recv() => self.heard(serving, event).await,
                Some(record) = serving.link.records.recv() => self.record(&record),
                () = sleep_until(until) => break,
            };
            if step.is_err() {
                break;
            }
        }
        while let Ok(record) = serving.link.records.try_recv() {
            if self.record(&record).is_err() {
                break;
            }
        }
        while let Some(synced) = serving.syncing.join_next().await {
            let _ = self.synced(serving, synced);
        }
        if let Some(point) = self.book.unsynced()
            && let Ok(next) = off_thread(move || point.sync()).await
        {
            self.book.synced(next);
        }
        match exit {
            Ok(exit) => self.after_exit(exit),
            Err(error) => self.failed(check::VMM, &error),
        }
    }

    /// What the end of the machine means.
    pub(super) fn after_exit(&mut self, exit: Exit) -> Ended {
        let step = self.book.attempting();
        let tail = last_lines(&exit.console_tail);
        let failure = match exit.cause {
            ExitCause::PoweredOff => {
                return self.outcome(&format!("the guest powered off without a reason; its console ends: {tail}"));
            }
            ExitCause::Guest { check, detail } => failure::of_guest(step, &check, &detail),
            ExitCause::Panic(detail) => failure::at(step, check::PANIC, detail),
            ExitCause::Vmm(_) if self.stop || self.is_decided() => return self.outcome("the machine ended"),
            ExitCause::Vmm(detail) => failure::at(step, check::VMM, format!("{detail}; its console ends: {tail}")),
        };
        match self.is_decided() {
            true => self.outcome(""),
            false => Ended::Failed(failure),
        }
    }

    /// Whether it is known already how this ends.
    fn is_decided(&self) -> bool {
        self.book.journal.actual.failure.is_some() || self.book.journal.actual.exit_code.is_some()
    }

    /// The end, where nothing failed that is not recorded yet.
    fn outcome(&self, otherwise: &str) -> Ended {
        let actual = &self.book.journal.actual;
        match (&actual.failure, actual.exit_code) {
            (Some(failure), _) => Ended::Failed(failure.clone()),
            (None, _) if self.stop => Ended::Stopped,
            (None, Some(_)) => Ended::Exited,
            (None, None) => Ended::Failed(Failure {
                step: self.book.attempting(),
                check: check::POWERED_OFF.to_owned(),
                detail: otherwise.to_owned(),
            }),
        }
    }
}

impl Serving {
    fn start(owner: &Owner, launch: Vec<u8>) -> Self {
        let (durable, watch_durable) = watch::channel(owner.book.durable());
        let link = Link::start(owner.driver.clone(), owner.id.clone(), launch, watch_durable);
        Self {
            link,
            durable,
            to_guest: None,
            phase: Phase::Unspecified,
            released: false,
            stop_sent: false,
            asked: Vec::new(),
            next_challenge: 0,
            completing: JoinSet::new(),
            syncing: JoinSet::new(),
            deadline: Some((Instant::now() + owner.ctx.config.boot_timeout, Deadline::Answer)),
            expires: None,
        }
    }

    fn up(&mut self, to_guest: mpsc::Sender<to_guest::Message>) {
        self.to_guest = Some(to_guest);
        self.released = false;
    }

    /// A guest that is silent for as long as a boot may take is taken for dead.
    fn down(&mut self, patience: Duration) {
        self.to_guest = None;
        if self.deadline.is_none() {
            self.deadline = Some((Instant::now() + patience, Deadline::Answer));
        }
    }

    /// Whether the message is on its way; if not, the session is as good as ended.
    fn send(&mut self, message: to_guest::Message) -> bool {
        let sent = self.to_guest.as_ref().is_some_and(|to_guest| to_guest.try_send(message).is_ok());
        if !sent {
            self.to_guest = None;
        }
        sent
    }

    fn is_silent(&self) -> bool {
        self.to_guest.is_none() && self.link.events.is_empty() && self.link.records.is_empty()
    }
}

async fn at(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn is_stage_name(name: &str) -> bool {
    (1..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'-'))
}

fn last_lines(console: &str) -> String {
    let start = console.len().saturating_sub(MAX_CONSOLE);
    let start = (start..console.len()).find(|at| console.is_char_boundary(*at)).unwrap_or(console.len());
    console[start..].trim().replace('\n', " | ")
}
