//! tpm2-tools, and the PEM files that they want.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_evidence::{
    instance::Pcr,
    tpm::{Public, PublicParams},
};

use crate::swtpm::Swtpm;

/// Runs a tool in `folder`.
fn run(folder: &Path, program: &str, args: &[&str]) -> Output {
    let command = Command::new(program).args(args).current_dir(folder).output();
    command.unwrap_or_else(|error| panic!("start {program}: {error}; these tests need the package tpm2-tools"))
}

/// Runs a tool that must succeed.
fn must(folder: &Path, program: &str, args: &[&str]) {
    let output = run(folder, program, args);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether tpm2_checkquote accepts a quote over these PCRs.
pub(crate) fn checkquote(quote: &Quote<'_>, qualifying: &[u8], pcrs: &BTreeMap<u32, Pcr>) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("ak.pem", pem(quote.ak_public).as_bytes());
    write("attest", quote.attest);
    write("signature", quote.signature);
    write("pcrs", &serialized(pcrs));
    let nonce = hex::encode(qualifying);
    let files = ["-u", "ak.pem", "-m", "attest", "-s", "signature", "-f", "pcrs"];
    let output = run(folder.path(), "tpm2_checkquote", &[&files[..], &["-g", "sha256", "-q", &nonce]].concat());
    eprintln!("tpm2_checkquote: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

/// PCR values in the form in which `tpm2_quote -o` writes them: TPML_PCR_SELECTION, a count and TPML_DIGESTs, as they lie in the
/// memory of a little-endian machine.
fn serialized(pcrs: &BTreeMap<u32, Pcr>) -> Vec<u8> {
    let bits = pcrs.keys().fold(0u32, |bits, pcr| bits | 1 << pcr);
    // count; hash, size of the bit map, bit map of four octets, padding
    let mut out = [&1u32.to_le_bytes()[..], &0x0bu16.to_le_bytes(), &[3], &bits.to_le_bytes(), &[0]].concat();
    out.resize(4 + 16 * 8, 0);
    let values: Vec<&Pcr> = pcrs.values().collect();
    let lists = values.chunks(8);
    out.extend(u32::try_from(lists.len()).unwrap().to_le_bytes());
    for list in lists {
        let start = out.len();
        out.extend(u32::try_from(list.len()).unwrap().to_le_bytes());
        for value in list {
            out.extend(32u16.to_le_bytes());
            out.extend(value.0);
            out.extend([0; 32]);
        }
        out.resize(start + 4 + 8 * 66, 0);
    }
    out
}

/// What checkquote judges.
#[derive(Clone, Copy)]
pub(crate) struct Quote<'a> {
    /// TPMT_PUBLIC.
    pub(crate) ak_public: &'a [u8],
    /// TPMS_ATTEST.
    pub(crate) attest: &'a [u8],
    /// TPMT_SIGNATURE.
    pub(crate) signature: &'a [u8],
}

/// Makes an attestation key and a quote with tpm2-tools alone: `ak.pub` (TPM2B_PUBLIC), `ak.name`, `attest`, `signature`.
pub(crate) fn quote(swtpm: &Swtpm, folder: &Path, qualifying: &[u8], selection: &str) {
    let tcti = format!("swtpm:path={}", swtpm.socket().display());
    let attributes = "restricted|sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth";
    let key = ["-T", &tcti, "-C", "o", "-g", "sha256", "-G", "ecc256:ecdsa-sha256:null", "-a", attributes, "-c", "ak.ctx"];
    must(folder, "tpm2_createprimary", &key);
    must(folder, "tpm2_readpublic", &["-T", &tcti, "-c", "ak.ctx", "-o", "ak.pub", "-n", "ak.name"]);
    let nonce = hex::encode(qualifying);
    must(folder, "tpm2_quote", &["-T", &tcti, "-c", "ak.ctx", "-l", selection, "-q", &nonce, "-m", "attest", "-s", "signature"]);
}

/// Makes a credential as a verifier would: contents of TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET.
pub(crate) fn makecredential(ek_public: &[u8], ak_name: &[u8], secret: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ek.pem"), pem(ek_public)).unwrap();
    fs::write(folder.path().join("secret"), secret).unwrap();
    let name = hex::encode(ak_name);
    let args = ["-T", "none", "-u", "ek.pem", "-G", "rsa", "-s", "secret", "-n", &name, "-o", "credential"];
    must(folder.path(), "tpm2_makecredential", &args);
    // Magic, version, then both with their sizes.
    let file = fs::read(folder.path().join("credential")).unwrap();
    let (blob, rest) = sized(&file[8..]);
    (blob, sized(rest).0)
}

/// The SubjectPublicKeyInfo of a TPM key as PEM.
pub(crate) fn pem(public: &[u8]) -> String {
    let (algorithm, key) = match Public::parse(public).unwrap().params {
        PublicParams::Ecc { x, y, .. } => (
            [der(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]), der(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7])].concat(),
            [&[4][..], &x, &y].concat(),
        ),
        PublicParams::Rsa { n, .. } => (
            [der(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1]), der(5, &[])].concat(),
            der(0x30, &[der(2, &[&[0][..], &n].concat()), der(2, &[1, 0, 1])].concat()),
        ),
    };
    let spki = der(0x30, &[der(0x30, &algorithm), der(3, &[&[0][..], &key].concat())].concat());
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(spki))
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match content.len() {
        short @ 0..0x80 => vec![u8::try_from(short).unwrap()],
        middle @ 0x80..0x100 => vec![0x81, u8::try_from(middle).unwrap()],
        long => [&[0x82][..], &u16::try_from(long).unwrap().to_be_bytes()].concat(),
    };
    [&[tag][..], &length, content].concat()
}

fn sized(bytes: &[u8]) -> (Vec<u8>, &[u8]) {
    let size = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    (bytes[2..2 + size].to_vec(), &bytes[2 + size..])
}
