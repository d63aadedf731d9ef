//! Manifests, indexes and configurations: outside text to checked values. No I/O.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{BlobInfo, ImageConfig};
use crate::{Digest, ImageError, Limits, layer};

/// A content descriptor.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Debug)]
pub(super) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

#[derive(Debug)]
pub(super) struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// A manifest whose descriptors are acceptable.
#[derive(Debug)]
pub(super) struct CheckedManifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<BlobInfo>,
}

/// What the entries of an index are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Among {
    /// Different images: there must be one.
    Images,
    /// One image for several platforms: the first that fits.
    Platforms,
}

/// Reads a manifest or an index, and nothing that could be taken for both.
pub(super) fn read(bytes: &[u8]) -> Result<Document, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw {
        schema_version: Option<u32>,
        media_type: Option<String>,
        manifests: Option<Vec<Descriptor>>,
        config: Option<Descriptor>,
        layers: Option<Vec<Descriptor>>,
    }
    let fault = |problem: &str| malformed("image manifest", problem);
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| fault(&error.to_string()))?;
    if raw.schema_version != Some(2) {
        return Err(fault("its schema version is not 2"));
    }
    let said = |types: &[&str]| raw.media_type.as_deref().is_none_or(|said| types.contains(&said));
    match (raw.manifests, raw.config, raw.layers) {
        (Some(index), None, None) if said(&INDEX_TYPES) => Ok(Document::Index(index)),
        (None, Some(config), Some(layers)) if said(&MANIFEST_TYPES) => Ok(Document::Manifest(Manifest { config, layers })),
        (Some(_), None, None) | (None, Some(_), Some(_)) => Err(fault("its media type is not that of its content")),
        _ => Err(fault("it is neither an image manifest nor an index")),
    }
}

/// The entry for linux/amd64, or else the one that names no platform.
pub(super) fn choose(index: Vec<Descriptor>, among: Among) -> Result<Descriptor, ImageError> {
    let is_image = |entry: &Descriptor| {
        let media_type = entry.media_type.as_str();
        INDEX_TYPES.contains(&media_type) || MANIFEST_TYPES.contains(&media_type)
    };
    let (named, unnamed): (Vec<_>, Vec<_>) = index.into_iter().filter(is_image).partition(|entry| entry.platform.is_some());
    let fits = |entry: &Descriptor| entry.platform.as_ref().is_some_and(|p| p.os == OS && p.architecture == ARCHITECTURE);
    let mut fitting: Vec<_> = named.into_iter().filter(fits).collect();
    if fitting.is_empty() {
        fitting = unnamed;
    }
    if among == Among::Images && fitting.iter().any(|entry| entry.digest != fitting[0].digest) {
        let name = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned().unwrap_or_else(|| entry.digest.to_string());
        let names: Vec<_> = fitting.iter().take(10).map(name).collect();
        return Err(malformed("image index", &format!("it holds several images: {}", names.join(", "))));
    }
    fitting.into_iter().next().ok_or_else(|| malformed("image index", "it has no image for linux/amd64"))
}

/// Checks media types, number and sizes.
pub(super) fn check(manifest: Manifest, limits: &Limits) -> Result<CheckedManifest, ImageError> {
    let fault = |problem: &str| Err(malformed("image manifest", problem));
    let Manifest { config, layers } = manifest;
    if !CONFIG_TYPES.contains(&config.media_type.as_str()) {
        return fault(&format!(
            "the configuration has the media type {:?}: not an image that can run",
            shown(&config.media_type)
        ));
    }
    if layers.is_empty() || layers.len() > limits.layers {
        return fault(&format!("it has {} layers, possible are 1 to {}", layers.len(), limits.layers));
    }
    for layer in &layers {
        if !layer::is_layer_type(&layer.media_type) {
            let hint = if layer.media_type.ends_with(OCICRYPT) { OCICRYPT_HINT } else { "" };
            return fault(&format!("layer {} has the media type {:?}{hint}", layer.digest, shown(&layer.media_type)));
        }
        if layer.size > limits.blob_bytes {
            return fault(&format!("layer {} has {} bytes, the limit is {}", layer.digest, layer.size, limits.blob_bytes));
        }
    }
    let blob = |layer: Descriptor| BlobInfo { digest: layer.digest, size: layer.size, media_type: layer.media_type };
    Ok(CheckedManifest { config, layers: layers.into_iter().map(blob).collect() })
}

/// Reads the image's configuration, and what it says of the layers.
pub(super) fn read_config(bytes: &[u8], layers: usize) -> Result<(ImageConfig, Vec<Digest>), ImageError> {
    let fault = |problem: &str| malformed("image configuration", problem);
    let raw: RawConfig = serde_json::from_slice(bytes).map_err(|error| fault(&error.to_string()))?;
    if raw.os != OS || raw.architecture != ARCHITECTURE {
        return Err(fault(&format!("it is for {}/{}, not for linux/amd64", shown(&raw.os), shown(&raw.architecture))));
    }
    if raw.rootfs.kind != "layers" || raw.rootfs.diff_ids.len() != layers {
        return Err(fault("its list of layers is not that of the manifest"));
    }
    let run = raw.config.unwrap_or_default();
    let mut env = BTreeMap::new();
    for variable in run.env.unwrap_or_default() {
        match variable.split_once('=') {
            Some((name, value)) if !name.is_empty() => env.insert(name.to_owned(), value.to_owned()),
            _ => return Err(fault("an environment variable has no name or no value")),
        };
    }
    let config = ImageConfig {
        entrypoint: run.entrypoint.unwrap_or_default(),
        cmd: run.cmd.unwrap_or_default(),
        env,
        working_dir: working_dir(&run.working_dir.unwrap_or_default()).ok_or_else(|| fault("its working directory has '..'"))?,
        user: run.user.unwrap_or_default(),
    };
    Ok((config, raw.rootfs.diff_ids))
}

#[derive(Deserialize)]
struct RawConfig {
    os: String,
    architecture: String,
    config: Option<RawRun>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<Digest>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

fn working_dir(text: &str) -> Option<String> {
    let parts: Vec<_> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") { None } else { Some(format!("/{}", parts.join("/"))) }
}

fn malformed(what: &str, problem: &str) -> ImageError {
    ImageError::Malformed { what: what.into(), problem: problem.into() }
}

fn shown(text: &str) -> String {
    crate::error::shown(text.as_bytes())
}

/// Media types of manifests.
pub(super) const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Media types of indexes.
pub(super) const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
pub(super) const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// How ocicrypt marks its layers.
const OCICRYPT: &str = "+encrypted";
const OCICRYPT_HINT: &str =
    ": encrypted by ocicrypt, which nothing here opens; hint: encrypt the plain image by `casemate image encrypt`";
const OS: &str = "linux";
const ARCHITECTURE: &str = "amd64";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn descriptor(media_type: &str, content: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(content.as_bytes()), "size": 7})
    }

    fn image(layers: usize) -> Value {
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "layer");
        json!({"schemaVersion": 2, "config": descriptor(CONFIG_TYPES[0], "config"), "layers": vec![layer; layers]})
    }

    fn checked(document: &Value) -> Result<CheckedManifest, ImageError> {
        match read(document.to_string().as_bytes())? {
            Document::Manifest(manifest) => check(manifest, &Limits::default()),
            Document::Index(_) => panic!("an index"),
        }
    }

    #[test]
    fn refuses_manifests_that_could_be_taken_for_something_else() {
        assert_eq!(checked(&image(2)).unwrap().layers.len(), 2);
        let with = |key: &str, value: Value| {
            let mut document = image(1);
            document[key] = value;
            document
        };
        let confused = with("manifests", json!([]));
        let wrong_type = with("mediaType", json!(INDEX_TYPES[0]));
        let artifact = with("config", descriptor("application/vnd.unknown", "x"));
        let old = with("schemaVersion", json!(1));
        let encrypted = with("layers", json!([descriptor("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "x")]));
        let typeless = with("layers", json!([descriptor("", "x")]));
        let short = with("layers", json!([{"mediaType": MANIFEST_TYPES[0], "digest": "sha256:00", "size": 1}]));
        let problem = checked(&encrypted).unwrap_err().to_string();
        assert!(problem.contains("ocicrypt") && problem.contains("hint:"), "{problem}");
        for bad in [&confused, &wrong_type, &artifact, &old, &encrypted, &typeless, &short, &image(0), &image(128)] {
            assert_eq!(checked(bad).unwrap_err().check(), "image.malformed", "{bad}");
        }
    }

    #[test]
    fn chooses_the_platform_or_says_what_there_is() {
        let entry = |content: &str, platform: Option<(&str, &str)>| {
            let mut entry = descriptor(MANIFEST_TYPES[0], content);
            if let Some((os, architecture)) = platform {
                entry["platform"] = json!({"os": os, "architecture": architecture});
            }
            entry
        };
        let choose = |entries: Vec<Value>, among| {
            let document = json!({"schemaVersion": 2, "manifests": entries}).to_string();
            match read(document.as_bytes()).unwrap() {
                Document::Index(index) => choose(index, among).map(|entry| entry.digest),
                Document::Manifest(_) => panic!("a manifest"),
            }
        };
        let amd64 = Some(("linux", "amd64"));
        let arm = entry("arm", Some(("linux", "arm64")));
        let attestation = entry("attestation", Some(("unknown", "unknown")));
        let both = vec![arm.clone(), attestation.clone(), entry("a", amd64), entry("b", amd64)];
        assert_eq!(choose(both.clone(), Among::Platforms).unwrap(), Digest::of(b"a"));
        assert!(choose(both, Among::Images).unwrap_err().to_string().contains("several images"));
        assert_eq!(choose(vec![arm.clone(), entry("plain", None)], Among::Images).unwrap(), Digest::of(b"plain"));
        assert!(choose(vec![arm, attestation], Among::Platforms).is_err());
    }

    #[test]
    fn reads_configurations_of_other_tools_with_nulls_and_refuses_lies() {
        let config = |run: Value| json!({"os": "linux", "architecture": "amd64", "config": run, "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"")]}});
        let read = |document: &Value, layers| read_config(document.to_string().as_bytes(), layers).map(|(config, _)| config);
        let run = json!({"Entrypoint": null, "Cmd": ["sh"], "Env": ["A=b=c", "E="], "WorkingDir": "srv//x/", "Labels": {}});
        let read_ok = read(&config(run), 1).unwrap();
        assert_eq!((read_ok.working_dir.as_str(), read_ok.env["A"].as_str(), read_ok.env["E"].as_str()), ("/srv/x", "b=c", ""));
        assert_eq!(read(&config(Value::Null), 1).unwrap().working_dir, "/");
        assert!(read(&config(json!({})), 2).is_err());
        assert!(read(&config(json!({"Env": ["A"]})), 1).is_err());
        assert!(read(&config(json!({"WorkingDir": "../x"})), 1).is_err());
        let mut foreign = config(json!({}));
        foreign["architecture"] = json!("arm64");
        assert!(read(&foreign, 1).unwrap_err().to_string().contains("arm64"));
    }
}
