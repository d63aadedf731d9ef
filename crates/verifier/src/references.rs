//! Reference values: what good software looks like, signed by whoever the relying party believes in that.
//!
//! The file: `{"payload": "<JSON text>", "signature": "<base64>", "key": "<base64>"}`; the signature is Ed25519 over
//! `"casemate/reference-values/v1" || 0x00 || payload`. The key in it is a hint for people; the *pinned* key decides.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;

/// Largest file, in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// The variable part of a command line template: the frequency of the time stamp counter, 1 to 10 decimal digits.
pub const TSC_KHZ: &str = "{tsc_khz}";

/// Why reference values were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// Too many bytes.
    #[error("the reference values have {len} bytes, more than the limit of {MAX_BYTES}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// Not the expected JSON.
    #[error("the {part} of the reference values is not the expected JSON")]
    Json {
        /// `envelope` or `payload`.
        part: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A field that is not base64 of the right length.
    #[error("field \"{field}\" of the reference values is not base64 of {len} bytes")]
    Base64 {
        /// Which.
        field: &'static str,
        /// Bytes that it should have.
        len: usize,
    },
    /// Signed by somebody else.
    #[error("the reference values are signed by key {seen}, the pinned key is {pinned}")]
    OtherKey {
        /// Hex.
        pinned: String,
        /// Hex.
        seen: String,
    },
    /// Not what was signed.
    #[error("the signature on the reference values is not that of the pinned key")]
    Signature,
    /// The pinned key is none.
    #[error("the pinned key for reference values is not an Ed25519 public key")]
    PinnedKey,
    /// A version that this code does not know.
    #[error("the reference values have version {version}, only 1 is known")]
    Version {
        /// Found.
        version: u16,
    },
    /// A template that could match more than it should.
    #[error("command line template \"{template}\" of guest OS \"{guest_os}\": {problem}")]
    Template {
        /// Of which guest OS.
        guest_os: String,
        /// The template.
        template: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Reference values whose signature was verified.
#[derive(Debug, Clone)]
pub struct ReferenceValues {
    guest_os: Vec<GuestOs>,
    agent: Vec<[u8; 32]>,
    vmm: Vec<[u8; 32]>,
}

impl ReferenceValues {
    /// Verifies and parses a file.
    pub fn from_signed(json: &[u8], pinned_key: &[u8; 32]) -> Result<Self, ReferenceError> {
        if json.len() > MAX_BYTES {
            return Err(ReferenceError::TooLong { len: json.len() });
        }
        let envelope: Envelope =
            serde_json::from_slice(json).map_err(|source| ReferenceError::Json { part: "envelope", source })?;
        let seen: [u8; 32] = base64(&envelope.key, "key")?;
        if &seen != pinned_key {
            return Err(ReferenceError::OtherKey { pinned: hex::encode(pinned_key), seen: hex::encode(seen) });
        }
        let key = VerifyingKey::from_bytes(pinned_key).map_err(|_| ReferenceError::PinnedKey)?;
        let signature = Signature::from_bytes(&base64(&envelope.signature, "signature")?);
        let signed = [SIGNATURE_DOMAIN, envelope.payload.as_bytes()].concat();
        key.verify_strict(&signed, &signature).map_err(|_| ReferenceError::Signature)?;
        Self::from_payload(&envelope.payload)
    }

    fn from_payload(json: &str) -> Result<Self, ReferenceError> {
        let payload: Payload = serde_json::from_str(json).map_err(|source| ReferenceError::Json { part: "payload", source })?;
        if payload.version != 1 {
            return Err(ReferenceError::Version { version: payload.version });
        }
        let digests = |list: Vec<Hex32>| list.into_iter().map(|digest| digest.0).collect();
        Ok(Self {
            guest_os: payload.guest_os.into_iter().map(GuestOs::new).collect::<Result<_, _>>()?,
            agent: digests(payload.node_software.agent),
            vmm: digests(payload.node_software.vmm),
        })
    }

    pub(crate) fn guest_os(&self) -> &[GuestOs] {
        &self.guest_os
    }

    pub(crate) fn knows_agent(&self, digest: &[u8; 32]) -> bool {
        self.agent.contains(digest)
    }

    pub(crate) fn knows_vmm(&self, digest: &[u8; 32]) -> bool {
        self.vmm.contains(digest)
    }
}

/// One guest OS image.
#[derive(Debug, Clone)]
pub(crate) struct GuestOs {
    pub(crate) name: String,
    pub(crate) kernel: [u8; 32],
    pub(crate) initrd: [u8; 32],
    pub(crate) root_hash: [u8; 32],
    pub(crate) command_lines: Vec<CommandLine>,
}

impl GuestOs {
    fn new(wire: WireGuestOs) -> Result<Self, ReferenceError> {
        let template = |template: String| {
            CommandLine::parse(&template).map_err(|problem| ReferenceError::Template {
                guest_os: wire.name.clone(),
                template,
                problem,
            })
        };
        Ok(Self {
            command_lines: wire.command_lines.into_iter().map(template).collect::<Result<_, _>>()?,
            kernel: wire.kernel.0,
            initrd: wire.initrd.0,
            root_hash: wire.root_hash.0,
            name: wire.name,
        })
    }
}

/// A command line with at most one variable part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandLine {
    Fixed(String),
    WithTscKhz { before: String, after: String },
}

impl CommandLine {
    fn parse(template: &str) -> Result<Self, &'static str> {
        let parsed = match template.split_once(TSC_KHZ) {
            None => Self::Fixed(template.to_owned()),
            Some((before, after)) => Self::WithTscKhz { before: before.to_owned(), after: after.to_owned() },
        };
        let fixed = match &parsed {
            Self::Fixed(text) => text.clone(),
            Self::WithTscKhz { before, after } => format!("{before}{after}"),
        };
        if fixed.contains(['{', '}']) {
            return Err("only one {tsc_khz} is allowed, and no other braces");
        }
        if fixed.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            return Err("it has characters other than printable ASCII");
        }
        Ok(parsed)
    }

    pub(crate) fn matches(&self, line: &str) -> bool {
        match self {
            Self::Fixed(text) => text == line,
            Self::WithTscKhz { before, after } => {
                let middle = line.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
                middle.is_some_and(|digits| (1..=10).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    payload: String,
    signature: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    version: u16,
    guest_os: Vec<WireGuestOs>,
    node_software: WireNodeSoftware,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireGuestOs {
    name: String,
    kernel: Hex32,
    initrd: Hex32,
    root_hash: Hex32,
    command_lines: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireNodeSoftware {
    agent: Vec<Hex32>,
    vmm: Vec<Hex32>,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Hex32([u8; 32]);

impl TryFrom<String> for Hex32 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(&text, &mut bytes).map_err(|_| format!("\"{text}\" is not 64 hexadecimal digits"))?;
        Ok(Self(bytes))
    }
}

fn base64<const N: usize>(text: &str, field: &'static str) -> Result<[u8; N], ReferenceError> {
    let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(ReferenceError::Base64 { field, len: N })
}

const SIGNATURE_DOMAIN: &[u8] = b"casemate/reference-values/v1\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_frequency_of_a_template_may_vary() {
        let template = CommandLine::parse("quiet tsc_early_khz={tsc_khz} panic=-1").unwrap();
        for line in ["quiet tsc_early_khz=1 panic=-1", "quiet tsc_early_khz=1234567890 panic=-1"] {
            assert!(template.matches(line), "{line}");
        }
        for line in [
            "quiet tsc_early_khz= panic=-1",
            "quiet tsc_early_khz=12345678901 panic=-1",
            "quiet tsc_early_khz=1 init=/x panic=-1",
            "quiet tsc_early_khz=+1 panic=-1",
            "quiet tsc_early_khz=1 panic=-1 ",
            " quiet tsc_early_khz=1 panic=-1",
            "quiet tsc_early_khz={tsc_khz} panic=-1",
            "quiet tsc_early_khz=\u{661} panic=-1",
            "quiet tsc_early_khz=1panic=-1",
            "",
        ] {
            assert!(!template.matches(line), "{line}");
        }
        let fixed = CommandLine::parse("quiet").unwrap();
        assert!(fixed.matches("quiet") && !fixed.matches("quiet ") && !fixed.matches("quie"));
    }

    #[test]
    fn refuses_templates_that_could_match_more() {
        for template in ["{tsc_khz} {tsc_khz}", "a={other}", "a={tsc_khz", "a\nb", "\u{e9}"] {
            assert!(CommandLine::parse(template).is_err(), "{template}");
        }
    }
}
