//! The workload: what runs, on which image, with which assets, for whom. Its canonical digest is what evidence binds.
//!
//! This is the *resolved* form: the tenant's CLI made it from a workload file or flags, with the image's layers as verity
//! root hashes that anyone can recompute from the OCI image. Guest, agent, platform and tenant all read these same bytes.

use std::{collections::BTreeMap, num::NonZeroU64, str::FromStr};

use casemate_lifecycle::network::{MAX_RULES, Policy, PolicyError};
use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};

/// Largest canonical workload, in bytes.
pub const MAX_BYTES: usize = 256 << 10;
/// Most image layers.
pub const MAX_LAYERS: usize = 127;
/// Most assets.
pub const MAX_ASSETS: usize = 16;

/// A resolved workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Format version; 1.
    pub version: u16,
    /// A name for people.
    pub name: String,
    /// The minimum isolation.
    pub isolation: Isolation,
    /// The root file system.
    pub image: Image,
    /// The process.
    pub process: Process,
    /// What it needs.
    pub resources: Resources,
    /// Encrypted inputs, in order.
    pub assets: Vec<Asset>,
    /// What it may reach and what may reach it; missing where it has no network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Absolute path in the guest whose content is sent to the tenant, encrypted, after exit 0..=255; empty for none.
    pub output_path: String,
    /// Longest run after "keyed", in seconds; the guest itself ends the workload then.
    pub ttl_s: u64,
    /// X25519 public key of the tenant (hex, 64 digits): records are sealed to it, and key releases must come from it.
    pub tenant_key: String,
}

/// Isolation levels of the ladder, weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Namespaces of the host's kernel.
    Container,
    /// User-space kernel.
    Sandbox,
    /// Own kernel in a jailed VMM.
    Microvm,
    /// Hardware memory encryption.
    Confidential,
}

impl Isolation {
    /// As in workload files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Sandbox => "sandbox",
            Self::Microvm => "microvm",
            Self::Confidential => "confidential",
        }
    }
}

impl std::str::FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = [Self::Container, Self::Sandbox, Self::Microvm, Self::Confidential];
        known
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| UnknownIsolation(text.escape_debug().take(40).collect()))
    }
}

/// Not a level of the ladder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown isolation level \"{0}\"; known: container, sandbox, microvm, confidential")]
pub struct UnknownIsolation(String);

/// The root file system, by content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Where the node pulls it (`docker.io/library/x`), or empty: the blobs were uploaded to the platform.
    pub source: String,
    /// Digest of the OCI image manifest, `sha256:` and 64 hex digits.
    pub manifest: String,
    /// Layers, lowest first.
    pub layers: Vec<Layer>,
}

/// One layer: the OCI blob and the verity root of its conversion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Digest of the (compressed) layer blob, `sha256:` and 64 hex digits.
    pub blob: String,
    /// dm-verity root hash (SHA-256, hex) of the layer's EROFS image; see casemate-image for the conversion.
    pub root_hash: String,
    /// Number of 4096-byte data blocks before the hash tree.
    pub data_blocks: u64,
}

/// The process, with the image's configuration already applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// argv; the first is looked up in the environment's PATH when it has no slash.
    pub args: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Absolute working directory.
    pub cwd: String,
    /// As the image says: `""`, `uid`, `uid:gid`, `name` or `name:group` (resolved in the guest from the image's files).
    pub user: String,
}

/// What the machine needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Virtual CPUs, 1 to 64.
    pub cpus: u32,
    /// Guest memory, at least 192.
    pub memory_mib: u64,
    /// Encrypted scratch volume, at least 16.
    pub scratch_mib: u64,
}

/// The network, as rules in the one way in which each is written; see [`casemate_lifecycle::network`]. Empty, it has an address and
/// reaches nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Where it may open connections to: `203.0.113.0/24:tcp/443`, `*.example.org:tcp/443`.
    pub egress: Vec<String>,
    /// Ports of the node that lead to its own: `8080:tcp/80`.
    pub publish: Vec<String>,
    /// Bytes per second that it may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_limit: Option<NonZeroU64>,
    /// Bytes per second that it may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_limit: Option<NonZeroU64>,
    /// Connections per second that it may open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_connections_limit: Option<NonZeroU64>,
}

impl Network {
    /// The rules; an error names the field that is wrong.
    pub fn policy(&self) -> Result<Policy, WorkloadError> {
        let policy = Policy {
            egress: read_rules("network.egress", &self.egress)?,
            published: read_rules("network.publish", &self.publish)?,
            send_limit: self.send_limit,
            receive_limit: self.receive_limit,
            new_connections_limit: self.new_connections_limit,
        };
        match policy.check() {
            Ok(()) => Ok(policy),
            Err(error) => Err(WorkloadError::Field { field: "network".into(), problem: error.to_string() }),
        }
    }
}

/// Each in its one way of being written: what is signed says what is done.
fn read_rules<R>(field: &str, texts: &[String]) -> Result<Vec<R>, WorkloadError>
where
    R: FromStr<Err = PolicyError> + ToString,
{
    let read = |(index, text): (usize, &String)| {
        let wrong = |problem| WorkloadError::Field { field: format!("{field}[{index}]"), problem };
        let rule: R = text.parse().map_err(|error: PolicyError| wrong(error.to_string()))?;
        if rule.to_string() == *text { Ok(rule) } else { Err(wrong(format!("must be written as {:?}", rule.to_string()))) }
    };
    if texts.len() > MAX_RULES {
        return Err(WorkloadError::Field { field: field.into(), problem: format!("at most {MAX_RULES}") });
    }
    texts.iter().enumerate().map(read).collect()
}

/// An encrypted input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asset {
    /// `[a-z0-9][a-z0-9._-]{0,62}`; the key release names it.
    pub name: String,
    /// SHA-256 of the ciphertext file, `sha256:` and 64 hex digits.
    pub digest: String,
    /// Size of the ciphertext file.
    pub size_bytes: u64,
    /// Absolute path of the plaintext file in the workload's view.
    pub path: String,
}

/// Why a workload is not acceptable.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// Not canonical JSON of a workload.
    #[error("decode workload")]
    Canonical(#[from] CanonicalError),
    /// A field breaks its rule.
    #[error("workload field {field}: {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Workload {
    /// The canonical bytes.
    pub fn to_canonical(&self) -> Vec<u8> {
        canonical::to_vec(self)
    }

    /// The workload in canonical bytes, all fields checked.
    pub fn from_canonical(bytes: &[u8]) -> Result<Self, WorkloadError> {
        let workload: Self = canonical::from_slice(bytes, MAX_BYTES)?;
        workload.check()?;
        Ok(workload)
    }

    /// The digest that evidence binds.
    pub fn digest(&self) -> [u8; 32] {
        digest_of(&self.to_canonical())
    }

    /// Root hashes of the layers, lowest first. Of a workload whose fields were checked.
    pub fn layer_roots(&self) -> Vec<[u8; 32]> {
        self.image.layers.iter().filter_map(|layer| parse_hex32(&layer.root_hash)).collect()
    }

    /// Checks every field's rule.
    pub fn check(&self) -> Result<(), WorkloadError> {
        checks::workload(self)
    }
}

/// The digest of canonical workload bytes.
pub fn digest_of(canonical_bytes: &[u8]) -> [u8; 32] {
    canonical::digest("casemate/workload/v1", canonical_bytes)
}

/// The 32 bytes of a `sha256:<hex>` text.
pub fn parse_digest(text: &str) -> Option<[u8; 32]> {
    let hex_digits = text.strip_prefix("sha256:")?;
    parse_hex32(hex_digits)
}

/// The 32 bytes of 64 lower-case hex digits.
pub fn parse_hex32(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).ok()?;
    Some(out)
}

/// `sha256:<hex>`.
pub fn format_digest(digest: &[u8; 32]) -> String {
    format!("sha256:{}", hex::encode(digest))
}

mod checks {
    use super::{Asset, Layer, MAX_ASSETS, MAX_LAYERS, Process, Workload, WorkloadError, parse_digest, parse_hex32};

    type Checked = Result<(), WorkloadError>;

    pub(super) fn workload(w: &Workload) -> Checked {
        ensure(w.version == 1, "version", || format!("only 1 is known, got {}", w.version))?;
        ensure((1..=100).contains(&w.name.len()), "name", || "must have 1 to 100 bytes".into())?;
        ensure(w.name.chars().all(|c| !c.is_control()), "name", || "must not have control characters".into())?;
        ensure(parse_digest(&w.image.manifest).is_some(), "image.manifest", || "must be sha256:<64 hex digits>".into())?;
        ensure((1..=MAX_LAYERS).contains(&w.image.layers.len()), "image.layers", || {
            format!("must be 1 to {MAX_LAYERS}, got {}", w.image.layers.len())
        })?;
        w.image.layers.iter().enumerate().try_for_each(|(i, layer)| self::layer(i, layer))?;
        process(&w.process)?;
        ensure((1..=64).contains(&w.resources.cpus), "resources.cpus", || "must be 1 to 64".into())?;
        ensure((192..=4 << 20).contains(&w.resources.memory_mib), "resources.memory_mib", || "must be 192 or more".into())?;
        ensure((16..=64 << 20).contains(&w.resources.scratch_mib), "resources.scratch_mib", || "must be 16 or more".into())?;
        ensure(w.assets.len() <= MAX_ASSETS, "assets", || format!("at most {MAX_ASSETS}"))?;
        for (i, asset) in w.assets.iter().enumerate() {
            self::asset(i, asset)?;
            ensure(!w.assets[..i].iter().any(|a| a.name == asset.name || a.path == asset.path), "assets", || {
                format!("{} appears twice", asset.name)
            })?;
        }
        w.network.as_ref().map_or(Ok(()), |network| network.policy().map(drop))?;
        ensure(w.output_path.is_empty() || is_clean_path(&w.output_path), "output_path", || CLEAN.into())?;
        ensure((1..=30 * 24 * 3600).contains(&w.ttl_s), "ttl_s", || "must be 1 second to 30 days".into())?;
        ensure(parse_hex32(&w.tenant_key).is_some(), "tenant_key", || "must be 64 hex digits".into())
    }

    fn layer(i: usize, layer: &Layer) -> Checked {
        let name = |field: &str| format!("image.layers[{i}].{field}");
        ensure(parse_digest(&layer.blob).is_some(), name("blob"), || "must be sha256:<64 hex digits>".into())?;
        ensure(parse_hex32(&layer.root_hash).is_some(), name("root_hash"), || "must be 64 hex digits".into())?;
        ensure((1..=1 << 32).contains(&layer.data_blocks), name("data_blocks"), || "must be 1 to 2^32".into())
    }

    fn process(process: &Process) -> Checked {
        ensure(!process.args.is_empty() && !process.args[0].is_empty(), "process.args", || "must name a program".into())?;
        let texts = process.args.iter().chain(process.env.keys()).chain(process.env.values());
        ensure(texts.clone().all(|t| !t.contains('\0')), "process", || "must not contain NUL".into())?;
        ensure(process.env.keys().all(|k| !k.is_empty() && !k.contains('=')), "process.env", || {
            "names must not be empty or contain '='".into()
        })?;
        ensure(is_clean_path(&process.cwd), "process.cwd", || CLEAN.into())?;
        ensure(process.user.len() <= 128 && !process.user.contains('\0'), "process.user", || "at most 128 bytes".into())
    }

    fn asset(i: usize, asset: &Asset) -> Checked {
        let name = |field: &str| format!("assets[{i}].{field}");
        ensure(is_asset_name(&asset.name), name("name"), || "must match [a-z0-9][a-z0-9._-]{0,62}".into())?;
        ensure(parse_digest(&asset.digest).is_some(), name("digest"), || "must be sha256:<64 hex digits>".into())?;
        ensure((1..=1 << 40).contains(&asset.size_bytes), name("size_bytes"), || "must be 1 byte to 1 TiB".into())?;
        ensure(asset.path.len() > 1 && is_clean_path(&asset.path), name("path"), || CLEAN.into())
    }

    fn ensure(ok: bool, field: impl Into<String>, problem: impl FnOnce() -> String) -> Checked {
        if ok { Ok(()) } else { Err(WorkloadError::Field { field: field.into(), problem: problem() }) }
    }

    pub(super) fn is_asset_name(name: &str) -> bool {
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        (1..=63).contains(&name.len()) && ok(name.as_bytes()[0]) && name.bytes().all(|b| ok(b) || matches!(b, b'.' | b'_' | b'-'))
    }

    fn is_clean_path(path: &str) -> bool {
        path == "/"
            || (path.starts_with('/')
                && path.len() <= 4000
                && !path.contains('\0')
                && path[1..].split('/').all(|part| !part.is_empty() && part != "." && part != ".."))
    }

    const CLEAN: &str = "must be an absolute path without empty, '.' or '..' parts";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Workload {
        Workload {
            version: 1,
            name: "demo".into(),
            isolation: Isolation::Microvm,
            image: Image {
                source: String::new(),
                manifest: format_digest(&[1; 32]),
                layers: vec![Layer { blob: format_digest(&[2; 32]), root_hash: hex::encode([3; 32]), data_blocks: 9 }],
            },
            process: Process {
                args: vec!["python3".into(), "/train.py".into()],
                env: BTreeMap::from([("PATH".into(), "/usr/bin".into())]),
                cwd: "/".into(),
                user: "65534".into(),
            },
            resources: Resources { cpus: 1, memory_mib: 512, scratch_mib: 64 },
            assets: vec![Asset {
                name: "data".into(),
                digest: format_digest(&[4; 32]),
                size_bytes: 10,
                path: "/data/data".into(),
            }],
            network: None,
            output_path: "/out".into(),
            ttl_s: 600,
            tenant_key: hex::encode([5; 32]),
        }
    }

    #[test]
    fn canonical_bytes_round_trip_and_no_other_spelling_is_accepted() {
        let bytes = sample().to_canonical();
        assert_eq!(Workload::from_canonical(&bytes).unwrap(), sample());
        let spaced = String::from_utf8(bytes.clone()).unwrap().replacen(':', ": ", 1);
        assert!(matches!(
            Workload::from_canonical(spaced.as_bytes()),
            Err(WorkloadError::Canonical(CanonicalError::NotCanonical))
        ));
        let pretty = serde_json::to_vec(&sample()).unwrap();
        assert_ne!(pretty, bytes, "declaration order is not the canonical order, or this test proves nothing");
        assert!(Workload::from_canonical(&pretty).is_err());
    }

    #[test]
    fn a_workload_without_a_network_has_the_bytes_that_it_always_had() {
        let text = String::from_utf8(sample().to_canonical()).unwrap();
        assert!(!text.contains("network"), "{text}");
        let with_null = text.replacen("\"output_path\"", "\"network\":null,\"output_path\"", 1);
        assert!(Workload::from_canonical(with_null.as_bytes()).is_err());
    }

    #[test]
    fn the_network_is_a_part_of_the_digest_and_has_one_way_of_being_written() {
        let with = |egress: &[&str], publish: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Workload {
                network: Some(Network { egress: texts(egress), publish: texts(publish), ..Network::default() }),
                ..sample()
            }
        };
        let good = with(&["203.0.113.0/24:tcp/443", "*.example.org:tcp/443"], &["8080:tcp/80"]);
        assert_eq!(Workload::from_canonical(&good.to_canonical()).unwrap(), good);
        let digests = [sample().digest(), good.digest(), with(&[], &[]).digest(), with(&["0.0.0.0/0"], &[]).digest()];
        assert!(digests.iter().enumerate().all(|(index, digest)| !digests[..index].contains(digest)));
        let cases: [(&[&str], &[&str], &str); 7] = [
            (&["203.0.113.1"], &[], "network.egress[0]: must be written as \"203.0.113.1/32\""),
            (&["::/0", "Example.org"], &[], "network.egress[1]: must be written as \"example.org\""),
            (&["10.0.0.0/8"], &[], "network: 10.0.0.0/8 lies in 10.0.0.0/8, which no instance may reach: private networks"),
            (&["a b"], &[], "network.egress[0]: "),
            (&[], &["80"], "network.publish[0]: "),
            (&[], &["80:tcp/1", "80:tcp/2"], "network: port 80 of the node is published twice"),
            (&["1.1.1.1/32"; 257], &[], "network.egress: at most 256"),
        ];
        for (egress, publish, expected) in cases {
            let error = with(egress, publish).check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("workload field {expected}")), "{error}");
        }
    }

    #[test]
    fn names_the_field_that_breaks_its_rule() {
        type Break = fn(&mut Workload);
        let cases: [(&str, Break); 12] = [
            ("version", |w| w.version = 2),
            ("image.manifest", |w| w.image.manifest = "sha256:zz".into()),
            ("image.layers", |w| w.image.layers.clear()),
            ("image.layers[0].root_hash", |w| w.image.layers[0].root_hash = "A".repeat(64)),
            ("process.args", |w| w.process.args.clear()),
            ("process", |w| w.process.args.push("\0".into())),
            ("process.cwd", |w| w.process.cwd = "/a/../b".into()),
            ("resources.memory_mib", |w| w.resources.memory_mib = 1),
            ("assets[0].name", |w| w.assets[0].name = "../x".into()),
            ("assets[0].path", |w| w.assets[0].path = "/".into()),
            ("output_path", |w| w.output_path = "out".into()),
            ("tenant_key", |w| w.tenant_key = "00".into()),
        ];
        for (expected, break_it) in cases {
            let mut workload = sample();
            break_it(&mut workload);
            match workload.check() {
                Err(WorkloadError::Field { field, .. }) => assert_eq!(field, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
    }
}
