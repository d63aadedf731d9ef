//! A real TPM implementation and other people's tools: what they make is accepted, what we make they can open.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use casemate_attester::{Tpm, TpmAttester, open};
use casemate_evidence::{
    instance::Pcr,
    tpm::{Digest, HashAlg, ObjectAttributes, PcrSelection, Public},
};
use casemate_verifier::{
    TrustAnchors, VendorRoot,
    credential::{Randomness, make_credential},
    ek::{EkPublic, verify_chain},
    quote::{AttestationKey, BankValues, PcrError, QuoteError},
};
use rcgen::{Issuer, SubjectPublicKeyInfo};

use crate::world::{NOW, Pki, Spec, authority, keys};

#[test]
fn quotes_of_tpm2_tools_are_accepted() {
    let tpm = Swtpm::start();
    for (kind, scheme) in [("ecc256", "ecdsa"), ("rsa2048", "rsassa"), ("rsa2048", "rsapss")] {
        let kind = format!("{kind}:{scheme}-sha256:null");
        tpm.tool("tpm2_createprimary", &["-Q", "-C", "o", "-g", "sha256", "-G", &kind, "-a", ATTRIBUTES, "-c", "ak"]);
        let public = tpm.public("ak");
        tpm.tool("tpm2_pcrextend", &["14:sha256=1111111111111111111111111111111111111111111111111111111111111111"]);
        let what = ["-l", "sha256:0,7,14", "-q", "a1b2", "-g", "sha256", "--scheme", scheme];
        tpm.tool("tpm2_quote", &[&["-Q", "-c", "ak", "-m", "msg", "-s", "sig", "-f", "tss"][..], &what].concat());
        tpm.tool("tpm2_pcrread", &["-Q", "sha256:0,7,14", "-o", "pcrs"]);
        let values = tpm.read("pcrs");
        let listed: BTreeMap<u32, Pcr> =
            [0, 7, 14].into_iter().zip(values.chunks(32).map(|value| Pcr(value.try_into().unwrap()))).collect();

        let key = AttestationKey::from_public(&public).unwrap();
        let (attest, signature) = (tpm.read("msg"), tpm.read("sig"));
        let quote = key.quote(&attest, &signature).unwrap_or_else(|error| panic!("{scheme}: {error}"));
        assert!(quote.is_for(&[0xa1, 0xb2]) && !quote.is_for(&[0xa1, 0xb3]));
        quote.pcrs(&[0, 7, 14], &listed).unwrap();

        let mut changed = attest.clone();
        changed[9] ^= 1;
        assert!(matches!(key.quote(&changed, &signature), Err(QuoteError::Signature)));
        let mut changed = listed.clone();
        changed.insert(7, Pcr([9; 32]));
        assert!(matches!(quote.pcrs(&[0, 7, 14], &changed), Err(PcrError::Digest { .. })));
    }
}

#[test]
fn credentials_are_opened_by_tpm2_tools_for_the_right_keys_only() {
    let tpm = Swtpm::start();
    for kind in ["rsa", "ecc", "ecc384"] {
        tpm.tool("tpm2_createek", &["-Q", "-G", kind, "-c", "ek", "-u", "ek.pem", "-f", "pem"]);
        tpm.tool("tpm2_createprimary", &["-Q", "-C", "o", "-g", "sha256", "-G", AK, "-a", ATTRIBUTES, "-c", "ak"]);
        let ek = endorsed(&tpm.text("ek.pem"), &tpm.public("ek"));
        let name = AttestationKey::from_public(&tpm.public("ak")).unwrap().name().to_vec();
        let secret = [0x5a; 32];

        assert!(tpm.activate(&ek, &name, &secret).as_deref() == Some(&secret[..]), "{kind}");
        let mut other = name.clone();
        other[33] ^= 1;
        assert_eq!(tpm.activate(&ek, &other, &secret), None, "a credential for another attestation key");
    }
}

#[test]
fn quotes_with_longer_keys_and_over_several_banks_are_accepted() {
    let tpm = Swtpm::start();
    for (kind, scheme, hash) in [("ecc384", "ecdsa", "sha384"), ("ecc256", "ecdsa", "sha384"), ("rsa3072", "rsassa", "sha384")] {
        let kind = format!("{kind}:{scheme}-{hash}:null");
        tpm.tool("tpm2_createprimary", &["-Q", "-C", "o", "-g", hash, "-G", &kind, "-a", ATTRIBUTES, "-c", "ak"]);
        let public = tpm.public("ak");
        let what = ["-l", "sha1:0,10+sha256:0,7+sha384:4", "-q", "a1b2", "-g", hash, "--scheme", scheme];
        tpm.tool("tpm2_quote", &[&["-Q", "-c", "ak", "-m", "msg", "-s", "sig", "-f", "tss"][..], &what].concat());
        let quote = AttestationKey::from_public(&public).unwrap().quote(&tpm.read("msg"), &tpm.read("sig")).unwrap();
        let of = |hash, pcrs: &[u32]| PcrSelection { hash, pcrs: pcrs.to_vec() };
        let expected = [of(HashAlg::Sha1, &[0, 10]), of(HashAlg::Sha256, &[0, 7]), of(HashAlg::Sha384, &[4])];
        let zeros = |selection: &PcrSelection| {
            let values = selection.pcrs.iter().map(|pcr| (*pcr, Digest::zero(selection.hash))).collect();
            (selection.hash, values)
        };
        let listed: BankValues = expected.iter().map(zeros).collect();
        let banks = quote.banks(&expected, &listed).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(banks.strongest().unwrap().0, HashAlg::Sha384);
        assert!(matches!(quote.banks(&expected[..2], &listed), Err(PcrError::Banks { .. })));
        assert!(quote.clock().safe && quote.clock().clock_ms < 600_000, "{:?}", quote.clock());
    }
}

#[test]
fn a_public_area_of_another_key_is_not_the_endorsed_one() {
    let tpm = Swtpm::start();
    tpm.tool("tpm2_createek", &["-Q", "-G", "rsa", "-c", "ek", "-u", "ek.pem", "-f", "pem"]);
    tpm.tool("tpm2_createek", &["-Q", "-G", "ecc", "-c", "other"]);
    let certificate = certified(&tpm.text("ek.pem"));
    assert!(certificate.public_area(&tpm.public("ek")).is_ok());
    assert!(certificate.public_area(&tpm.public("other")).is_err());
    tpm.tool("tpm2_createprimary", &["-Q", "-C", "o", "-g", "sha256", "-G", AK, "-a", ATTRIBUTES, "-c", "ak"]);
    assert!(certificate.public_area(&tpm.public("ak")).is_err());
}

#[test]
fn an_instance_on_a_node_with_swtpm_is_affirmed() {
    let swtpm = Swtpm::start();
    let mut tpm = Tpm::new(open(&format!("unix:{}", swtpm.socket().display())).unwrap());
    tpm.startup_clear().unwrap();
    let mut spec = Spec::good();
    spec.node_tpm = Box::new(TpmAttester::new(tpm).unwrap());
    let result = spec.build().appraise();
    assert_eq!(result.failed(), None);
    assert!(result.guest().is_some());
}

/// A certificate of the test vendor for this key.
fn certified(pem: &str) -> casemate_verifier::ek::VerifiedEk {
    let Pki { vendor, intermediate, ek, .. } = Pki::good();
    let key = SubjectPublicKeyInfo::from_pem(pem).unwrap();
    let leaf = ek.signed_by(&key, &Issuer::from_params(&intermediate, &keys().intermediate)).unwrap();
    let issuer = intermediate.signed_by(&keys().intermediate, &Issuer::from_params(&vendor, &keys().vendor)).unwrap();
    let platform = authority("Casemate platform authority", Some(0)).self_signed(&keys().platform).unwrap().pem();
    let root = VendorRoot { pem: vendor.self_signed(&keys().vendor).unwrap().pem(), simulated: false };
    let anchors = TrustAnchors::new(&platform, &[root]).unwrap();
    verify_chain(&[leaf.der().to_vec(), issuer.der().to_vec()], &anchors, NOW).unwrap()
}

fn endorsed(pem: &str, public: &[u8]) -> EkPublic {
    certified(pem).public_area(public).unwrap()
}

/// A software TPM in a folder of its own, for tpm2-tools (which need the control channel) and for our own transport.
struct Swtpm {
    folder: tempfile::TempDir,
    child: Child,
}

impl Swtpm {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
            .arg(format!("dir={}", folder.path().display()))
            .args(["--server", &format!("type=unixio,path={}", at("tpm"))])
            .args(["--ctrl", &format!("type=unixio,path={}", at("tpm.ctrl"))])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("start swtpm: {error}; {INSTALL}"));
        let limit = Instant::now() + Duration::from_secs(20);
        let swtpm = Self { folder, child };
        // swtpm has no other way to say that it listens than the sockets' being there.
        while !(swtpm.socket().exists() && swtpm.path("tpm.ctrl").exists()) {
            assert!(Instant::now() < limit, "swtpm does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        swtpm
    }

    fn socket(&self) -> PathBuf {
        self.path("tpm")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn try_tool(&self, tool: &str, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new(tool);
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.socket().display()));
        let output = command.output().unwrap_or_else(|error| panic!("start {tool}: {error}; {INSTALL}"));
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// Runs a tool and unloads the keys that it left in the TPM, which holds three.
    fn tool(&self, tool: &str, args: &[&str]) {
        let run =
            |tool: &str, args: &[&str]| self.try_tool(tool, args).unwrap_or_else(|error| panic!("{tool} {args:?}: {error}"));
        run(tool, args);
        run("tpm2_flushcontext", &["-t"]);
    }

    /// TPMT_PUBLIC of a key in context file `context`.
    fn public(&self, context: &str) -> Vec<u8> {
        self.tool("tpm2_readpublic", &["-Q", "-c", context, "-f", "tss", "-o", "public"]);
        self.read("public")[2..].to_vec()
    }

    /// Has the TPM open a credential that we made for `ek` and `name`, with its keys "ek" and "ak".
    fn activate(&self, ek: &EkPublic, name: &[u8], secret: &[u8]) -> Option<Vec<u8>> {
        let random = Randomness { seed: [1; 32], oaep: [2; 32], ephemeral: [3; 32] };
        let credential = make_credential(ek, name, secret, &random).unwrap();
        write_credential(&self.path("credential"), &credential);
        self.tool("tpm2_startauthsession", &["-Q", "--policy-session", "-S", "session"]);
        self.tool("tpm2_policysecret", &["-Q", "-S", "session", "-c", "e"]);
        let args = ["-Q", "-c", "ak", "-C", "ek", "-i", "credential", "-o", "opened", "-P", "session:session"];
        // Keys of the high range are used with their (empty) password.
        let high = Public::parse(&self.public("ek")).unwrap().attributes.0 & ObjectAttributes::USER_WITH_AUTH != 0;
        let opened = self.try_tool("tpm2_activatecredential", &args[..args.len() - if high { 2 } else { 0 }]);
        self.tool("tpm2_flushcontext", &["session"]);
        opened.ok().map(|()| self.read("opened"))
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The file format of tpm2-tools: magic, version, then both structures with their sizes.
fn write_credential(path: &Path, credential: &casemate_verifier::credential::Credential) {
    let mut file = vec![0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
    for part in [&credential.blob, &credential.encrypted_secret] {
        file.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        file.extend_from_slice(part);
    }
    fs::write(path, file).unwrap();
}

const ATTRIBUTES: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
const AK: &str = "ecc256:ecdsa-sha256:null";
const INSTALL: &str = "these tests need the packages swtpm and tpm2-tools";
