//! Where to fetch from.

use reqwest::Url;

use crate::SetupError;

/// Addresses of the services, or of mirrors with the same paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// AMD's Key Distribution Service.
    pub amd_kds: String,
    /// Intel's Provisioning Certification Service, or a PCCS.
    pub intel_pcs: String,
    /// The revocation list of Intel's root, whole address. A PCCS has it under `/sgx/certification/v4/rootcacrl`.
    pub intel_root_crl: String,
    /// NVIDIA's service of reference manifests.
    pub nvidia_rim: String,
    /// NVIDIA's OCSP responder, whole address.
    pub nvidia_ocsp: String,
}

impl Default for Sources {
    /// The vendors' own.
    fn default() -> Self {
        Self {
            amd_kds: "https://kdsintf.amd.com".to_owned(),
            intel_pcs: "https://api.trustedservices.intel.com".to_owned(),
            intel_root_crl: "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der".to_owned(),
            nvidia_rim: "https://rim.attestation.nvidia.com".to_owned(),
            nvidia_ocsp: "https://ocsp.ndis.nvidia.com".to_owned(),
        }
    }
}

impl Sources {
    /// Addresses with TLS, but for services on this machine.
    pub(crate) fn checked(mut self) -> Result<Self, SetupError> {
        for (what, url) in [
            ("AMD's certificates", &mut self.amd_kds),
            ("Intel's collateral", &mut self.intel_pcs),
            ("Intel's root revocation list", &mut self.intel_root_crl),
            ("NVIDIA's manifests", &mut self.nvidia_rim),
            ("NVIDIA's OCSP answers", &mut self.nvidia_ocsp),
        ] {
            let good = Url::parse(url).is_ok_and(|url| may_be_asked(&url) && url.query().is_none() && url.fragment().is_none());
            if !good {
                return Err(SetupError::Source { what, url: std::mem::take(url) });
            }
            url.truncate(url.trim_end_matches('/').len());
        }
        Ok(self)
    }
}

/// With TLS, or on this machine.
pub(crate) fn may_be_asked(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.has_host(),
        "http" => is_this_machine(url),
        _ => false,
    }
}

pub(crate) fn is_this_machine(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendors_own_addresses_are_good_and_a_last_slash_does_not_matter() {
        let sources = Sources::default().checked().unwrap();
        assert_eq!(sources, Sources::default());
        let mirror = Sources { intel_pcs: "https://pccs.example:8081/".to_owned(), ..Sources::default() };
        assert_eq!(mirror.checked().unwrap().intel_pcs, "https://pccs.example:8081");
    }

    #[test]
    fn nothing_is_asked_without_tls_but_this_machine() {
        for url in ["http://127.0.0.1:8081", "http://localhost", "http://[::1]:1"] {
            assert!(Sources { amd_kds: url.to_owned(), ..Sources::default() }.checked().is_ok(), "{url}");
        }
        for url in [
            "http://kdsintf.amd.com",
            "ftp://x.example",
            "file:///etc",
            "kdsintf.amd.com",
            "",
            "https://x/?a=b",
            "http://127.0.0.1.example",
        ] {
            let refused = Sources { amd_kds: url.to_owned(), ..Sources::default() }.checked();
            assert!(matches!(refused, Err(SetupError::Source { .. })), "{url}");
        }
    }
}
