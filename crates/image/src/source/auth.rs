//! Who we are to a registry: `~/.docker/config.json`, if there is one. Credential helpers are not run.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

/// What `file`, or else the user's Docker configuration, has for this registry; anonymous without any.
pub(super) fn for_registry(registry: &str, file: Option<&Path>) -> RegistryAuth {
    let Some(path) = file.map(Path::to_owned).or_else(config_path) else { return RegistryAuth::Anonymous };
    let Ok(file) = File::open(&path) else { return RegistryAuth::Anonymous };
    let mut text = String::new();
    if file.take(MAX_BYTES).read_to_string(&mut text).is_err() {
        return RegistryAuth::Anonymous;
    }
    find(&text, registry).unwrap_or_else(|problem| {
        tracing::warn!(path = %path.display(), problem, "ignoring the Docker configuration");
        RegistryAuth::Anonymous
    })
}

fn config_path() -> Option<PathBuf> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    Some(folder.or_else(|| Some(std::env::home_dir()?.join(".docker")))?.join("config.json"))
}

fn find(text: &str, registry: &str) -> Result<RegistryAuth, &'static str> {
    let config: Config = serde_json::from_str(text).map_err(|_| "it is not the JSON expected")?;
    let is_wanted = |key: &str| host(key) == registry || (registry == "docker.io" && host(key) == "index.docker.io");
    let Some((_, entry)) = config.auths.iter().find(|(key, _)| is_wanted(key)) else { return Ok(RegistryAuth::Anonymous) };
    let Some(auth) = entry.auth.as_deref().filter(|auth| !auth.is_empty()) else { return Ok(RegistryAuth::Anonymous) };
    let decoded = STANDARD.decode(auth).map_err(|_| "its auth entry is not base64")?;
    let decoded = String::from_utf8(decoded).map_err(|_| "its auth entry is not text")?;
    let (user, password) = decoded.split_once(':').ok_or("its auth entry has no password")?;
    Ok(RegistryAuth::Basic(user.into(), password.trim_end_matches('\0').into()))
}

/// `https://index.docker.io/v1/` means the host.
fn host(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
}

const MAX_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_entry_of_exactly_this_registry() {
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"r.example:5000":{"auth":"dTpwOng="},"empty":{}},"credsStore":"x"}"#;
        let basic = |user: &str, password: &str| RegistryAuth::Basic(user.into(), password.into());
        assert_eq!(find(text, "docker.io").unwrap(), basic("u", "p"));
        assert_eq!(find(text, "r.example:5000").unwrap(), basic("u", "p:x"));
        for other in ["r.example", "evil-r.example:5000", "empty", "index.docker"] {
            assert_eq!(find(text, other).unwrap(), RegistryAuth::Anonymous, "{other}");
        }
        assert!(find("nonsense", "x").is_err());
        assert!(find(r#"{"auths":{"x":{"auth":"%"}}}"#, "x").is_err());
    }
}
