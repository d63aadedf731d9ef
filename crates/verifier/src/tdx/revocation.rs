//! The two revocation lists: the root's, about PCK CAs and TCB signers, and a PCK CA's, about PCK certificates.

use x509_cert::ext::pkix::KeyUsage;

use super::{
    collateral::Unverified,
    pck::{INTEL, VerifiedPlatform},
    window::Window,
};
use crate::{
    time::UnixTime,
    x509::{Certificate, CertificateError, CrlError, VerifiedCrl},
};

/// Both lists, by the issuers of one PCK certificate.
#[derive(Debug)]
pub(super) struct Lists {
    root: [u8; 32],
    authority: [u8; 32],
    root_list: VerifiedCrl,
    pck_list: VerifiedCrl,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RevocationError {
    #[error("the chain of the PCK revocation list does not consist of the PCK CA and root of the quote's PCK certificate")]
    Issuer,
    #[error("\"{0}\" may not sign revocation lists")]
    Usage(String),
    #[error("read the key usage of a list's issuer")]
    Certificate(#[from] CertificateError),
    #[error("the revocation list of the {whose}")]
    List { whose: &'static str, source: CrlError },
    #[error("the lists that were verified before are not those of this PCK certificate's issuers")]
    Other,
}

impl Lists {
    /// Verifies the lists, and that the signers of the documents are not in them.
    pub(super) fn verify(collateral: &Unverified, platform: &VerifiedPlatform, now: UnixTime) -> Result<Self, RevocationError> {
        let (authority, root) = (&platform.intermediate, &platform.root.certificate);
        let same =
            |listed: &[Certificate]| matches!(listed, [first, last] if same_ca(first, authority) && last.der() == root.der());
        if !same(&collateral.pck_crl_issuers) {
            return Err(RevocationError::Issuer);
        }
        require_may_list(authority)?;
        require_may_list(root)?;
        let root_list = VerifiedCrl::verify(&collateral.root_crl, root, INTEL.algorithms, now).map_err(of("root"))?;
        let pck_list = VerifiedCrl::verify(&collateral.pck_crl, authority, INTEL.algorithms, now).map_err(of("PCK CA"))?;
        let signers = [&collateral.tcb_info.issuers, &collateral.qe_identity.issuers];
        for signer in signers.into_iter().filter_map(|chain| chain.first()) {
            root_list.require_absent(signer).map_err(of("root"))?;
        }
        Ok(Self { root: root.fingerprint(), authority: authority.fingerprint(), root_list, pck_list })
    }

    /// Neither the PCK certificate nor its issuer is revoked.
    pub(super) fn require_unrevoked(&self, platform: &VerifiedPlatform) -> Result<(), RevocationError> {
        if self.authority != platform.intermediate.fingerprint() || self.root != platform.root.certificate.fingerprint() {
            return Err(RevocationError::Other);
        }
        self.root_list.require_absent(&platform.intermediate).map_err(of("root"))?;
        self.pck_list.require_absent(&platform.leaf).map_err(of("PCK CA"))
    }

    pub(super) fn windows(&self) -> [Window; 2] {
        [
            Window::of_list("the revocation list of the root", &self.root_list),
            Window::of_list("the revocation list of the PCK CA", &self.pck_list),
        ]
    }

    /// For people.
    pub(super) fn detail(&self) -> String {
        format!("lists of {} and {} name nothing of the chain", self.root_list.this_update(), self.pck_list.this_update())
    }
}

/// A CA may have its certificate renewed.
fn same_ca(listed: &Certificate, authority: &Certificate) -> bool {
    let (listed, authority) = (listed.parsed().tbs_certificate(), authority.parsed().tbs_certificate());
    listed.subject() == authority.subject() && listed.subject_public_key_info() == authority.subject_public_key_info()
}

fn require_may_list(issuer: &Certificate) -> Result<(), RevocationError> {
    let usage: Option<KeyUsage> = issuer.standard("key usage")?;
    match usage {
        Some(usage) if usage.crl_sign() => Ok(()),
        _ => Err(RevocationError::Usage(issuer.subject())),
    }
}

fn of(whose: &'static str) -> impl Fn(CrlError) -> RevocationError {
    move |source| RevocationError::List { whose, source }
}
