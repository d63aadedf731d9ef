//! `casemate evidence show`: what a file with evidence says. Nothing of it is judged.

mod documents;
mod logs;
mod shapes;
mod x509;

use std::{
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    path::Path,
};

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
    let (kind, value) = describe(&bytes).map_err(|tried| Hinted {
        message: format!("{} is no evidence of a known kind. Tried:{tried}", file.display()),
        hint: "each of these may also be written as hexadecimal digits or base64; a file may be damaged, cut short or in a container of its own".to_owned(),
    })?;
    if globals.json || *output == Format::Json {
        printer::json(&serde_json::json!({ "kind": kind, "content": value }))?;
    } else {
        let text = format!("{kind}, not verified\n{}", as_tree(&value));
        std::io::stdout().lock().write_all(text.as_bytes())?;
    }
    Ok(Status::Ok)
}

pub(crate) use documents::nvidia_devices;
pub(crate) use shapes::from_text;

/// Reads a file of at most [`MAX_FILE`] bytes.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let attempt = || format!("read {}", path.display());
    let mut bytes = Vec::new();
    fs::File::open(path).with_context(attempt)?.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(attempt)?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_FILE, "{} is longer than {MAX_FILE} bytes", path.display());
    Ok(bytes)
}

/// What the bytes are: as they are, else as text for bytes. Where they are nothing known, what was tried.
fn describe(bytes: &[u8]) -> Result<(&'static str, Value), String> {
    let decoded = from_text(bytes);
    let found = shapes::first(bytes).or_else(|| shapes::first(decoded.as_deref()?));
    found.ok_or_else(|| {
        let tried = shapes::refusals(decoded.as_deref().unwrap_or(bytes));
        let line = |(kind, problem): (&str, String)| format!("\n  {kind}: {}", printer::clean(&problem));
        tried.into_iter().map(line).collect()
    })
}

/// A value as an indented tree.
pub(crate) fn as_tree(value: &Value) -> String {
    let mut text = String::new();
    tree(&mut text, value, 1);
    text
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
            let tried = describe(bytes).unwrap_err();
            assert!(tried.contains("SEV-SNP report: ") && tried.contains("IMA list"), "{tried}");
        }
    }

    #[test]
    #[ignore = "evidence of real machines: CASEMATE_VECTORS"]
    fn files_of_real_machines_are_known_by_their_content() {
        let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
        let folder = std::env::var_os("CASEMATE_VECTORS").map_or_else(default, std::path::PathBuf::from);
        let vector =
            |name: &str| read(&folder.join(name)).expect("CASEMATE_VECTORS names the folder of evidence of real machines");
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
            ("tpm/quote-rsa.ak.pem", "PEM"),
            ("snp/genoa-v3.vcek.pem", "PEM"),
            ("snp/certs/milan_vlek_chain.pem", "PEM"),
            ("snp/milan-v2.vcek.der", "X.509 certificate"),
            ("snp/milan-bad-chain.vcek.der", "X.509 certificate"),
            ("snp/milan-vlek-v3.vlek.der", "X.509 certificate"),
            ("snp/milan-vlek-v3.report.bin", "AMD SEV-SNP report"),
            ("tdx/sgx-v3.quote.bin", "Intel TDX or SGX quote"),
            ("tdx/v4-debug-td.quote.bin", "Intel TDX or SGX quote"),
            ("tdx/v4-uptodate.collateral.json", "TDX collateral"),
            ("tdx/sgx-v3.collateral.json", "TDX collateral"),
            ("tdx/grub.ccel.bin", "event log of a trust domain (CCEL)"),
            ("tpm/uefi-log-2.bin", "firmware event log"),
            ("nvidia/hopper-evidence.json", "NVIDIA device evidence (JSON)"),
            ("nvidia/hopper.chain.txt", "PEM"),
            ("nvidia/rim-driver-gh100-550.144.03.xml", "NVIDIA reference manifest"),
            ("nvidia/hopper.report.txt", "NVIDIA device report"),
            ("nvidia/hopper-bad-signature.report.txt", "NVIDIA device report"),
            ("nvidia/spdm-parsed.report.txt", "NVIDIA device report"),
        ];
        for (file, kind) in expected {
            let (seen, value) = describe(&vector(file)).unwrap_or_else(|tried| panic!("{file}: {tried}"));
            assert_eq!((seen, value.is_object()), (kind, true), "{file}");
        }
        for none in
            ["tpm/uefi-log-bogus.bin", "tpm/quote-rsa.pcrs.bin", "tdx/ovmf.ccel.parsed.json", "tpm/uefi-log.expected-pcrs.yaml"]
        {
            assert!(describe(&vector(none)).is_err(), "{none}");
        }
    }
}
