//! AMD's Key Distribution Service ("Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification", 57230).
//!
//! ```text
//! /vcek/v1/{product}/{hwID}?blSPL=…&teeSPL=…&snpSPL=…&ucodeSPL=…[&fmcSPL=…]   the chip's certificate at this TCB, DER
//! /{vcek|vlek}/v1/{product}/cert_chain                                      ASK or ASVK, then ARK, PEM
//! /{vcek|vlek}/v1/{product}/crl                                             the ARK's revocation list, DER
//! ```

use casemate_evidence::snp::{AttestationReport, Generation, SigningKey, Tcb};

use crate::{
    EndorsementError, Fetcher,
    form::{Form, certificates},
    http::Ask,
    store::Life,
};

/// What vouches for an SEV-SNP report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpEndorsements {
    /// VCEK or VLEK, ASK or ASVK, ARK, DER.
    pub chain: Vec<Vec<u8>>,
    /// The ARK's revocation list, DER.
    pub crl: Vec<u8>,
}

/// What a report may leave open.
#[derive(Debug, Clone, Default)]
pub struct SnpHints {
    /// The processor, which reports of version 2 do not name.
    pub generation: Option<Generation>,
    /// The VLEK certificate, DER. AMD gives it to the cloud provider alone, and the guest gets it from there.
    pub vlek: Option<Vec<u8>>,
}

impl Fetcher {
    /// Certificates and revocation list for a report.
    pub async fn snp(&self, report: &AttestationReport, hints: &SnpHints) -> Result<SnpEndorsements, EndorsementError> {
        let wanted = Wanted::of(report, hints).map_err(EndorsementError::Snp)?;
        let base = format!("{}/{}/v1/{}", self.sources().amd_kds, wanted.key, wanted.generation);
        let chain = Ask::get(format!("{base}/cert_chain"), Form::Chain, Life::Certificate);
        let crl = Ask::get(format!("{base}/crl"), Form::RevocationList, Life::Statement);
        // One after the other: the service refuses who asks for much at once.
        let issuers = self.ask("AMD's certificates", chain).await?;
        let crl = self.ask("AMD's revocation list", crl).await?.body.clone();
        let leaf = match wanted.leaf {
            Leaf::Given(der) => der,
            Leaf::Chip(path) => {
                let ask = Ask::get(format!("{base}/{path}"), Form::Certificate, Life::Certificate);
                self.ask("the chip's certificate (VCEK)", ask).await?.body.clone()
            }
        };
        let mut chain = vec![leaf];
        chain.extend(certificates(&issuers.body).expect("only a chain is kept as one"));
        Ok(SnpEndorsements { chain, crl })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    key: &'static str,
    generation: Generation,
    leaf: Leaf,
}

#[derive(Debug, PartialEq, Eq)]
enum Leaf {
    Given(Vec<u8>),
    /// Path and query.
    Chip(String),
}

impl Wanted {
    fn of(report: &AttestationReport, hints: &SnpHints) -> Result<Self, String> {
        let named = report.version.cpuid().map(Generation::of).transpose().map_err(|error| error.to_string())?;
        let generation = match (named, hints.generation) {
            (Some(named), Some(other)) if named != other => {
                return Err(format!("it is a {named} processor's, not a {other} processor's"));
            }
            (named, hint) => named.or(hint).ok_or("a report of version 2 does not name its processor: Milan, Genoa or Turin?")?,
        };
        match report.signing_key {
            SigningKey::Vcek => Ok(Self { key: "vcek", generation, leaf: Leaf::Chip(chip(report, generation)?) }),
            SigningKey::Vlek => {
                let leaf = hints.vlek.clone().ok_or(
                    "it is signed by a VLEK, whose certificate only the cloud provider can fetch: take it from the guest's certificate table",
                )?;
                Ok(Self { key: "vlek", generation, leaf: Leaf::Given(leaf) })
            }
            SigningKey::None => Err("it is not signed".to_owned()),
        }
    }
}

fn chip(report: &AttestationReport, generation: Generation) -> Result<String, String> {
    let tcb = Tcb::decode(report.reported_tcb, generation).map_err(|error| error.to_string())?;
    let id = match generation {
        Generation::Milan | Generation::Genoa => &report.chip_id[..],
        Generation::Turin => &report.chip_id[..TURIN_ID_BYTES],
    };
    if report.chip_id == [0; 64] {
        return Err("it hides its chip (CHIP_ID is zero), so that the certificate cannot be named".to_owned());
    }
    if report.chip_id[id.len()..].iter().any(|byte| *byte != 0) {
        return Err("its CHIP_ID is longer than those of its generation".to_owned());
    }
    let Tcb { fmc, bootloader, tee, snp, microcode } = tcb;
    let fmc = if generation == Generation::Turin { format!("fmcSPL={fmc:02}&") } else { String::new() };
    let id = hex::encode(id);
    Ok(format!("{id}?{fmc}blSPL={bootloader:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={microcode:02}"))
}

const TURIN_ID_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use casemate_evidence::snp::REPORT_BYTES;

    use super::*;

    /// Version 3 or 2, signing key, family and model, TCB, chip id.
    fn report(version: u8, key: u8, cpu: [u8; 2], tcb: [u8; 8], chip: &[u8]) -> AttestationReport {
        let mut bytes = [0; REPORT_BYTES];
        bytes[0] = version;
        bytes[0x48] = key << 2;
        bytes[0x180..0x188].copy_from_slice(&tcb);
        if version > 2 {
            bytes[0x188..0x18a].copy_from_slice(&cpu);
        }
        bytes[0x1a0..0x1a0 + chip.len()].copy_from_slice(chip);
        AttestationReport::decode(&bytes).unwrap()
    }

    fn path(report: &AttestationReport, hints: &SnpHints) -> Result<String, String> {
        Wanted::of(report, hints).map(|wanted| match wanted.leaf {
            Leaf::Chip(path) => format!("{}/{}/{path}", wanted.key, wanted.generation),
            Leaf::Given(_) => format!("{}/{}", wanted.key, wanted.generation),
        })
    }

    #[test]
    fn a_chip_and_its_tcb_name_the_certificate() {
        let genoa = report(3, 0, [0x19, 0x11], [10, 1, 0, 0, 0, 0, 23, 84], &[0xab; 64]);
        let expected = format!("vcek/Genoa/{}?blSPL=10&teeSPL=01&snpSPL=23&ucodeSPL=84", "ab".repeat(64));
        assert_eq!(path(&genoa, &SnpHints::default()).unwrap(), expected);
        let turin = report(3, 0, [0x1a, 2], [1, 2, 3, 4, 0, 0, 0, 82], &[0xcd; 8]);
        let expected = "vcek/Turin/cdcdcdcdcdcdcdcd?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=82";
        assert_eq!(path(&turin, &SnpHints::default()).unwrap(), expected);
    }

    #[test]
    fn what_a_report_leaves_open_must_be_said_and_must_fit() {
        let old = report(2, 0, [0, 0], [3, 0, 0, 0, 0, 0, 8, 115], &[1; 64]);
        assert!(path(&old, &SnpHints::default()).unwrap_err().contains("version 2"));
        let milan = SnpHints { generation: Some(Generation::Milan), vlek: None };
        assert!(path(&old, &milan).unwrap().starts_with("vcek/Milan/"));
        let genoa = report(3, 0, [0x19, 0x11], [0; 8], &[1; 64]);
        assert!(path(&genoa, &milan).unwrap_err().contains("not a Milan"));
        let vlek = report(3, 1, [0x19, 1], [0; 8], &[]);
        assert!(path(&vlek, &SnpHints::default()).unwrap_err().contains("VLEK"));
        assert_eq!(path(&vlek, &SnpHints { generation: None, vlek: Some(vec![1]) }).unwrap(), "vlek/Milan");
    }

    #[test]
    fn a_hidden_chip_and_an_unsigned_report_have_no_certificate() {
        for (report, problem) in [
            (report(3, 0, [0x19, 0x11], [0; 8], &[]), "hides"),
            (report(3, 0, [0x1a, 2], [0; 8], &[1; 64]), "longer"),
            (report(3, 7, [0x19, 0x11], [0; 8], &[1; 64]), "not signed"),
            (report(3, 0, [0x30, 0], [0; 8], &[1; 64]), ""),
        ] {
            assert!(path(&report, &SnpHints::default()).unwrap_err().contains(problem));
        }
    }
}
