//! Instances, as tenants and operators see them.

use casemate_api::{
    canonical, rest,
    workload::{Isolation, Workload, digest_of},
};
use casemate_lifecycle::{Actual, Admission, Event, InstanceId, Intent, Request, Step, admit};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::SemaphorePermit,
    time::{Duration, Instant},
};

use super::{Caller, Service, random};
use crate::{
    clock::now_ms,
    fault::{Fault, chain},
    life, schedule,
    store::{Created, Instance, NewEvent, NewInstance, intent_as_str},
};

/// An instance that was asked for but not started after this time is not started any more.
const START_WITHIN_MS: u64 = 10 * 60 * 1000;
/// Longest idempotency key.
const MAX_KEY: usize = 200;

/// A new instance, or the one that the same request made before.
#[derive(Debug)]
pub enum Placed {
    /// Made now.
    New(rest::Instance),
    /// Made before.
    Existing(rest::Instance),
}

impl Service {
    /// Checks, stores and places a new instance. The same request with the same key answers with the same instance.
    pub async fn create(&self, caller: &Caller, request: rest::NewInstance, key: Option<String>) -> Result<Placed, Fault> {
        if key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_KEY) {
            let detail = format!("must have 1 to {MAX_KEY} bytes");
            return Err(Fault::Invalid { what: "Idempotency-Key", detail, hint: "use a random UUID" });
        }
        let workload = Workload::from_canonical(request.workload.as_bytes()).map_err(|error| Fault::Invalid {
            what: "workload",
            detail: chain(&error),
            hint: "send the canonical form that `casemate run` makes; docs/api describes it",
        })?;
        let missing = self.missing_blobs(&workload).await?;
        if !missing.is_empty() {
            return Err(Fault::MissingBlobs(missing));
        }
        let now_ms = now_ms();
        let nodes = self.store().nodes().await?;
        let wanted = schedule::Request {
            isolation: workload.isolation,
            cpus: workload.resources.cpus,
            memory_mib: workload.resources.memory_mib,
            scratch_mib: workload.resources.scratch_mib,
            network: workload.network.is_some(),
            node: request.node.clone(),
        };
        let new = NewInstance {
            request_digest: Sha256::digest(canonical::to_vec(&request)).into(),
            instance: new_instance(caller, &workload, request.workload, now_ms)?,
            idempotency_key: key,
        };
        let created = self
            .store()
            .create_instance(new, now_ms, |loads, instance, out| {
                let candidates: Vec<_> = nodes.iter().map(|node| self.candidate(node, loads.get(node.id.as_str()))).collect();
                place(&wanted, &candidates, instance, out);
            })
            .await?;
        match created {
            Created::Existing(instance) => Ok(Placed::Existing(view(instance))),
            Created::KeyTaken => Err(Fault::KeyTaken),
            Created::New(instance) => {
                tracing::info!(instance.id = %instance.id, node.id = instance.node.as_ref().map(|n| n.as_str()), "instance created");
                if let Some(node) = &instance.node {
                    self.0.sessions.send(node, crate::sessions::Command::Changed(instance.id.clone()));
                }
                Ok(Placed::New(view(instance)))
            }
        }
    }

    /// The caller's instances, newest first.
    pub async fn list(&self, caller: &Caller) -> Result<rest::Instances, Fault> {
        let instances = self.store().instances(caller.sees()).await?;
        Ok(rest::Instances { instances: instances.into_iter().map(view).collect() })
    }

    /// One instance.
    pub async fn get(&self, caller: &Caller, id: &str) -> Result<rest::Instance, Fault> {
        self.find(caller, id).await.map(view)
    }

    /// Events after number `after`; waits for one, if there is none, at most `wait`.
    pub async fn events(&self, caller: &Caller, id: &str, after: u64, wait: Duration) -> Result<rest::Events, Fault> {
        let id = self.find(caller, id).await?.id;
        let (deadline, _permit) = self.begin_poll(wait)?;
        let mut draining = self.draining();
        let mut waiter = self.0.changes.watch(&id);
        loop {
            let events = self.store().events(&id, after).await?;
            if !events.is_empty() || *draining.borrow_and_update() {
                return Ok(rest::Events { events });
            }
            let more = tokio::select! {
                more = waiter.changed(deadline) => more,
                _ = draining.changed() => false,
            };
            if !more {
                return Ok(rest::Events { events: self.store().events(&id, after).await? });
            }
        }
    }

    /// Asks for the end of an instance.
    pub async fn stop(&self, caller: &Caller, id: &str) -> Result<(), Fault> {
        let id = self.find(caller, id).await?.id;
        let changed = self
            .change(&id, |instance, out| match admit(&instance.actual, instance.intent, Request::Stop) {
                Admission::Accept => {
                    life::intend(instance, Intent::Stop);
                    out.push(NewEvent { kind: "note", text: "stop requested".into(), data: None });
                    Ok(())
                }
                Admission::Ignore => Ok(()),
                Admission::Refuse(refusal) => Err(Fault::Refused(refusal)),
            })
            .await?;
        changed.map_or_else(|| Err(unknown(id.as_str())), |(_, answer)| answer)
    }

    /// Forgets an instance that is wiped.
    pub async fn delete(&self, caller: &Caller, id: &str) -> Result<(), Fault> {
        let instance = self.find(caller, id).await?;
        // Steps never go back: what may be deleted now may be deleted in a moment.
        match admit(&instance.actual, instance.intent, Request::Delete) {
            Admission::Accept | Admission::Ignore => {}
            Admission::Refuse(refusal) => return Err(Fault::Refused(refusal)),
        }
        self.store().delete_instance(&instance.id).await?;
        self.0.changes.wake(&instance.id);
        tracing::info!(instance.id = %instance.id, "instance forgotten");
        Ok(())
    }

    /// The instance, if the caller may see it; else it does not exist for this caller.
    pub(super) async fn find(&self, caller: &Caller, id: &str) -> Result<Instance, Fault> {
        let parsed: InstanceId = id.parse().map_err(|_| unknown(id))?;
        let instance = self.store().instance(&parsed).await?.ok_or_else(|| unknown(id))?;
        match caller.sees() {
            Some(owner) if owner != instance.owner => Err(unknown(id)),
            _ => Ok(instance),
        }
    }

    /// The end of a long poll, and the right to wait for it.
    pub(super) fn begin_poll(&self, wait: Duration) -> Result<(Instant, SemaphorePermit<'_>), Fault> {
        let permit = self.0.long_polls.try_acquire().map_err(|_| Fault::Busy("long polls"))?;
        Ok((Instant::now() + wait.min(self.limits().long_poll), permit))
    }
}

fn new_instance(caller: &Caller, workload: &Workload, text: String, now_ms: u64) -> Result<Instance, Fault> {
    let id = format!("i-{now_ms:012x}{}", hex::encode(random::<4>()?));
    Ok(Instance {
        id: id.parse().expect("hex digits after a letter are an id"),
        owner: caller.subject.clone(),
        name: workload.name.clone(),
        workload_digest: digest_of(text.as_bytes()),
        workload: text,
        cpus: workload.resources.cpus,
        memory_mib: workload.resources.memory_mib,
        node: None,
        level: None,
        intent: Intent::Run,
        actual: Actual::new(),
        generation: 1,
        start_before_ms: now_ms + START_WITHIN_MS,
        created_at_ms: now_ms,
        attested_at_ms: None,
        verdict: None,
        stages_ms: Default::default(),
        observed: None,
        sealed_release: None,
        last_event: 0,
        notes: 0,
        next_record: 0,
        record_bytes: 0,
        has_receipt: false,
    })
}

/// Decides where the instance goes. Where no node will do, it ends before it began, and says why.
fn place(wanted: &schedule::Request, nodes: &[schedule::Candidate], instance: &mut Instance, out: &mut Vec<NewEvent>) {
    out.push(NewEvent { kind: "step", text: Step::Requested.to_string(), data: None });
    let chosen = match wanted.isolation {
        Isolation::Confidential => {
            Err("no node offers hardware memory encryption yet; `microvm` is the strongest level".to_owned())
        }
        Isolation::Container | Isolation::Sandbox | Isolation::Microvm => {
            schedule::choose(wanted, nodes).map_err(|reasons| reasons.to_string())
        }
    };
    match chosen {
        Ok((node, level)) => {
            life::happen(instance, Event::Reached(Step::Scheduled), out);
            if let Some(event) = out.last_mut() {
                event.data = Some(json!({ "node": node.as_str(), "level": level.as_str() }));
            }
            instance.node = Some(node);
            instance.level = Some(level);
            if level < Isolation::Microvm {
                // What a container writes is in memory, and nobody else can have it.
                instance.memory_mib = instance.memory_mib.saturating_add(wanted.scratch_mib);
            }
        }
        Err(why) => {
            life::fail(instance, Step::Scheduled, "schedule.no-node", why, out);
            life::happen(instance, Event::Reached(Step::Gone), out);
        }
    }
}

/// The instance as clients see it.
pub(super) fn view(instance: Instance) -> rest::Instance {
    let failure = instance.actual.failure;
    rest::Instance {
        id: instance.id.to_string(),
        name: instance.name,
        intent: intent_as_str(instance.intent).to_owned(),
        step: instance.actual.step.to_string(),
        node: instance.node.map(|node| node.to_string()),
        level: instance.level.map(|level| level.as_str().to_owned()),
        exit_code: instance.actual.exit_code,
        failure: failure.map(|f| rest::Failure { step: f.step.to_string(), check: f.check, detail: f.detail }),
        workload_digest: hex::encode(instance.workload_digest),
        workload: instance.workload,
        platform_verdict: instance.verdict.and_then(|text| serde_json::from_str(&text).ok()),
        created_at_ms: instance.created_at_ms,
        stages_ms: instance.stages_ms,
        has_receipt: instance.has_receipt,
    }
}

pub(super) fn unknown(id: &str) -> Fault {
    Fault::NotFound { what: "instance", id: life::clipped(id, 80) }
}
