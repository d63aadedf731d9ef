//! What a quote says, for people and for policies.

use casemate_evidence::tdx::{Quote, TdReport};
use serde::{Deserialize, Serialize};

use super::{
    documents::TcbInfo,
    domain::{DEBUG, MIGRATABLE, PERFMON, SEPT_VE_DISABLE},
    pck::VerifiedPlatform,
    status::TcbStatus,
    tcb::{Judged, Module},
};
use crate::time::UnixTime;

/// What a quote says. True only where the appraisal has a verified value. Byte strings are in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxClaims {
    /// 4 or 5.
    pub quote_version: u16,
    /// Major version of the TDX module, as in `TDX_01`.
    pub module: String,
    /// Its security version.
    pub module_svn: u8,
    /// All security versions at the launch of the domain.
    pub tee_tcb_svn: String,
    /// All security versions now; TDX 1.5.
    pub tee_tcb_svn2: Option<String>,
    /// Measurement of the TDX module.
    pub mr_seam: String,
    /// Its signer.
    pub mr_signer_seam: String,
    /// TDATTRIBUTES, as a number in hex.
    pub td_attributes: String,
    /// The host may read the domain's memory.
    pub debug: bool,
    /// The host cannot inject exceptions at memory accesses.
    pub sept_ve_disable: bool,
    /// The domain may migrate.
    pub migratable: bool,
    /// The domain has performance counters.
    pub perfmon: bool,
    /// Extended features, as a number in hex.
    pub xfam: String,
    /// MRTD.
    pub mr_td: String,
    /// MRCONFIGID.
    pub mr_config_id: String,
    /// MROWNER.
    pub mr_owner: String,
    /// MROWNERCONFIG.
    pub mr_owner_config: String,
    /// MRSERVICETD; TDX 1.5.
    pub mr_service_td: Option<String>,
    /// RTMR0 to RTMR3.
    pub rtmr: Vec<String>,
    /// REPORTDATA.
    pub report_data: String,
    /// The processor, once its certificate was verified.
    pub platform: Option<PlatformClaims>,
    /// Its TCB, once collateral was verified.
    pub tcb: Option<TcbClaims>,
    /// What policy or expectation left open.
    pub warnings: Vec<String>,
}

/// The processor, from its PCK certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformClaims {
    /// Family, model, stepping, platform type.
    pub fmspc: String,
    /// Identifier of the provisioning certification enclave.
    pub pce_id: String,
    /// Its security version.
    pub pce_svn: u16,
    /// Identifier of the processor package.
    pub ppid: String,
    /// Identifier of a platform of several packages.
    pub platform_instance: Option<String>,
    /// Security version of the processor.
    pub cpu_svn: String,
    /// 0 standard, 1 scalable, 2 scalable with integrity.
    pub sgx_type: u8,
    /// Packages may be added.
    pub dynamic_platform: Option<bool>,
    /// Keys are kept by Intel's registration service.
    pub cached_keys: Option<bool>,
    /// Hyper-threading is on.
    pub smt_enabled: Option<bool>,
    /// SHA-256 of the root certificate.
    pub root: String,
    /// That root is not Intel's.
    pub simulated: bool,
}

/// The TCB, from TCB info and identity of the quoting enclave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbClaims {
    /// Of the whole.
    pub status: TcbStatus,
    /// Security advisories (`INTEL-SA-…`) that concern it.
    pub advisories: Vec<String>,
    /// The oldest date of its levels: holes that were published since may be open.
    pub date: UnixTime,
    /// Of the TDX module alone; absent for version 0.
    pub module_status: Option<TcbStatus>,
    /// Of the quoting enclave alone.
    pub qe_status: TcbStatus,
    /// Number of the evaluation that the levels are of.
    pub evaluation_data_number: u32,
    /// When Intel is to publish TCB info anew.
    pub next_update: UnixTime,
}

impl TdxClaims {
    pub(super) fn of(quote: &Quote, report: &TdReport, warnings: Vec<String>) -> Self {
        let [svn, version, ..] = report.tee_tcb_svn;
        let has = |bit| report.td_attributes & bit != 0;
        Self {
            quote_version: quote.header.version,
            module: format!("TDX_{version:02X}"),
            module_svn: svn,
            tee_tcb_svn: hex::encode(report.tee_tcb_svn),
            tee_tcb_svn2: report.td15.as_ref().map(|td15| hex::encode(td15.tee_tcb_svn2)),
            mr_seam: hex::encode(report.mr_seam),
            mr_signer_seam: hex::encode(report.mr_signer_seam),
            td_attributes: format!("{:016x}", report.td_attributes),
            debug: has(DEBUG),
            sept_ve_disable: has(SEPT_VE_DISABLE),
            migratable: has(MIGRATABLE),
            perfmon: has(PERFMON),
            xfam: format!("{:016x}", report.xfam),
            mr_td: hex::encode(report.mr_td),
            mr_config_id: hex::encode(report.mr_config_id),
            mr_owner: hex::encode(report.mr_owner),
            mr_owner_config: hex::encode(report.mr_owner_config),
            mr_service_td: report.td15.as_ref().map(|td15| hex::encode(td15.mr_service_td)),
            rtmr: report.rtmr.iter().map(hex::encode).collect(),
            report_data: hex::encode(report.report_data),
            platform: None,
            tcb: None,
            warnings,
        }
    }
}

impl PlatformClaims {
    pub(super) fn of(platform: &VerifiedPlatform) -> Self {
        let extension = &platform.extension;
        Self {
            fmspc: hex::encode(extension.fmspc),
            pce_id: hex::encode(extension.pce_id),
            pce_svn: extension.pce_svn,
            ppid: hex::encode(extension.ppid),
            platform_instance: extension.platform_instance.map(hex::encode),
            cpu_svn: hex::encode(extension.cpu_svn),
            sgx_type: extension.sgx_type,
            dynamic_platform: extension.configuration.map(|configuration| configuration.dynamic_platform),
            cached_keys: extension.configuration.map(|configuration| configuration.cached_keys),
            smt_enabled: extension.configuration.map(|configuration| configuration.smt_enabled),
            root: hex::encode(platform.root.certificate.fingerprint()),
            simulated: platform.is_simulated(),
        }
    }
}

impl TcbClaims {
    pub(super) fn of(whole: &Judged, module: &Module, qe: &Judged, info: &TcbInfo) -> Self {
        Self {
            status: whole.status,
            advisories: whole.advisories.clone(),
            date: whole.date.0,
            module_status: module.judged.as_ref().map(|judged| judged.status),
            qe_status: qe.status,
            evaluation_data_number: info.tcb_evaluation_data_number,
            next_update: info.next_update.0,
        }
    }
}
