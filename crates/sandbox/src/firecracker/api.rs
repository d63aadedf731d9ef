//! Firecracker's API: the part of its published description that a cold start needs.
//!
//! Success is 204 without a body, or 200 for a GET; every refusal is 400 with a `fault_message`. A method that the server does
//! not know is answered with text that only looks like JSON, so that a body is read as JSON only where it must be.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::unix_http::{Answer, Api, ApiError, holds, printable};

/// The client.
#[derive(Debug)]
pub(crate) struct Client(pub(crate) Api);

/// `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InstanceInfo {
    /// Always `Firecracker`.
    pub(crate) app_name: String,
    /// As on its command line.
    pub(crate) id: String,
    /// Where it is.
    pub(crate) state: State,
    /// Its version.
    pub(crate) vmm_version: String,
}

/// The states of a machine; another word is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum State {
    /// It can be configured.
    #[serde(rename = "Not started")]
    NotStarted,
    /// Its CPUs run.
    Running,
    /// Its CPUs stand still.
    Paused,
}

/// All that a machine is made of, by the names of `GET /vm/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    #[serde(rename = "machine-config")]
    pub(crate) shape: Shape,
    #[serde(rename = "boot-source")]
    pub(crate) boot: Boot,
    pub(crate) drives: Vec<Drive>,
    #[serde(rename = "network-interfaces")]
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) vsock: Vsock,
}

/// `PUT /machine-config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Shape {
    pub(crate) vcpu_count: u32,
    pub(crate) mem_size_mib: u64,
    pub(crate) smt: bool,
    pub(crate) track_dirty_pages: bool,
}

/// `PUT /boot-source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Boot {
    pub(crate) kernel_image_path: String,
    pub(crate) initrd_path: String,
    pub(crate) boot_args: String,
}

/// `PUT /drives/{drive_id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Drive {
    pub(crate) drive_id: String,
    pub(crate) path_on_host: String,
    /// A root device would change the command line that was measured.
    pub(crate) is_root_device: bool,
    pub(crate) is_read_only: bool,
}

/// `PUT /network-interfaces/{iface_id}`. A card that is missing would be made by the monitor, if it were allowed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Interface {
    pub(crate) iface_id: &'static str,
    pub(crate) host_dev_name: &'static str,
    pub(crate) guest_mac: String,
}

/// `PUT /vsock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Vsock {
    pub(crate) guest_cid: u32,
    pub(crate) uds_path: String,
}

impl Client {
    /// What the process says of itself.
    pub(crate) fn info(&self) -> Result<InstanceInfo, ApiError> {
        self.get("/")
    }

    /// Configures a fresh process, in the order of the description, and reads back what it took. Nothing runs yet.
    pub(crate) fn configure(&self, machine: &Machine) -> Result<(), ApiError> {
        self.put("/machine-config", &json!(machine.shape))?;
        self.put("/boot-source", &json!(machine.boot))?;
        for drive in &machine.drives {
            self.put(&format!("/drives/{}", drive.drive_id), &json!(drive))?;
        }
        for interface in &machine.interfaces {
            self.put(&format!("/network-interfaces/{}", interface.iface_id), &json!(interface))?;
        }
        self.put("/vsock", &json!(machine.vsock))?;
        let taken: Value = self.get("/vm/config")?;
        holds(&taken, &json!(machine)).map_err(|detail| ApiError::Unexpected { request: "GET /vm/config".to_owned(), detail })
    }

    /// Lets the machine run.
    pub(crate) fn start(&self) -> Result<(), ApiError> {
        self.put("/actions", &json!({ "action_type": "InstanceStart" }))
    }

    fn put(&self, path: &str, body: &Value) -> Result<(), ApiError> {
        let answer = self.0.send("PUT", path, Some(body))?;
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

/// The fault's text; the body itself where that is something else.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Fault {
        fault_message: String,
    }
    match serde_json::from_slice(body) {
        Ok(Fault { fault_message }) => printable(&fault_message),
        Err(_) => printable(&String::from_utf8_lossy(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_whatever_they_look_like() {
        assert_eq!(message(br#"{"fault_message":"Invalid request\nGET nope."}"#), "Invalid request GET nope.");
        assert_eq!(message(b"{ \"error\": \"Invalid HTTP\nMethod\" }"), "{ \"error\": \"Invalid HTTP Method\" }");
        assert_eq!(message(&[0xff]), "\u{fffd}");
    }

    #[test]
    fn unknown_states_and_fields_are_refused() {
        let info = |state: &str, more: &str| {
            let text = format!(r#"{{"app_name":"Firecracker","id":"i","state":"{state}","vmm_version":"1.16.1"{more}}}"#);
            serde_json::from_str::<InstanceInfo>(&text).map(|info| info.state).ok()
        };
        assert_eq!(info("Not started", ""), Some(State::NotStarted));
        assert_eq!(info("Paused", ""), Some(State::Paused));
        assert_eq!(info("Restoring", ""), None);
        assert_eq!(info("Running", r#","debugger":true"#), None);
    }
}
