//! Intel's Provisioning Certification Service, version 4, or a caching service with the same paths.
//!
//! ```text
//! /tdx/certification/v4/tcb?fmspc=…              TCB info; header TCB-Info-Issuer-Chain
//! /tdx/certification/v4/qe/identity              the quoting enclave; header SGX-Enclave-Identity-Issuer-Chain
//! /sgx/certification/v4/pckcrl?ca=…&encoding=der revocation list of the PCK CA; header SGX-PCK-CRL-Issuer-Chain
//! IntelSGXRootCA.der                             revocation list of the root, elsewhere
//! ```

use casemate_evidence::tdx::{Body, Quote};
use casemate_verifier::tdx::{CollateralWanted, collateral_wanted};
use serde_json::json;

use crate::{
    EndorsementError, Fetcher,
    form::{Form, split},
    http::Ask,
    store::{Kept, Life},
};

/// What vouches for a TDX quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxEndorsements {
    /// The JSON document that the verifier takes.
    pub collateral: Vec<u8>,
}

impl Fetcher {
    /// TCB info, identity of the quoting enclave and revocation lists for a quote.
    pub async fn tdx(&self, quote: &Quote) -> Result<TdxEndorsements, EndorsementError> {
        if matches!(quote.body, Body::Enclave(_)) {
            return Err(EndorsementError::Enclave);
        }
        let CollateralWanted { fmspc, ca } = collateral_wanted(&quote.auth.pck_chain).map_err(EndorsementError::Tdx)?;
        let pcs = &self.sources().intel_pcs;
        let document = |path: String, form, issuers| Ask {
            issuers: Some(issuers),
            ..Ask::get(format!("{pcs}{path}"), form, Life::Statement)
        };
        let tcb = document(
            format!("/tdx/certification/v4/tcb?fmspc={}", hex::encode(fmspc)),
            Form::Signed(TCB_INFO),
            "TCB-Info-Issuer-Chain",
        );
        let identity = document(
            "/tdx/certification/v4/qe/identity".to_owned(),
            Form::Signed(QE_IDENTITY),
            "SGX-Enclave-Identity-Issuer-Chain",
        );
        let crl = document(
            format!("/sgx/certification/v4/pckcrl?ca={}&encoding=der", ca.as_str()),
            Form::RevocationList,
            "SGX-PCK-CRL-Issuer-Chain",
        );
        let root = Ask::get(self.sources().intel_root_crl.clone(), Form::RevocationList, Life::Statement);
        let (tcb, identity, crl, root) = futures::try_join!(
            self.ask("Intel's TCB info", tcb),
            self.ask("the identity of the quoting enclave", identity),
            self.ask("the revocation list of the PCK CA", crl),
            self.ask("the revocation list of Intel's root", root),
        )?;
        Ok(TdxEndorsements { collateral: collateral(&tcb, &identity, &crl, &root) })
    }
}

/// In the form in which caching services hand collateral out.
fn collateral(tcb: &Kept, identity: &Kept, crl: &Kept, root: &Kept) -> Vec<u8> {
    let (tcb_info, tcb_info_signature) = split(&tcb.body, TCB_INFO).expect("only such a document is kept as one");
    let (qe_identity, qe_identity_signature) = split(&identity.body, QE_IDENTITY).expect("only such a document is kept as one");
    let document = json!({
        "tcb_info": tcb_info,
        "tcb_info_signature": tcb_info_signature,
        "tcb_info_issuer_chain": tcb.issuers,
        "qe_identity": qe_identity,
        "qe_identity_signature": qe_identity_signature,
        "qe_identity_issuer_chain": identity.issuers,
        "pck_crl": hex::encode(&crl.body),
        "pck_crl_issuer_chain": crl.issuers,
        "root_ca_crl": hex::encode(&root.body),
    });
    document.to_string().into_bytes()
}

const TCB_INFO: &str = "tcbInfo";
const QE_IDENTITY: &str = "enclaveIdentity";
