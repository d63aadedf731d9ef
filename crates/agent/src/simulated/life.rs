//! What a played guest knows and answers; no I/O.

use std::time::Duration;

use casemate_api::{
    guest::{self, Evidence, Fatal, Launch, Phase, Status, from_guest, to_guest},
    workload::{Workload, digest_of, parse_hex32},
};
use casemate_attester::{Attester as _, TpmError, quote_bundle, sim::SoftTpm};
use casemate_evidence::instance::{GuestKeys, Record as _, guest_binding, guest_pcr};
use casemate_seal::{HpkeSecret, Record, RecordSealer, open_release, rand_core::UnwrapErr};
use ed25519_dalek::SigningKey;
use getrandom::SysRng;
use tokio::time::Instant;

use crate::clock;

/// A guest from its boot on.
pub(super) struct Life {
    tpm: SoftTpm,
    pub(super) phase: Phase,
    configured: Option<Configured>,
    pub(super) process: Option<Process>,
    exit_code: Option<i32>,
    /// Sealed; never forgotten, a played workload says little.
    pub(super) records: Vec<Vec<u8>>,
    pub(super) acknowledged: u64,
}

struct Configured {
    launch: Launch,
    workload: Workload,
    digest: [u8; 32],
    tenant: [u8; 32],
    hpke: HpkeSecret,
    keys: Vec<u8>,
    sealer: RecordSealer,
    nonces: Vec<[u8; 32]>,
}

/// A workload that is being played.
pub(super) struct Process {
    pub(super) until: Instant,
    code: i32,
}

/// What a message leads to.
pub(super) enum Reaction {
    Nothing,
    Say(from_guest::Message),
    Fatal(Fatal),
    Panic,
}

impl Life {
    pub(super) fn new(tpm: SoftTpm) -> Self {
        Self { tpm, phase: Phase::Booted, configured: None, process: None, exit_code: None, records: vec![], acknowledged: 0 }
    }

    pub(super) fn status(&self) -> from_guest::Message {
        from_guest::Message::Status(Status {
            phase: self.phase.into(),
            exit_code: self.exit_code,
            next_record: self.records.len() as u64,
            reached_ms: Default::default(),
            // A played guest has nothing to look at.
            observed: Vec::new(),
        })
    }

    /// Everything is said and heard.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Exited && self.acknowledged >= self.records.len() as u64
    }

    pub(super) fn hear(&mut self, message: to_guest::Message) -> Reaction {
        match message {
            to_guest::Message::Launch(launch) => self.launch(launch),
            to_guest::Message::Challenge(challenge) => self.challenge(&challenge),
            to_guest::Message::Release(release) => self.release(&release.sealed),
            to_guest::Message::Stop(_) => self.stop(),
        }
    }

    fn launch(&mut self, launch: Launch) -> Reaction {
        if let Some(configured) = &self.configured {
            let same = configured.launch == launch;
            return if same { Reaction::Nothing } else { fatal("guest.protocol", "a second launch that is another one") };
        }
        match self.configure(launch) {
            Ok(configured) => {
                self.configured = Some(configured);
                self.phase = Phase::Configured;
                Reaction::Say(self.status())
            }
            Err((check, detail)) => fatal(check, &detail),
        }
    }

    fn configure(&mut self, launch: Launch) -> Result<Configured, (&'static str, String)> {
        let workload = Workload::from_canonical(&launch.workload).map_err(|error| ("workload.format", error.to_string()))?;
        let tenant = parse_hex32(&workload.tenant_key).ok_or(("workload.format", "tenant_key".to_owned()))?;
        let digest = digest_of(&launch.workload);
        self.tpm.pcr_extend(guest_pcr::WORKLOAD, digest).map_err(|error| ("guest.tpm", error.to_string()))?;
        let hpke = HpkeSecret::from_seed(clock::random());
        let tls = SigningKey::from_bytes(&clock::random()).verifying_key().to_bytes();
        let keys = GuestKeys { version: 1, hpke: hpke.public(), tls }.encode();
        let sealer = RecordSealer::new(&hpke, &tenant, &launch.instance, &digest, &mut UnwrapErr(SysRng));
        let sealer = sealer.map_err(|error| ("guest.entropy", error.to_string()))?;
        Ok(Configured { launch, workload, digest, tenant, hpke, keys, sealer, nonces: vec![] })
    }

    fn challenge(&mut self, challenge: &guest::Challenge) -> Reaction {
        let Ok(nonce) = challenge.nonce.as_slice().try_into() else {
            return fatal("guest.protocol", "a nonce of another length");
        };
        match self.evidence(challenge.id, nonce) {
            Some(Ok(evidence)) => Reaction::Say(from_guest::Message::Evidence(evidence)),
            Some(Err(error)) => fatal("guest.tpm", &error.to_string()),
            None => Reaction::Nothing,
        }
    }

    fn evidence(&mut self, id: u64, nonce: [u8; 32]) -> Option<Result<Evidence, TpmError>> {
        let configured = self.configured.as_mut()?;
        configured.nonces.push(nonce);
        let binding = guest_binding(&nonce, &configured.keys, &configured.digest, &configured.launch.instance);
        let quoted = quote_bundle(&mut self.tpm, &binding, &guest_pcr::QUOTED);
        Some(quoted.map(|bundle| Evidence {
            id,
            guest_keys: configured.keys.clone(),
            attest: bundle.attest,
            signature: bundle.signature,
            ak_public: bundle.ak_public,
            pcrs: bundle.pcrs.into_values().map(|pcr| pcr.0.to_vec()).collect(),
        }))
    }

    fn release(&mut self, sealed: &[u8]) -> Reaction {
        let Some(configured) = self.configured.as_ref().filter(|_| self.phase == Phase::Configured) else {
            return Reaction::Nothing;
        };
        let Configured { launch, workload, digest, tenant, hpke, nonces, .. } = configured;
        let keys = match open_release(hpke, tenant, &launch.instance, digest, nonces, sealed) {
            Ok(keys) => keys,
            Err(error) => return fatal("keys.authentic", &error.to_string()),
        };
        if let Some(missing) = workload.assets.iter().find(|asset| keys.dek(&asset.name).is_none()) {
            return fatal("asset.decrypt", &format!("there is no key for asset {}", missing.name));
        }
        let args: Vec<&str> = workload.process.args.iter().map(String::as_str).collect();
        let (ms, code, text) = match args.as_slice() {
            ["panic"] => return Reaction::Panic,
            ["sleep", ms] => (ms.parse().unwrap_or(0), 0, None),
            ["exit", code] => (0, code.parse().unwrap_or(0), None),
            words => (0, 0, Some(format!("{}\n", words.join(" ")))),
        };
        self.phase = Phase::Running;
        self.process = Some(Process { until: Instant::now() + Duration::from_millis(ms), code });
        if let Some(text) = text {
            self.seal(&Record::Stdout(text.into_bytes()));
        }
        Reaction::Say(self.status())
    }

    /// The played workload ends by itself.
    pub(super) fn end(&mut self) {
        if let Some(process) = self.process.take() {
            self.seal(&Record::Exit { code: process.code });
            self.exit_code = Some(process.code);
            self.phase = Phase::Exited;
        }
    }

    fn stop(&mut self) -> Reaction {
        if let Some(process) = &mut self.process {
            *process = Process { until: Instant::now(), code: 128 + 15 };
        }
        Reaction::Nothing
    }

    fn seal(&mut self, record: &Record) {
        if let Some(configured) = &mut self.configured {
            let sealed = configured.sealer.seal(record).expect("short records, none of them after the exit");
            self.records.push(sealed);
        }
    }
}

fn fatal(check: &str, detail: &str) -> Reaction {
    Reaction::Fatal(Fatal { check: check.to_owned(), detail: detail.to_owned() })
}
