//! The body of a trust domain's quote.

use super::{QuoteError, Sha384Digest, reader::Reader};

/// Size of the body of TDX 1.0.
pub const TD_REPORT_10_BYTES: usize = 584;
/// Size of the body of TDX 1.5.
pub const TD_REPORT_15_BYTES: usize = 648;

/// What the TDX module says of the trust domain, itself and the processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdReport {
    /// Security versions of the TDX module (0: its SVN, 1: its major version) and of what it rests on.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mr_seam: Sha384Digest,
    /// Who signed the TDX module; all zero for Intel's.
    pub mr_signer_seam: Sha384Digest,
    /// Attributes of the TDX module; zero for Intel's.
    pub seam_attributes: u64,
    /// TDATTRIBUTES.
    pub td_attributes: u64,
    /// Extended features that the domain may use, as in XCR0 and IA32_XSS.
    pub xfam: u64,
    /// Measurement of the domain's initial memory.
    pub mr_td: Sha384Digest,
    /// Given by who created the domain: configuration.
    pub mr_config_id: Sha384Digest,
    /// Given by who created the domain: owner.
    pub mr_owner: Sha384Digest,
    /// Given by who created the domain: the owner's configuration.
    pub mr_owner_config: Sha384Digest,
    /// Run-time measurement registers.
    pub rtmr: [Sha384Digest; 4],
    /// What the domain put in.
    pub report_data: [u8; 64],
    /// The fields that TDX 1.5 added.
    pub td15: Option<Td15>,
}

/// What the body of TDX 1.5 has more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Td15 {
    /// Security versions now, where those of [`TdReport::tee_tcb_svn`] are of the domain's launch.
    pub tee_tcb_svn2: [u8; 16],
    /// Measurement of the service domains that are bound to this one (a migration domain); zero for none.
    pub mr_service_td: Sha384Digest,
}

impl TdReport {
    pub(super) fn decode(reader: &mut Reader<'_>, has_td15: bool) -> Result<Self, QuoteError> {
        let mut report = Self {
            tee_tcb_svn: reader.array("TEE_TCB_SVN")?,
            mr_seam: reader.array("MRSEAM")?,
            mr_signer_seam: reader.array("MRSIGNERSEAM")?,
            seam_attributes: reader.u64("SEAMATTRIBUTES")?,
            td_attributes: reader.u64("TDATTRIBUTES")?,
            xfam: reader.u64("XFAM")?,
            mr_td: reader.array("MRTD")?,
            mr_config_id: reader.array("MRCONFIGID")?,
            mr_owner: reader.array("MROWNER")?,
            mr_owner_config: reader.array("MROWNERCONFIG")?,
            rtmr: [reader.array("RTMR0")?, reader.array("RTMR1")?, reader.array("RTMR2")?, reader.array("RTMR3")?],
            report_data: reader.array("REPORTDATA")?,
            td15: None,
        };
        if has_td15 {
            let (tee_tcb_svn2, mr_service_td) = (reader.array("TEE_TCB_SVN_2")?, reader.array("MRSERVICETD")?);
            report.td15 = Some(Td15 { tee_tcb_svn2, mr_service_td });
        }
        Ok(report)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.tee_tcb_svn);
        out.extend(self.mr_seam);
        out.extend(self.mr_signer_seam);
        out.extend(self.seam_attributes.to_le_bytes());
        out.extend(self.td_attributes.to_le_bytes());
        out.extend(self.xfam.to_le_bytes());
        for name in [&self.mr_td, &self.mr_config_id, &self.mr_owner, &self.mr_owner_config] {
            out.extend(name);
        }
        out.extend(self.rtmr.as_flattened());
        out.extend(self.report_data);
        if let Some(td15) = &self.td15 {
            out.extend(td15.tee_tcb_svn2);
            out.extend(td15.mr_service_td);
        }
    }
}
