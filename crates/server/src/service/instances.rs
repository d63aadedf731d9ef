//! Instances, as tenants and operators see them.

use casemate_api::{
    canonical, rest,
    workload::{Workload, digest_of},
};
use casemate_lifecycle::{
    Actual, Admission, Event, InstanceId, Intent, Request, Step, admit,
    schedule::{Demand, Fit, Level, MACHINE_OVERHEAD_MIB, fit},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::SemaphorePermit,
    time::{Duration, Instant},
};

use super::{Caller, Service, market, projects::unknown_project, random};
use crate::{
    clock::now_ms,
    fault::{Fault, chain},
    life, schedule,
    store::{self, Created, Instance, NewEvent, NewInstance, Placing, Whose, intent_as_str},
};

/// An instance that was asked for but not started after this time is not started any more.
const START_WITHIN_MS: u64 = 10 * 60 * 1000;
/// Most nodes that are tried for one instance, each of which somebody else filled meanwhile.
const MAX_TRIES: usize = 64;
const NO_CONFIDENTIAL: &str = "no node offers hardware memory encryption yet; `microvm` is the strongest level";
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
        let demand = wanted(&workload, &request)?;
        let project = self.project_for(caller, request.project.as_deref()).await?;
        let new = NewInstance {
            request_digest: Sha256::digest(canonical::to_vec(&request)).into(),
            instance: new_instance(project, &workload, request.workload, now_ms)?,
            idempotency_key: key,
            quota: self.limits().quota,
        };
        let created = self.place(&new, &demand, now_ms).await?;
        match created {
            Created::Existing(instance) => Ok(Placed::Existing(view(instance))),
            Created::KeyTaken => Err(Fault::KeyTaken),
            Created::OverQuota { what, limit } => Err(Fault::OverQuota { what, limit }),
            Created::New(instance) => {
                tracing::info!(instance.id = %instance.id, node.id = instance.node.as_ref().map(|n| n.as_str()), "instance created");
                Ok(Placed::New(view(instance)))
            }
        }
    }

    /// Places by what is known here, node by node until one that will do takes it. Where none will do, the instance ends before it
    /// began, and says why.
    async fn place(&self, new: &NewInstance, demand: &Demand, now_ms: u64) -> Result<Created, Fault> {
        let (store, market, asked) = (self.store(), &self.0.market, Instant::now());
        if demand.level == Level::Confidential {
            let refuse = |_: Option<&store::Offer>, instance: &mut Instance, out: &mut Vec<NewEvent>| {
                not_scheduled(NO_CONFIDENTIAL.to_owned(), instance, out)
            };
            return decided(store.create_instance(new, now_ms, None, refuse).await?);
        }
        market.read_when_old(store).await?;
        for _ in 0..MAX_TRIES {
            let chosen = market.choose(demand);
            // Nobody is refused by what may be old.
            let chosen = match chosen {
                Err(_) => {
                    market.read_after(store, asked).await?;
                    market.choose(demand)
                }
                chosen => chosen,
            };
            let placing = match &chosen {
                Ok(choice) => {
                    let take = |known: Option<&store::Offer>, instance: &mut Instance, out: &mut Vec<NewEvent>| {
                        let offer = known.map(|known| (known, schedule::offer(known, now_ms)));
                        let fit = offer.as_ref().and_then(|(known, offer)| Some((known, fit(demand, offer).ok()?)));
                        fit.map(|(known, fit)| scheduled(known, &fit, instance, out)).is_some()
                    };
                    store.create_instance(new, now_ms, Some(&choice.node), take).await
                }
                Err(why) => {
                    let why = why.to_string();
                    store.create_instance(new, now_ms, None, |_, instance, out| not_scheduled(why, instance, out)).await
                }
            };
            match (placing, chosen) {
                (Ok(Placing::Moved(known)), Ok(choice)) => market.learn(&choice.node, known.as_deref()),
                (Ok(Placing::Done(created @ Created::New(_))), _) => return Ok(created),
                (placing, chosen) => {
                    if let Ok(choice) = &chosen {
                        market.give_back(demand, choice);
                    }
                    return decided(placing?);
                }
            }
        }
        Err(Fault::Busy("placements"))
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
        tracing::info!(instance.id = %instance.id, "instance forgotten");
        Ok(())
    }

    /// The instance, if the caller may see it; else it does not exist for this caller.
    pub(super) async fn find(&self, caller: &Caller, id: &str) -> Result<Instance, Fault> {
        let parsed: InstanceId = id.parse().map_err(|_| unknown(id))?;
        let instance = self.store().instance(&parsed).await?.ok_or_else(|| unknown(id))?;
        let Whose { member, project } = caller.sees();
        if project.is_some_and(|project| project != instance.owner) {
            return Err(unknown(id));
        }
        match member {
            Some(member) if self.store().membership(&instance.owner, member).await?.is_none() => Err(unknown(id)),
            _ => Ok(instance),
        }
    }

    /// The project of a new instance: one that the caller is a member of.
    async fn project_for(&self, caller: &Caller, wanted: Option<&str>) -> Result<String, Fault> {
        let only = caller.scope().project.as_deref();
        let id = wanted.or(only).unwrap_or(&caller.account);
        let within = only.is_none_or(|only| only == id);
        let member = within && self.store().membership(id, &caller.account).await?.is_some();
        if member { Ok(id.to_owned()) } else { Err(unknown_project(id)) }
    }

    /// The end of a long poll, and the right to wait for it.
    pub(super) fn begin_poll(&self, wait: Duration) -> Result<(Instant, SemaphorePermit<'_>), Fault> {
        let permit = self.0.long_polls.try_acquire().map_err(|_| Fault::Busy("long polls"))?;
        Ok((Instant::now() + wait.min(self.limits().long_poll), permit))
    }
}

fn new_instance(project: String, workload: &Workload, text: String, now_ms: u64) -> Result<Instance, Fault> {
    let id = format!("i-{now_ms:012x}{}", hex::encode(random::<4>()?));
    Ok(Instance {
        id: id.parse().expect("hex digits after a letter are an id"),
        owner: project,
        name: workload.name.clone(),
        workload_digest: digest_of(text.as_bytes()),
        workload: text,
        cpus: workload.resources.cpus,
        memory_mib: workload.resources.memory_mib,
        disk_mib: 0,
        offer: None,
        node: None,
        level: None,
        intent: Intent::Run,
        actual: Actual::new(),
        generation: 1,
        start_before_ms: now_ms + START_WITHIN_MS,
        created_at_ms: now_ms,
        attested_at_ms: None,
        ends_at_ms: None,
        verdict: None,
        stages_ms: Default::default(),
        observed: None,
        network: None,
        sealed_release: None,
        last_event: 0,
        notes: 0,
        next_record: 0,
        record_bytes: 0,
        has_receipt: false,
    })
}

/// What is asked of a node.
fn wanted(workload: &Workload, request: &rest::NewInstance) -> Result<Demand, Fault> {
    let demand = market::wishes(schedule::demand(workload), request.placement.as_ref())?;
    let node = request.node.as_ref().map(|node| node.parse().map_err(|_| unknown_node(node))).transpose()?;
    Ok(Demand { node, ..demand })
}

fn unknown_node(id: &str) -> Fault {
    Fault::NotFound { what: "node", id: life::clipped(id, 80) }
}

/// The instance goes to this node, by its offer as it is now.
fn scheduled(known: &store::Offer, fit: &Fit, instance: &mut Instance, out: &mut Vec<NewEvent>) {
    out.push(NewEvent { kind: "step", text: Step::Requested.to_string(), data: None });
    life::happen(instance, Event::Reached(Step::Scheduled), out);
    let level = schedule::isolation(fit.level);
    if let Some(event) = out.last_mut() {
        event.data = Some(json!({ "node": known.id.as_str(), "level": level.as_str() }));
    }
    instance.node = Some(known.id.clone());
    instance.level = Some(level);
    // What a container writes is in memory, and nobody else can have it.
    instance.memory_mib = fit.memory_mib.saturating_sub(MACHINE_OVERHEAD_MIB);
    instance.disk_mib = fit.disk_mib;
    instance.offer = Some(market::snapshot(known, fit));
}

/// What needs no node is decided at once.
fn decided(placing: Placing) -> Result<Created, Fault> {
    match placing {
        Placing::Done(created) => Ok(created),
        Placing::Moved(_) => Err(Fault::Busy("placements")),
    }
}

fn not_scheduled(why: String, instance: &mut Instance, out: &mut Vec<NewEvent>) -> bool {
    out.push(NewEvent { kind: "step", text: Step::Requested.to_string(), data: None });
    life::fail(instance, Step::Scheduled, "schedule.no-node", why, out);
    life::happen(instance, Event::Reached(Step::Gone), out);
    true
}

/// The instance as clients see it.
pub(super) fn view(instance: Instance) -> rest::Instance {
    let failure = instance.actual.failure;
    rest::Instance {
        id: instance.id.to_string(),
        name: instance.name,
        project: instance.owner,
        intent: intent_as_str(instance.intent).to_owned(),
        step: instance.actual.step.to_string(),
        node: instance.node.map(|node| node.to_string()),
        level: instance.level.map(|level| level.as_str().to_owned()),
        offer: instance.offer.and_then(|text| serde_json::from_str(&text).ok()),
        exit_code: instance.actual.exit_code,
        failure: failure.map(|f| rest::Failure { step: f.step.to_string(), check: f.check, detail: f.detail }),
        workload_digest: hex::encode(instance.workload_digest),
        workload: instance.workload,
        platform_verdict: instance.verdict.and_then(|text| serde_json::from_str(&text).ok()),
        created_at_ms: instance.created_at_ms,
        ends_at_ms: instance.ends_at_ms,
        stages_ms: instance.stages_ms,
        network: instance.network,
        has_receipt: instance.has_receipt,
    }
}

pub(super) fn unknown(id: &str) -> Fault {
    Fault::NotFound { what: "instance", id: life::clipped(id, 80) }
}
