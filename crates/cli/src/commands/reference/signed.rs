//! Signed reference values, as JSON and as CoRIM.

use std::{fs, path::Path};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_verifier::{
    ReferenceValues,
    corim::{CorimMeta, sign_corim, verify_corim},
};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    args::{Checked, Export, Format, Globals},
    commands::{endorsements::write_whole, evidence::read},
    context,
    exit::{Hinted, Status},
    printer::{self, Printer},
    resolve, trust,
};

/// 64 hexadecimal digits or base64, as `casemate reference key` prints it and as context files have it.
pub(crate) fn parse_public_key(text: &str) -> Result<[u8; 32], String> {
    let bytes = hex::decode(text).ok().or_else(|| BASE64.decode(text).ok());
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| "expected 64 hexadecimal digits, or base64 of 32 bytes".to_owned())
}

pub(super) fn make_key(path: &Path, json: bool) -> anyhow::Result<Status> {
    let path = std::path::absolute(path)?;
    if path.exists() {
        let message = format!("{} exists, and a key is never replaced", path.display());
        return Err(Hinted { message, hint: "name a new file".to_owned() }.into());
    }
    let seed = Zeroizing::new(resolve::random32()?);
    let text = Zeroizing::new(format!("{}\n", hex::encode(*seed)));
    context::write_private(&path, text.as_bytes())?;
    let public = hex::encode(SigningKey::from_bytes(&seed).verifying_key().as_bytes());
    if json {
        printer::json(&json!({ "public_key": public }))?;
    } else {
        println!("{public}");
    }
    Ok(Status::Ok)
}

pub(super) fn sign(globals: &Globals, payload: &Path, key: &Path, out: &Path) -> anyhow::Result<Status> {
    let attempt = || format!("sign {}", payload.display());
    let text = String::from_utf8(read(payload)?).with_context(attempt)?;
    let key = signing_key(key)?;
    let signature = key.sign(&[DOMAIN, text.as_bytes()].concat());
    let public = key.verifying_key().to_bytes();
    let file = json!({ "payload": text, "signature": BASE64.encode(signature.to_bytes()), "key": BASE64.encode(public) });
    let file = format!("{file:#}\n");
    // What nobody could read is not signed.
    ReferenceValues::from_signed(file.as_bytes(), &public).with_context(attempt)?;
    write(globals, out, file.as_bytes())
}

pub(super) fn verify(globals: &Globals, args: &Checked) -> anyhow::Result<Status> {
    let (form, values) = checked(args)?;
    let payload = payload(&values)?;
    let counts: Vec<(String, u64)> = SECTIONS.iter().map(|section| (section.to_string(), count(&payload[*section]))).collect();
    if globals.json || args.output == Format::Json {
        let counts: serde_json::Map<String, Value> = counts.into_iter().map(|(name, count)| (name, count.into())).collect();
        printer::json(&json!({ "form": form, "key": hex::encode(args.key), "values": counts }))?;
    } else {
        println!("{form}, signed by {}", hex::encode(args.key));
        let rows: Vec<Vec<String>> = counts.into_iter().map(|(name, count)| vec![name, count.to_string()]).collect();
        printer::table(&["SECTION", "VALUES"], &rows)?;
    }
    Ok(Status::Ok)
}

pub(super) fn show(globals: &Globals, args: &Checked) -> anyhow::Result<Status> {
    let (form, values) = checked(args)?;
    let payload = payload(&values)?;
    if globals.json || args.output == Format::Json {
        printer::json(&payload)?;
    } else {
        println!("{form}, signed by {}", hex::encode(args.key));
        print!("{}", crate::commands::evidence::as_tree(&payload));
    }
    Ok(Status::Ok)
}

pub(super) fn export(globals: &Globals, args: &Export) -> anyhow::Result<Status> {
    let (_, values) = checked(&args.from)?;
    let not_before = args.not_before.unwrap_or_else(trust::now);
    anyhow::ensure!(not_before <= args.not_after, "--not-after {} is before --not-before {not_before}", args.not_after);
    let meta = CorimMeta { id: args.id.clone(), signer: args.signer.clone(), not_before, not_after: args.not_after };
    let key = signing_key(&args.sign_key)?;
    let corim = sign_corim(&values, &meta, &key);
    // The same values must come back, or the manifest says something else than the file.
    let back = verify_corim(&corim, &key.verifying_key().to_bytes(), not_before).context("read the new CoRIM")?;
    anyhow::ensure!(back == values, "the CoRIM does not hold the same values: {} is not exported", args.from.file.display());
    write(globals, &args.out, &corim)
}

pub(super) fn import(globals: &Globals, from: &Checked, key: &Path, out: &Path) -> anyhow::Result<Status> {
    let (_, values) = checked(from)?;
    let file = format!("{}\n", values.to_signed(&signing_key(key)?));
    write(globals, out, file.as_bytes())
}

/// The values, if the pinned key signed them: JSON starts with a brace, a CoRIM does not.
fn checked(args: &Checked) -> anyhow::Result<(&'static str, ReferenceValues)> {
    let bytes = read(&args.file)?;
    let attempt = || format!("check {}", args.file.display());
    if bytes.trim_ascii_start().first() == Some(&b'{') {
        let values = ReferenceValues::from_signed(&bytes, &args.key).with_context(attempt)?;
        return Ok(("signed JSON", values));
    }
    let now = args.at.unwrap_or_else(trust::now);
    Ok(("signed CoRIM", verify_corim(&bytes, &args.key, now).with_context(attempt)?))
}

/// As in signed JSON.
fn payload(values: &ReferenceValues) -> anyhow::Result<Value> {
    serde_json::from_str(&values.to_payload()).context("reference values are JSON")
}

/// How many values a section has.
fn count(section: &Value) -> u64 {
    match section {
        Value::Array(values) => values.len() as u64,
        Value::Object(parts) => parts.values().map(count).sum(),
        _ => 0,
    }
}

fn signing_key(path: &Path) -> anyhow::Result<SigningKey> {
    let text = Zeroizing::new(fs::read_to_string(path).with_context(|| format!("read the key {}", path.display()))?);
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), &mut *seed).map_err(|_| Hinted {
        message: format!("{} does not hold a key of 64 hexadecimal digits", path.display()),
        hint: "`casemate reference key FILE` makes one".to_owned(),
    })?;
    Ok(SigningKey::from_bytes(&seed))
}

fn write(globals: &Globals, out: &Path, bytes: &[u8]) -> anyhow::Result<Status> {
    write_whole(out, bytes)?;
    Printer::new(globals).done("written", &out.display().to_string());
    Ok(Status::Ok)
}

const DOMAIN: &[u8] = b"casemate/reference-values/v1\0";
const SECTIONS: [&str; 6] = ["guest_os", "node_software", "confidential", "machines", "boot", "ima"];
