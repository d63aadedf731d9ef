//! Signed reference values: what a verifier compares evidence with.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use crate::{files, paths, progress::note};

const DOMAIN: &[u8] = b"casemate/reference-values/v1\0";

/// The file's text: payload, signature, public key.
pub(crate) fn sign(payload: &Value, key: &SigningKey) -> String {
    // Members of a `Value` are ordered, and it is written without white space: canonical.
    let payload = payload.to_string();
    let signature = key.sign(&[DOMAIN, payload.as_bytes()].concat());
    let file = json!({
        "payload": payload,
        "signature": STANDARD.encode(signature.to_bytes()),
        "key": STANDARD.encode(key.verifying_key().to_bytes()),
    });
    format!("{file:#}\n")
}

/// The key that signs: the file `CASEMATE_REFERENCE_KEY` (64 hex digits), else a development key of this machine.
pub(crate) fn signing_key() -> Result<SigningKey> {
    if let Some(path) = env::var_os("CASEMATE_REFERENCE_KEY").map(PathBuf::from) {
        return read_key(&path);
    }
    let path = paths::cache()?.join("reference.key");
    if !path.exists() {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("drawing a key: {error}"))?;
        files::write_secret(&path, format!("{}\n", hex::encode(seed)).as_bytes())?;
        note("reference values", &format!("made a development key for signing: {}", path.display()));
    }
    read_key(&path)
}

/// The public half of `key`.
pub(crate) fn public_key_hex(key: &SigningKey) -> String {
    hex::encode(key.verifying_key().to_bytes())
}

fn read_key(path: &std::path::Path) -> Result<SigningKey> {
    let text = files::read_text(path)?;
    let seed: Option<[u8; 32]> = hex::decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    let seed = seed.with_context(|| format!("{} does not hold a key of 64 hexadecimal digits", path.display()))?;
    Ok(SigningKey::from_bytes(&seed))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signature, Verifier as _};

    use super::*;

    #[test]
    fn the_signature_covers_the_payload() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let file: Value = serde_json::from_str(&sign(&json!({"version": 1, "guest_os": []}), &key)).unwrap();
        let payload = file["payload"].as_str().unwrap();
        assert_eq!(payload, r#"{"guest_os":[],"version":1}"#);
        let signature = Signature::from_slice(&STANDARD.decode(file["signature"].as_str().unwrap()).unwrap()).unwrap();
        let verify = |text: &str| key.verifying_key().verify(&[DOMAIN, text.as_bytes()].concat(), &signature);
        assert!(verify(payload).is_ok());
        assert!(verify(r#"{"guest_os":[],"version":2}"#).is_err());
    }
}
