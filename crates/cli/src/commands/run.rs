//! `casemate run`: the main job.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use casemate_api::rest::{EvidenceBundle, NewInstance, Placement};
use casemate_lifecycle::Step;
use casemate_seal::{KeyRelease, ReleaseContext};
use serde::Serialize;

use crate::{
    args::{self, Globals},
    client::{self, Client},
    commands::{
        ending,
        follow::Follower,
        offers,
        records::{self, Reader, Until},
    },
    context::ContextFile,
    exit::{Hinted, Refused, Status},
    instance_keys::InstanceKeys,
    printer::{self, Printer},
    resolve::{self, Resolved},
    trust::{self, SavedEvidence, Trust},
    workload_file::WorkloadFile,
};

/// Longest wait for the wipe after the end.
const WIPE_LIMIT: Duration = Duration::from_secs(120);
/// How long evidence is asked for anew while platform or node are away, and the time between.
const CHALLENGE_PATIENCE: Duration = Duration::from_secs(60);
const CHALLENGE_PAUSE: Duration = Duration::from_millis(250);

/// How often an upload is begun anew while servers go away, and the time between.
const UPLOAD_TRIES: u32 = 20;
const UPLOAD_PAUSE: Duration = Duration::from_millis(500);

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Summary {
    instance: String,
    workload_digest: String,
    exit_code: i32,
    results: Option<PathBuf>,
    receipt_node: String,
}

pub(crate) async fn run(globals: &Globals, args: args::Run) -> anyhow::Result<Status> {
    run_named(globals, args).await.map(|(_, status)| status)
}

/// As [`run`], with the instance's id.
pub(super) async fn run_named(globals: &Globals, args: args::Run) -> anyhow::Result<(String, Status)> {
    let printer = Printer::new(globals);
    let (file, placement) = (WorkloadFile::from_args(&args)?, offers::placement(&args.placement)?);
    if let Some(folder) = &args.output {
        records::check_folder(folder)?;
    }
    let context = ContextFile::load(globals)?;
    let (client, trust) = (Client::new(&context)?, Trust::load(&context)?);
    let resolved = resolve::resolve(&file, &printer).await?;
    let digest = hex::encode(resolved.workload.digest());
    printer.done(
        "workload",
        &format!("{} layers, {} assets, digest {digest}", resolved.workload.image.layers.len(), resolved.workload.assets.len()),
    );
    let tenant = Tenant { client: &client, trust: &trust, printer: &printer, resolved: &resolved };
    tenant.upload().await?;
    let instance = tenant.create(args.node.clone(), args.project.clone(), placement).await?;
    printer.done("instance", &instance);
    let status = tenant.live_and_end(globals, &instance, args.output).await?;
    Ok((instance, status))
}

/// The tenant's side of one run.
struct Tenant<'a> {
    client: &'a Client,
    trust: &'a Trust,
    printer: &'a Printer,
    resolved: &'a Resolved,
}

impl Tenant<'_> {
    async fn upload(&self) -> anyhow::Result<()> {
        for upload in &self.resolved.uploads {
            if self.client.has_blob(&upload.digest).await? {
                continue;
            }
            let mut tries = 0;
            loop {
                let bar = Arc::new(self.printer.bytes_bar("upload", upload.size_bytes));
                let progress = Arc::clone(&bar);
                let uploaded = self.client.upload(&upload.digest, &upload.file, move |count| progress.inc(count)).await;
                bar.finish_and_clear();
                match uploaded {
                    Err(error) if tries < UPLOAD_TRIES && client::is_unavailable(&error) => {
                        tokio::time::sleep(UPLOAD_PAUSE).await
                    }
                    done => break done?,
                }
                tries += 1;
            }
        }
        Ok(())
    }

    async fn create(
        &self,
        node: Option<String>,
        project: Option<String>,
        placement: Option<Placement>,
    ) -> anyhow::Result<String> {
        let canonical = String::from_utf8(self.resolved.workload.to_canonical()).context("JSON is UTF-8")?;
        let key = uuid::Uuid::new_v4().to_string();
        let new = NewInstance { workload: canonical, node, project, placement };
        let instance = self.client.create(&new, &key).await?;
        let digest = hex::encode(self.resolved.workload.digest());
        let keys = InstanceKeys {
            instance: instance.id.clone(),
            workload_digest: digest,
            tenant_seed: hex::encode(*self.resolved.tenant_seed),
            guest_hpke: None,
            launch_record_digest: None,
        };
        keys.save()?;
        Ok(instance.id)
    }

    /// Everything after creation. Whatever happens, the instance is stopped and its receipt looked at.
    async fn live_and_end(&self, globals: &Globals, instance: &str, output: Option<PathBuf>) -> anyhow::Result<Status> {
        let mut follower = Follower::new(self.client, self.printer, instance);
        let lived = tokio::select! {
            lived = self.live(&mut follower, instance, output.clone()) => lived,
            _ = tokio::signal::ctrl_c() => Err(Refused { check: "stopped".into(), detail: "you interrupted it".into() }.into()),
        };
        if lived.is_err() {
            self.printer.note("stopping", "asking for stop and wipe");
        }
        let ended = self.end(&mut follower, instance, lived.is_err()).await;
        match (lived, ended) {
            (Ok(exit_code), Ok(node)) => {
                let workload_digest = hex::encode(self.resolved.workload.digest());
                if globals.json {
                    printer::json(&Summary {
                        instance: instance.to_owned(),
                        workload_digest,
                        exit_code,
                        results: output,
                        receipt_node: node,
                    })?;
                }
                Ok(if exit_code == 0 { Status::Ok } else { Status::WorkloadFailed })
            }
            (Err(first), Err(second)) => {
                self.printer.failed("stopping", &format!("{second:#}"));
                Err(self.reason(instance, first).await)
            }
            (Err(error), Ok(_)) => Err(self.reason(instance, error).await),
            (Ok(_), Err(error)) => Err(error),
        }
    }

    async fn live(&self, follower: &mut Follower<'_>, instance: &str, output: Option<PathBuf>) -> anyhow::Result<i32> {
        follower.until_step(Step::Booted).await?;
        let answered = self.ask_beside(follower, instance).await?;
        let guest = self.verify(instance, answered)?;
        self.release(instance, &guest).await?;
        let digest = self.resolved.workload.digest();
        let mut reader = Reader::new(self.client, instance, &self.resolved.tenant, &guest.hpke, &digest)?;
        let exit = tokio::select! {
            exit = reader.run(Until::Exit) => exit?,
            failure = follower.until_failure() => return Err(failure?.into()),
        };
        let Some(code) = exit else {
            // The records ended without the guest's last word: the events tell why.
            return Err(follower.until_failure().await?.into());
        };
        self.printer.done("exit", &format!("the workload ended with status {code}"));
        if let Some(folder) = output {
            let count = reader.unpack(&folder)?;
            self.printer.done("results", &format!("{count} entries decrypted into {}", folder.display()));
        }
        Ok(code)
    }

    /// Evidence for the tenant's own nonce, asked for while the platform appraises its own: the guest answers both in one go. What
    /// the platform finds counts first, and before its verdict nothing else happens.
    async fn ask_beside(&self, follower: &mut Follower<'_>, instance: &str) -> anyhow::Result<Answer> {
        let ask = self.ask(instance);
        let attested = follower.until_step(Step::Attested);
        tokio::pin!(ask, attested);
        let mut answered = None;
        loop {
            tokio::select! {
                biased;
                reached = &mut attested => {
                    reached?;
                    break;
                }
                answer = &mut ask, if answered.is_none() => answered = Some(answer),
            }
        }
        match answered {
            // A node that went away meanwhile is asked once more, like one that was away before.
            Some(Ok(answer)) => Ok(answer),
            Some(Err(_)) => self.ask(instance).await,
            None => ask.await,
        }
    }

    /// The tenant's own verification, with the tenant's own nonce.
    fn verify(&self, instance: &str, Answer { nonce, bundle, revocations }: Answer) -> anyhow::Result<Guest> {
        anyhow::ensure!(bundle.instance == instance, "asked for evidence of {instance}, got {}", bundle.instance);
        self.printer.done("evidence", &format!("received, {} bytes of base64", bundle.evidence.len()));
        let workload_digest = hex::encode(self.resolved.workload.digest());
        let workload = Some(String::from_utf8(self.resolved.workload.to_canonical()).context("JSON is UTF-8")?);
        let now = trust::now();
        let saved =
            SavedEvidence { nonce: hex::encode(nonce), workload_digest, received_at: now.0, bundle, workload, revocations };
        let result = self.trust.appraise(&saved, now)?;
        trust::print_checks(self.printer, "you", &result);
        trust::require_accepted(&result)?;
        trust::print_limits(self.printer, "you", &result);
        let verified = result.guest().context("an accepted result has a guest")?;
        let guest = Guest { hpke: verified.hpke, nonce };
        let mut keys = InstanceKeys::load(instance)?;
        keys.guest_hpke = Some(hex::encode(guest.hpke));
        keys.launch_record_digest = Some(hex::encode(verified.launch_record_digest));
        keys.save()?;
        Ok(guest)
    }

    /// Evidence over a fresh nonce, and the revocation list of now; patient while platform or node start again.
    async fn ask(&self, instance: &str) -> anyhow::Result<Answer> {
        let begun = Instant::now();
        loop {
            let nonce = resolve::random32()?;
            match tokio::try_join!(self.client.challenge(instance, &nonce), self.client.revocations()) {
                Err(error) if client::is_unavailable(&error) && begun.elapsed() < CHALLENGE_PATIENCE => {
                    tokio::time::sleep(CHALLENGE_PAUSE).await;
                }
                answer => {
                    let (bundle, revocations) = answer?;
                    return Ok(Answer { nonce, bundle, revocations });
                }
            }
        }
    }

    /// The reason that platform and node have written down says more than how this command noticed it; what the tenant
    /// found out itself stands.
    async fn reason(&self, instance: &str, noticed: anyhow::Error) -> anyhow::Error {
        if noticed.chain().any(|cause| cause.is::<Refused>()) {
            return noticed;
        }
        if client::is_unavailable(&noticed) {
            let hint = format!(
                "{instance} may run on; `casemate logs --follow {instance}` and `casemate stop {instance}` go on with it"
            );
            return noticed.context(Hinted { message: "the platform was away for too long".to_owned(), hint });
        }
        match self.client.instance(instance).await.map(|instance| instance.failure) {
            Ok(Some(failure)) => Refused { check: failure.check, detail: printer::clean(&failure.detail) }.into(),
            _ => noticed,
        }
    }

    async fn release(&self, instance: &str, guest: &Guest) -> anyhow::Result<()> {
        let keys = self.resolved.keys.iter().map(|(name, dek)| (name.clone(), *dek.as_bytes())).collect();
        let context = ReleaseContext {
            instance: instance.to_owned(),
            workload_digest: self.resolved.workload.digest(),
            nonce: guest.nonce,
        };
        let mut rng = crate::resolve::os_rng();
        let sealed = casemate_seal::seal_release(&self.resolved.tenant, &guest.hpke, &context, &KeyRelease { keys }, &mut rng)?;
        self.client.release(instance, &sealed).await?;
        self.printer.done("keys", &format!("{} sealed to the verified guest and handed over", self.resolved.keys.len()));
        Ok(())
    }

    async fn end(&self, follower: &mut Follower<'_>, instance: &str, stop: bool) -> anyhow::Result<String> {
        if stop {
            ending::stop_and_wait(self.client, follower, instance, WIPE_LIMIT).await?;
        } else {
            tokio::time::timeout(WIPE_LIMIT, follower.until_end()).await.context("wait for the receipt")??;
        }
        let ended = self.client.instance(instance).await?;
        if ended.node.is_none() && !ended.has_receipt {
            // No node ever had it: there is nothing to be wiped, and nobody to sign for it.
            return Ok(String::new());
        }
        Ok(ending::check_receipt(self.client, self.trust, self.printer, instance).await?.node)
    }
}

/// What the tenant verifies.
struct Answer {
    nonce: [u8; 32],
    bundle: EvidenceBundle,
    /// The signed revocation list, as the platform hands it out.
    revocations: Option<String>,
}

/// What the tenant verified.
struct Guest {
    hpke: [u8; 32],
    nonce: [u8; 32],
}
