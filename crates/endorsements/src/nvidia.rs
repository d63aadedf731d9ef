//! NVIDIA's service of reference manifests (RIM), and its OCSP responder.
//!
//! ```text
//! GET  /v1/rim/{id}                        JSON: id, rim (XML in base64), sha256
//! POST OCSP request (RFC 6960), no nonce   OCSP response
//! ```
//!
//! The requests have no nonce, so that an answer can be kept: how old one may be is for the floor and the policy to say.

use std::collections::BTreeSet;

use casemate_evidence::nvidia::{DeviceEvidence, MAX_DEVICES, Report};
use casemate_verifier::gpu::{ManifestIds, chip_named_by, device_questions, manifest_ids, manifest_questions};

use crate::{EndorsementError, Fetcher, form::Form, http::Ask, store::Life};

/// What vouches for GPUs and switches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuEndorsements {
    /// Of drivers and of VBIOSes.
    pub manifests: Vec<Manifest>,
    /// OCSP responses, DER.
    pub ocsp: Vec<Vec<u8>>,
}

/// A manifest under the id that it is published by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Such as `NV_GPU_DRIVER_GH100_550.144.03`.
    pub id: String,
    /// XML.
    pub document: Vec<u8>,
}

impl Fetcher {
    /// Manifests for all devices, and what the responder says about their certificates and about who signed the manifests.
    pub async fn gpu(&self, devices: &[DeviceEvidence]) -> Result<GpuEndorsements, EndorsementError> {
        if devices.len() > MAX_DEVICES {
            return Err(EndorsementError::TooMany { len: devices.len() });
        }
        let (mut ids, mut questions) = (BTreeSet::new(), BTreeSet::new());
        for (index, device) in devices.iter().enumerate() {
            let ManifestIds { driver, bios } = manifests_of(index, device)?;
            ids.extend(driver.into_iter().chain([bios]));
            questions.extend(device_questions(&device.chain).map_err(EndorsementError::Question)?);
        }
        let mut found = GpuEndorsements::default();
        for id in ids {
            let document = self.manifest(&id).await?;
            questions.extend(manifest_questions(&document).map_err(EndorsementError::Question)?);
            found.manifests.push(Manifest { id, document });
        }
        for question in questions {
            let url = self.sources().nvidia_ocsp.clone();
            let ask = Ask { post: Some(question), ..Ask::get(url, Form::Ocsp, Life::Statement) };
            found.ocsp.push(self.ask("NVIDIA's word on revocation", ask).await?.body.clone());
        }
        Ok(found)
    }

    async fn manifest(&self, id: &str) -> Result<Vec<u8>, EndorsementError> {
        let url = format!("{}/v1/rim/{}", self.sources().nvidia_rim, segment(id));
        let ask = Ask { about: Some(id.to_owned()), ..Ask::get(url, Form::Manifest, Life::Statement) };
        Ok(self.ask("NVIDIA's reference manifest", ask).await?.body.clone())
    }
}

fn manifests_of(index: usize, device: &DeviceEvidence) -> Result<ManifestIds, EndorsementError> {
    let report = Report::parse(&device.report).map_err(|source| EndorsementError::Report { index, source })?;
    let chip = chip_named_by(&device.chain).ok_or(EndorsementError::Chip { index })?;
    manifest_ids(device.kind, &chip, &report).map_err(|source| EndorsementError::Manifests { index, source })
}

/// An id as one segment of a path: it is made of what a device says of itself.
fn segment(id: &str) -> String {
    let escaped = |byte: u8| match byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    id.bytes().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::segment;

    #[test]
    fn what_a_device_says_cannot_leave_its_segment_of_the_path() {
        assert_eq!(segment("NV_GPU_DRIVER_GH100_550.144.03"), "NV_GPU_DRIVER_GH100_550.144.03");
        assert_eq!(segment("a/../b?c=d#e f%2e"), "a%2F..%2Fb%3Fc%3Dd%23e%20f%252e");
    }
}
