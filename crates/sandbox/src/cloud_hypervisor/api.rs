//! Cloud Hypervisor's API: the part of its published description that a cold start needs.
//!
//! Success is 204, or 200 with JSON; a refusal has a JSON list of causes, the outermost first, or nothing. `vm.create` accepts
//! nearly everything: what is wrong shows at `vm.boot`, and what was taken is read back before it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use std::{io, os::fd::AsFd};

use crate::{
    network::Card,
    unix_http::{Answer, Api, ApiError, holds, printable},
};

/// The client.
#[derive(Debug)]
pub(crate) struct Client(pub(crate) Api);

/// `GET /api/v1/vmm.ping`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ping {
    /// Its version.
    pub(crate) version: String,
    /// Its version with the commit.
    #[serde(default)]
    build_version: String,
    /// In its own PID namespace.
    #[serde(default)]
    pid: i64,
    /// What it was built with.
    #[serde(default)]
    pub(crate) features: Vec<String>,
}

/// `GET /api/v1/vm.info`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Info {
    /// What it took, with all defaults.
    pub(crate) config: Value,
    /// Where it is.
    pub(crate) state: State,
    #[serde(default)]
    memory_actual_size: u64,
    #[serde(default)]
    device_tree: Option<Value>,
}

/// The states of a machine; another word is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum State {
    /// It does not run; also after `vm.shutdown`.
    Created,
    /// Its CPUs run.
    Running,
    /// As older versions say it after `vm.shutdown`.
    Shutdown,
    /// Its CPUs stand still.
    Paused,
    /// A debugger holds it.
    BreakPoint,
}

/// `PUT /api/v1/vm.create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpus: Cpus,
    pub(crate) memory: Memory,
    pub(crate) payload: Payload,
    pub(crate) disks: Vec<Disk>,
    pub(crate) rng: Rng,
    pub(crate) serial: Console,
    pub(crate) console: Console,
    pub(crate) vsock: Vsock,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tpm: Option<Tpm>,
    pub(crate) landlock_enable: bool,
    pub(crate) landlock_rules: Vec<LandlockRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Cpus {
    pub(crate) boot_vcpus: u32,
    pub(crate) max_vcpus: u32,
    /// No virtualisation within the guest.
    pub(crate) nested: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// 0: the zone says it.
    pub(crate) size: u64,
    pub(crate) zones: Vec<Zone>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Zone {
    pub(crate) id: &'static str,
    pub(crate) size: u64,
    pub(crate) file: String,
    pub(crate) shared: bool,
    pub(crate) mergeable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Payload {
    pub(crate) kernel: String,
    pub(crate) initramfs: String,
    pub(crate) cmdline: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    pub(crate) path: String,
    pub(crate) readonly: bool,
    pub(crate) serial: String,
    /// Said, not guessed from bytes that the guest may write.
    pub(crate) image_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Rng {
    pub(crate) src: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Console {
    pub(crate) mode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Vsock {
    pub(crate) cid: u32,
    pub(crate) socket: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Tpm {
    pub(crate) socket: String,
}

/// `PUT /api/v1/vm.add-net`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Net {
    pub(crate) id: &'static str,
    pub(crate) mac: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LandlockRule {
    pub(crate) path: String,
    pub(crate) access: &'static str,
}

impl Machine {
    /// What must be taken exactly, since the launch record speaks of it or the jail relies on it; versions differ in how they
    /// tell the rest.
    fn essential(&self) -> Value {
        let disk = |disk: &Disk| json!({ "path": disk.path, "readonly": disk.readonly, "serial": disk.serial });
        let mut essential = json!({
            "cpus": { "boot_vcpus": self.cpus.boot_vcpus, "max_vcpus": self.cpus.max_vcpus },
            "memory": { "zones": self.memory.zones },
            "payload": self.payload,
            "disks": self.disks.iter().map(disk).collect::<Vec<_>>(),
            "vsock": self.vsock,
            "landlock_enable": self.landlock_enable,
        });
        if let Some(tpm) = &self.tpm {
            essential["tpm"] = json!(tpm);
        }
        essential
    }
}

impl Client {
    /// Whether it answers, and who it is.
    pub(crate) fn ping(&self) -> Result<Ping, ApiError> {
        self.get("/api/v1/vmm.ping")
    }

    /// The machine's state.
    pub(crate) fn info(&self) -> Result<Info, ApiError> {
        self.get("/api/v1/vm.info")
    }

    /// Configures a fresh process and reads back what it took. Nothing runs yet.
    pub(crate) fn create(&self, machine: &Machine) -> Result<(), ApiError> {
        self.put("/api/v1/vm.create", Some(&json!(machine)))?;
        self.took(&machine.essential())
    }

    /// Gives the machine, which does not run yet, a network card, and reads back that it is the only one.
    pub(crate) fn add_net(&self, net: &Net, card: &Card) -> Result<(), ApiError> {
        let path = "/api/v1/vm.add-net";
        let request = format!("PUT {path}");
        let failed = |error| ApiError::Exchange { request: request.clone(), source: io::Error::other(error) };
        let tap = card.open().map_err(failed)?;
        let answer = self.0.send_with("PUT", path, Some(&json!(net)), &[tap.as_fd()])?;
        match answer.status {
            200 | 204 => self.took(&json!({ "net": [net] })),
            _ => Err(refused(request, &answer)),
        }
    }

    fn took(&self, essential: &Value) -> Result<(), ApiError> {
        let Info { config, state, .. } = self.info()?;
        let unexpected = |detail| ApiError::Unexpected { request: "GET /api/v1/vm.info".to_owned(), detail };
        if state != State::Created {
            return Err(unexpected(format!("the fresh machine is {state:?}")));
        }
        holds(&config, essential).map_err(unexpected)
    }

    /// Lets the machine run.
    pub(crate) fn boot(&self) -> Result<(), ApiError> {
        self.put("/api/v1/vm.boot", None)
    }

    fn put(&self, path: &str, body: Option<&Value>) -> Result<(), ApiError> {
        let answer = self.0.send("PUT", path, body)?;
        match answer.status {
            204 => Ok(()),
            _ => Err(refused(format!("PUT {path}"), &answer)),
        }
    }

    fn get<T: for<'a> Deserialize<'a>>(&self, path: &str) -> Result<T, ApiError> {
        let answer = self.0.send("GET", path, None)?;
        let request = format!("GET {path}");
        match answer.status {
            200 => serde_json::from_slice(&answer.body)
                .map_err(|error| ApiError::Unexpected { request, detail: printable(&error.to_string()) }),
            _ => Err(refused(request, &answer)),
        }
    }
}

fn refused(request: String, answer: &Answer) -> ApiError {
    ApiError::Refused { request, status: answer.status, message: message(&answer.body) }
}

/// The causes, outermost first; the first line of each, since a backtrace may follow.
fn message(body: &[u8]) -> String {
    if body.is_empty() {
        return "no reason given".to_owned();
    }
    match serde_json::from_slice::<Vec<String>>(body) {
        Ok(causes) => {
            let lines: Vec<&str> = causes.iter().filter_map(|cause| cause.lines().next()).collect();
            printable(&lines.join(": "))
        }
        Err(_) => printable(&String::from_utf8_lossy(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_without_their_backtraces() {
        let body = br#"["The VM could not boot","Cannot open kernel file\n   0: main\n","No such file"]"#;
        assert_eq!(message(body), "The VM could not boot: Cannot open kernel file: No such file");
        assert_eq!(message(b""), "no reason given");
        assert_eq!(message(b"{ \"error\": \"a\nb\" }"), "{ \"error\": \"a b\" }");
    }

    #[test]
    fn unknown_states_and_fields_are_refused() {
        let state = |text: &str| serde_json::from_str::<Info>(text).map(|info| info.state).ok();
        assert_eq!(state(r#"{"config":{},"state":"Created"}"#), Some(State::Created));
        assert_eq!(state(r#"{"config":{},"state":"Migrating"}"#), None);
        assert_eq!(state(r#"{"config":{},"state":"Running","tenant":1}"#), None);
    }
}
