//! `casemate evidence show`: what a file with evidence says. Nothing of it is judged.

mod logs;
mod shapes;

use std::{fmt::Write as _, fs, io::Read as _, path::Path};

use anyhow::Context as _;
use serde_json::Value;

use crate::{
    args::{Evidence, EvidenceCommand, Format, Globals},
    exit::{Hinted, Status},
    printer,
};

pub(crate) fn run(globals: &Globals, args: &Evidence) -> anyhow::Result<Status> {
    let EvidenceCommand::Show { file, output } = &args.command;
    let bytes = read(file)?;
    let (kind, value) = describe(&bytes).ok_or_else(|| Hinted {
        message: format!("{} is no evidence of a known kind", file.display()),
        hint: "known are SEV-SNP reports, TDX quotes, firmware event logs, IMA lists, TPM structures, NVIDIA reports and saved evidence, raw or as hexadecimal digits or base64".to_owned(),
    })?;
    if globals.json || *output == Format::Json {
        printer::json(&serde_json::json!({ "kind": kind, "content": value }))?;
    } else {
        let mut text = format!("{kind}, not verified\n");
        tree(&mut text, &value, 1);
        print!("{text}");
    }
    Ok(Status::Ok)
}

/// Reads a file of at most [`MAX_FILE`] bytes.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let attempt = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    fs::File::open(path).with_context(attempt)?.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(attempt)?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_FILE, "{} is longer than {MAX_FILE} bytes", path.display());
    Ok(bytes)
}

/// What the bytes are: as they are, else as text for bytes.
fn describe(bytes: &[u8]) -> Option<(&'static str, Value)> {
    let raw = || shapes::KNOWN.iter().find_map(|(kind, decode)| decode(bytes).map(|value| (*kind, value)));
    raw().or_else(|| {
        let bytes = shapes::from_text(bytes)?;
        shapes::KNOWN.iter().find_map(|(kind, decode)| decode(&bytes).map(|value| (*kind, value)))
    })
}

/// Indented lines. Whatever came from outside goes through [`printer::clean`].
fn tree(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    let fields: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (printer::clean(name), value)).collect(),
        Value::Array(values) => values.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => vec![(String::new(), value)],
    };
    for (name, value) in fields {
        // Writing to a string cannot fail.
        let _ = match value {
            Value::Object(_) | Value::Array(_) => {
                let done = writeln!(text, "{indent}{name}");
                tree(text, value, depth + 1);
                done
            }
            Value::String(content) => writeln!(text, "{indent}{name:<22} {}", printer::clean(content)),
            Value::Null | Value::Bool(_) | Value::Number(_) => writeln!(text, "{indent}{name:<22} {value}"),
        };
    }
}

const MAX_FILE: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        let mut text = String::new();
        tree(&mut text, &serde_json::json!({ "a\u{1b}[2J": ["b\u{1b}]0;x\u{7}", { "c": 1 }] }), 0);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        assert!(text.contains("[2J") && text.contains(']'));
    }

    #[test]
    fn bytes_of_no_known_kind_are_told_from_evidence() {
        for bytes in [&b""[..], b"hello", b"{}", &[0; 1184], &[0xff; 600], b"deadbeef"] {
            assert!(describe(bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn files_of_real_machines_are_known_by_their_content() {
        let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
        let folder = std::env::var_os("CASEMATE_VECTORS").map_or_else(default, std::path::PathBuf::from);
        if !folder.is_dir() {
            eprintln!("SKIPPED: no vectors; set CASEMATE_VECTORS to their folder");
            return;
        }
        let expected = [
            ("snp/milan-v2.report.bin", "AMD SEV-SNP report"),
            ("snp/genoa-v3.report.bin", "AMD SEV-SNP report"),
            ("tdx/v4-uptodate.quote.bin", "Intel TDX or SGX quote"),
            ("tdx/v5.quote.bin", "Intel TDX or SGX quote"),
            ("tdx/ovmf.ccel.bin", "event log of a trust domain (CCEL)"),
            ("tpm/uefi-log.bin", "firmware event log"),
            ("tpm/uefi-log-secureboot.bin", "firmware event log"),
            ("tpm/ima-ng.ascii.txt", "IMA list (ASCII)"),
            ("tpm/quote-rsa.tpms-attest.bin", "TPM attestation (TPMS_ATTEST)"),
            ("tpm/quote-rsa.tpmt-signature.bin", "TPM signature (TPMT_SIGNATURE)"),
            ("nvidia/hopper.report.txt", "NVIDIA device report"),
        ];
        for (file, kind) in expected {
            let (seen, value) = describe(&read(&folder.join(file)).unwrap()).unwrap_or_else(|| panic!("{file}"));
            assert_eq!((seen, value.is_object()), (kind, true), "{file}");
        }
        assert!(describe(&read(&folder.join("tpm/uefi-log-bogus.bin")).unwrap()).is_none());
    }
}
