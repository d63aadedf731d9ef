//! Which level of the TCB info a processor, its TDX module and its quoting enclave are at (PCS API version 4, "Get TDX TCB Info":
//! "How to determine the TCB status").

use casemate_evidence::tdx::TdReport;

use super::{
    documents::{Component, Date, Level, ModuleSigner, PlatformTcb, SoftwareTcb, TcbInfo},
    extension::SgxExtension,
    status::TcbStatus,
};

/// What a level says.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) status: TcbStatus,
    pub(super) date: Date,
    pub(super) advisories: Vec<String>,
}

/// The TDX module.
#[derive(Debug, Clone)]
pub(super) struct Module {
    pub(super) version: u8,
    pub(super) svn: u8,
    /// Modules of version 0 are judged with the platform.
    pub(super) judged: Option<Judged>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ModuleError {
    #[error("the TCB info knows no TDX module of version {0}")]
    Version(u8),
    #[error("MRSIGNERSEAM is {seen}, expected is {expected}")]
    Signer { expected: String, seen: String },
    #[error("SEAMATTRIBUTES are {seen}, expected are {expected} where mask {mask} has ones")]
    Attributes { expected: String, seen: String, mask: String },
    #[error("the TDX module of version {version} has SVN {svn}, below every level that the TCB info knows")]
    Level { version: u8, svn: u8 },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum TcbError {
    #[error("the security versions of the processor are below every level that the TCB info knows")]
    Level,
    #[error("the status is {seen}, accepted are: {accepted}{advisories}")]
    Status { seen: TcbStatus, accepted: String, advisories: String },
}

impl Module {
    /// The module that wrote `report`, known to `info`.
    pub(super) fn of(report: &TdReport, info: &TcbInfo) -> Result<Self, ModuleError> {
        let [svn, version, ..] = report.tee_tcb_svn;
        if version == 0 {
            let signer = info.tdx_module.as_ref().ok_or(ModuleError::Version(version))?;
            require_signer(report, signer)?;
            return Ok(Self { version, svn, judged: None });
        }
        let (signer, levels) = identity(info, version).ok_or(ModuleError::Version(version))?;
        require_signer(report, signer)?;
        let judged = software_level(levels, svn.into()).ok_or(ModuleError::Level { version, svn })?;
        Ok(Self { version, svn, judged: Some(judged) })
    }
}

/// The level of `levels` that a security version reaches.
pub(super) fn software_level(levels: &[Level<SoftwareTcb>], svn: u16) -> Option<Judged> {
    levels.iter().find(|level| level.tcb.isvsvn <= svn).map(judged)
}

/// The status of the whole: processor, TDX module, and quoting enclave at the level `qe`.
pub(super) fn evaluate(
    info: &TcbInfo,
    platform: &SgxExtension,
    report: &TdReport,
    module: &Module,
    qe: &Judged,
) -> Result<Judged, TcbError> {
    let sgx = sgx_level(info, platform).ok_or(TcbError::Level)?;
    let level = domain_level(info, platform, report).ok_or(TcbError::Level)?;
    let mut whole = judged(level);
    if let Some(module) = &module.judged {
        whole = whole.with(module);
        if is_only_launch_outdated(info, report, sgx.tcb_status, whole.status, module.status, qe.status) {
            whole.status = TcbStatus::relaunch(sgx.tcb_status, whole.status);
        }
    }
    Ok(whole.with(qe))
}

/// The first level that a platform reaches with its SGX components alone.
pub(super) fn sgx_level<'a>(info: &'a TcbInfo, platform: &SgxExtension) -> Option<&'a Level<PlatformTcb>> {
    info.tcb_levels.iter().find(|level| reaches_sgx(&level.tcb, platform))
}

/// The first level that it reaches with the components of TDX, too.
fn domain_level<'a>(info: &'a TcbInfo, platform: &SgxExtension, report: &TdReport) -> Option<&'a Level<PlatformTcb>> {
    // From version 1 on, the module's own versions are judged by its identity.
    let skip = if report.tee_tcb_svn[1] == 0 { 0 } else { 2 };
    let reaches = |tcb: &PlatformTcb| {
        let wanted = tcb.tdxtcbcomponents.as_ref();
        wanted.is_some_and(|wanted| at_least(&report.tee_tcb_svn[skip..], &wanted[skip..]))
    };
    info.tcb_levels.iter().find(|level| reaches_sgx(&level.tcb, platform) && reaches(&level.tcb))
}

fn reaches_sgx(tcb: &PlatformTcb, platform: &SgxExtension) -> bool {
    at_least(&platform.components, &tcb.sgxtcbcomponents) && platform.pce_svn >= tcb.pcesvn
}

fn at_least(seen: &[u8], wanted: &[Component]) -> bool {
    seen.len() == wanted.len() && seen.iter().zip(wanted).all(|(seen, wanted)| *seen >= wanted.svn)
}

/// TDX 1.5 reports the security versions of the launch and those of now. Where the launch alone was of an outdated module, the
/// domain has to be launched again, and the platform is fine (Intel's verification library, "TD relaunch check").
fn is_only_launch_outdated(
    info: &TcbInfo,
    report: &TdReport,
    sgx: TcbStatus,
    domain: TcbStatus,
    module: TcbStatus,
    qe: TcbStatus,
) -> bool {
    let outdated = [TcbStatus::OutOfDate, TcbStatus::OutOfDateConfigurationNeeded, TcbStatus::Revoked];
    let (Some(now), Some(latest)) = (&report.td15, info.tcb_levels.first()) else {
        return false;
    };
    let launch = !outdated.contains(&qe)
        && !outdated.contains(&sgx)
        && module == TcbStatus::OutOfDate
        && [TcbStatus::OutOfDate, TcbStatus::OutOfDateConfigurationNeeded].contains(&domain);
    let wanted = latest.tcb.tdxtcbcomponents.map(|components| components.map(|component| component.svn));
    let [svn, version, loader, ..] = now.tee_tcb_svn2;
    let module_svn = match version {
        0 => wanted.map(|wanted| u16::from(wanted[0])),
        _ => identity(info, version).and_then(|(_, levels)| levels.first()).map(|level| level.tcb.isvsvn),
    };
    let is_latest = module_svn.is_some_and(|latest| u16::from(svn) >= latest) && wanted.is_some_and(|wanted| loader >= wanted[2]);
    launch && is_latest
}

fn identity(info: &TcbInfo, version: u8) -> Option<(&ModuleSigner, &[Level<SoftwareTcb>])> {
    let id = format!("TDX_{version:02X}");
    let found = info.tdx_module_identities.iter().find(|identity| identity.id.eq_ignore_ascii_case(&id))?;
    Some((&found.signer, &found.tcb_levels))
}

fn require_signer(report: &TdReport, signer: &ModuleSigner) -> Result<(), ModuleError> {
    if report.mr_signer_seam != signer.mrsigner.0 {
        return Err(ModuleError::Signer { expected: hex::encode(signer.mrsigner.0), seen: hex::encode(report.mr_signer_seam) });
    }
    let seen = report.seam_attributes.to_le_bytes();
    if !signer.attributes.equals(&seen, &signer.attributes_mask) {
        let (expected, mask) = (hex::encode(signer.attributes.0), hex::encode(signer.attributes_mask.0));
        return Err(ModuleError::Attributes { expected, seen: hex::encode(seen), mask });
    }
    Ok(())
}

fn judged<T>(level: &Level<T>) -> Judged {
    Judged { status: level.tcb_status, date: level.tcb_date, advisories: level.advisories.clone() }
}

impl Judged {
    /// The whole of two parts: the worse status, the older date, the advisories of both.
    fn with(&self, part: &Self) -> Self {
        let mut advisories = self.advisories.clone();
        advisories.extend(part.advisories.iter().filter(|id| !self.advisories.contains(id)).cloned());
        Self { status: self.status.with(part.status), date: self.date.min(part.date), advisories }
    }
}

/// The same levels judge enclaves, whose quotes are refused here; a public vector says what comes out for one.
#[cfg(test)]
mod tests {
    use casemate_evidence::tdx::{Quote, TeeKind};

    use super::{
        super::{TdxPolicy, collateral::Unverified, documents::Hex, enclave, pck::VerifiedPlatform},
        TcbStatus, sgx_level,
    };
    use crate::{time::UnixTime, vectors, x509::Seen};

    #[test]
    #[ignore = "evidence of real machines: CASEMATE_VECTORS"]
    fn an_enclaves_platform_is_judged_as_the_public_vector_says() {
        let read = |name: &str| vectors::read(&format!("tdx/{name}"));
        let quote = Quote::decode(&read("sgx-v3.quote.bin")).unwrap();
        assert_eq!((quote.header.version, quote.header.tee), (3, TeeKind::Sgx));
        let now = UnixTime(1_750_420_800);
        let platform = VerifiedPlatform::verify(&quote.auth.pck_chain, &mut Seen::default(), &TdxPolicy::strict(), now).unwrap();
        let collateral = Unverified::decode(&read("sgx-v3.collateral.json"), &mut Seen::default()).unwrap();
        let (info, signer) = collateral.tcb_info.verify(&platform, None, now).unwrap();
        let (identity, _) = collateral.qe_identity.verify(&platform, Some(&signer), now).unwrap();
        assert_eq!((info.id.as_str(), identity.id.as_str()), ("SGX", "QE"));

        let vouched = enclave::vouched(&quote, &platform.key, &identity).ok().unwrap().value;
        enclave::signature(&quote, &vouched).ok().unwrap();
        let level = sgx_level(&info, &platform.extension).unwrap();
        let status = level.tcb_status.with(vouched.judged.status);
        assert_eq!(status, TcbStatus::ConfigurationAndSwHardeningNeeded);
        assert_eq!(level.advisories, ["INTEL-SA-00289", "INTEL-SA-00615"]);
    }

    #[test]
    fn a_masked_value_is_compared_where_the_mask_has_ones() {
        let (value, mask) = (Hex([0x11, 0xf0]), Hex([0xfb, 0x00]));
        assert!(value.equals(&[0x15, 0x0f], &mask));
        assert!(!value.equals(&[0x13, 0xf0], &mask));
    }
}
