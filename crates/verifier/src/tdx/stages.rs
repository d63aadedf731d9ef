//! The stages of an appraisal, in order.

use std::sync::Arc;

use casemate_evidence::tdx::{Body, Quote, QuoteError, TdReport};

use super::{
    Collateral, Endorsements, Expectation, PlatformClaims, TDX_CHECKS, TcbClaims, TcbStatus, TdxClaims, TdxPolicy,
    VerifiedCollateral, VerifiedPlatform, VerifiedTdx,
    collateral::{CollateralError, SignedError, Signer, Unverified},
    documents::{QeIdentity, TcbInfo},
    domain, enclave,
    extension::SgxExtension,
    pck::PckError,
    revocation::{Lists, RevocationError},
    tcb::{Judged, Module, ModuleError, TcbError, evaluate},
    window::Window,
};
use crate::{
    checks::{Appraised, CheckName, Finding, Ledger, Stop},
    time::UnixTime,
    x509::Seen,
};

pub(super) struct Inputs<'a> {
    pub(super) event_log: Option<&'a [u8]>,
    pub(super) endorsements: &'a Endorsements<'a>,
    pub(super) policy: &'a TdxPolicy,
    pub(super) expectation: &'a Expectation<'a>,
    pub(super) now: UnixTime,
}

pub(super) struct Appraisal<'a> {
    inputs: Inputs<'a>,
    ledger: Ledger,
    claims: Option<TdxClaims>,
}

/// Collateral, with signatures verified or still to be.
enum Source<'a> {
    Fresh(Box<Unverified>),
    Kept(&'a Arc<VerifiedCollateral>),
}

/// Collateral of which every part was verified.
struct Parts {
    lists: Arc<Lists>,
    tcb_info: Arc<TcbInfo>,
    qe_identity: Arc<QeIdentity>,
}

/// TCB info, and who signed it where that was verified just now.
struct SignedInfo {
    tcb_info: Arc<TcbInfo>,
    signer: Option<Signer>,
}

impl<'a> Appraisal<'a> {
    pub(super) fn new(inputs: Inputs<'a>) -> Self {
        Self { inputs, ledger: Ledger::new(TDX_CHECKS), claims: None }
    }

    pub(super) fn run(mut self, quote: &[u8]) -> Appraised<VerifiedTdx, TdxClaims> {
        let found = self.stages(quote);
        Appraised::close(self.ledger, self.claims, found)
    }

    fn stages(&mut self, bytes: &[u8]) -> Result<VerifiedTdx, Stop> {
        let quote = self.ledger.enter(CheckName::TdxFormat, decode(bytes))?;
        let report = self.ledger.enter(CheckName::TdxKind, trust_domain(&quote))?;
        self.claims = Some(TdxClaims::of(&quote, &report, self.warnings()));
        let (source, platform) = self.open(&quote)?;
        let parts = self.collateral(&source, &platform)?;
        let vouched = enclave::vouched(&quote, &platform.key, &parts.qe_identity);
        let vouched = self.ledger.enter(CheckName::TdxQeReport, vouched)?;
        self.ledger.enter(CheckName::TdxSignature, enclave::signature(&quote, &vouched))?;
        let tcb = self.tcb(&report, &parts.tcb_info, &platform.extension, &vouched.judged)?;
        self.domain(&report)?;
        let collateral = match source {
            Source::Kept(collateral) => Arc::clone(collateral),
            Source::Fresh(unverified) => Arc::new(kept(&unverified, &platform, parts)),
        };
        Ok(VerifiedTdx { report, tcb, platform, collateral })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.inputs.expectation.warnings();
        if self.inputs.policy.danger_allow_debug {
            warnings.push("the policy accepts domains that the host may read".to_owned());
        }
        if self.inputs.policy.danger_allow_sept_ve {
            warnings.push("the policy accepts domains into which the host may inject exceptions".to_owned());
        }
        warnings
    }

    fn open(&mut self, quote: &Quote) -> Result<(Source<'a>, Arc<VerifiedPlatform>), Stop> {
        let (policy, now) = (self.inputs.policy, self.inputs.now);
        let mut seen = Seen::default();
        let source =
            self.ledger.enter(CheckName::TdxCollateral, Source::open(self.inputs.endorsements.collateral, &mut seen, now))?;
        let kept = self.inputs.endorsements.platform.filter(|platform| platform.is_of(&quote.auth.pck_chain));
        let platform = platform(kept, &quote.auth.pck_chain, &mut seen, policy, now);
        let platform = self.ledger.enter(CheckName::TdxPckChain, platform)?;
        if let Some(claims) = &mut self.claims {
            claims.platform = Some(PlatformClaims::of(&platform));
            if platform.is_simulated() {
                claims.warnings.push("simulated: a root that is not Intel's; it proves nothing about real hardware".to_owned());
            }
        }
        Ok((source, platform))
    }

    fn collateral(&mut self, source: &Source<'_>, platform: &VerifiedPlatform) -> Result<Parts, Stop> {
        let (policy, now) = (self.inputs.policy, self.inputs.now);
        let lists = self.ledger.enter(CheckName::TdxRevocation, source.lists(platform, now))?;
        let info = source.tcb_info(platform, policy, now);
        let SignedInfo { tcb_info, signer } = self.ledger.enter(CheckName::TdxTcbInfo, info)?;
        let identity = source.qe_identity(platform, signer.as_ref(), policy, now);
        let qe_identity = self.ledger.enter(CheckName::TdxQeIdentity, identity)?;
        Ok(Parts { lists, tcb_info, qe_identity })
    }

    fn tcb(&mut self, report: &TdReport, info: &TcbInfo, platform: &SgxExtension, qe: &Judged) -> Result<TcbClaims, Stop> {
        let module = self.ledger.enter(CheckName::TdxModule, module(report, info))?;
        let tcb = evaluate(info, platform, report, &module, qe).map(|whole| TcbClaims::of(&whole, &module, qe, info));
        if let (Some(claims), Ok(tcb)) = (&mut self.claims, &tcb) {
            claims.tcb = Some(tcb.clone());
        }
        self.ledger.enter(CheckName::TdxTcbStatus, tcb.and_then(|tcb| accepted(tcb, self.inputs.policy)))
    }

    fn domain(&mut self, report: &TdReport) -> Result<(), Stop> {
        let (policy, expectation) = (self.inputs.policy, self.inputs.expectation);
        self.ledger.enter(CheckName::TdxAttributes, domain::attributes(report.td_attributes, policy))?;
        self.ledger.enter(CheckName::TdxXfam, domain::xfam(report.xfam, policy))?;
        self.ledger.enter(CheckName::TdxMrtd, expectation.initial(report))?;
        self.ledger.enter(CheckName::TdxRtmr, expectation.run_time(report, self.inputs.event_log))?;
        self.ledger.enter(CheckName::TdxConfigId, expectation.configuration(report))?;
        self.ledger.enter(CheckName::TdxReportData, expectation.report_data(report))
    }
}

impl<'a> Source<'a> {
    fn open(collateral: Collateral<'a>, seen: &mut Seen, now: UnixTime) -> Result<Finding<Self>, CollateralError> {
        match collateral {
            Collateral::Missing => Err(CollateralError::Missing),
            Collateral::Json(json) => {
                let unverified = Unverified::decode(json, seen)?;
                Ok(Finding::new(Self::Fresh(Box::new(unverified)), "complete and well-formed"))
            }
            Collateral::Verified(kept) => {
                kept.require_current(now)?;
                Ok(Finding::new(Self::Kept(kept), format!("verified before, current until {}", kept.valid_until())))
            }
        }
    }

    fn lists(&self, platform: &VerifiedPlatform, now: UnixTime) -> Result<Finding<Arc<Lists>>, RevocationError> {
        let lists = match self {
            Self::Fresh(unverified) => Arc::new(Lists::verify(unverified, platform, now)?),
            Self::Kept(kept) => Arc::clone(&kept.lists),
        };
        lists.require_unrevoked(platform)?;
        let detail = lists.detail();
        Ok(Finding::new(lists, detail))
    }

    fn tcb_info(
        &self,
        platform: &VerifiedPlatform,
        policy: &TdxPolicy,
        now: UnixTime,
    ) -> Result<Finding<SignedInfo>, SignedError> {
        let signed = match self {
            Self::Fresh(unverified) => {
                let (tcb_info, signer) = unverified.tcb_info.verify(platform, None, now)?;
                SignedInfo { tcb_info, signer: Some(signer) }
            }
            Self::Kept(kept) => SignedInfo { tcb_info: Arc::clone(&kept.tcb_info), signer: None },
        };
        let info = &signed.tcb_info;
        require_form("TDX", TCB_INFO_VERSION, &info.id, info.version)?;
        if info.tcb_type != 0 {
            return Err(SignedError::Type(info.tcb_type));
        }
        let extension = &platform.extension;
        require_same("FMSPC", &extension.fmspc, &info.fmspc.0)?;
        require_same("PCE id", &extension.pce_id, &info.pce_id.0)?;
        require_evaluation(info.tcb_evaluation_data_number, policy)?;
        let (number, end) = (info.tcb_evaluation_data_number, info.next_update.0);
        Ok(Finding::new(signed, format!("evaluation {number}, until {end}")))
    }

    fn qe_identity(
        &self,
        platform: &VerifiedPlatform,
        signer: Option<&Signer>,
        policy: &TdxPolicy,
        now: UnixTime,
    ) -> Result<Finding<Arc<QeIdentity>>, SignedError> {
        let identity = match self {
            Self::Fresh(unverified) => unverified.qe_identity.verify(platform, signer, now)?.0,
            Self::Kept(kept) => Arc::clone(&kept.qe_identity),
        };
        require_form("TD_QE", QE_IDENTITY_VERSION, &identity.id, identity.version)?;
        require_evaluation(identity.tcb_evaluation_data_number, policy)?;
        let (number, end) = (identity.tcb_evaluation_data_number, identity.next_update.0);
        Ok(Finding::new(identity, format!("evaluation {number}, until {end}")))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it is a quote of an SGX enclave; a quote of a TDX trust domain is expected")]
struct KindError;

fn decode(bytes: &[u8]) -> Result<Finding<Quote>, QuoteError> {
    let quote = Quote::decode(bytes)?;
    let detail = format!("quote, version {}, {} bytes", quote.header.version, bytes.len());
    Ok(Finding::new(quote, detail))
}

fn trust_domain(quote: &Quote) -> Result<Finding<TdReport>, KindError> {
    match &quote.body {
        Body::TrustDomain(report) => {
            let version = if report.td15.is_some() { "1.5" } else { "1.0" };
            Ok(Finding::new(TdReport::clone(report), format!("trust domain, body of TDX {version}")))
        }
        Body::Enclave(_) => Err(KindError),
    }
}

fn platform(
    kept: Option<&Arc<VerifiedPlatform>>,
    pem: &[u8],
    seen: &mut Seen,
    policy: &TdxPolicy,
    now: UnixTime,
) -> Result<Finding<Arc<VerifiedPlatform>>, PckError> {
    let platform = match kept {
        Some(kept) => {
            kept.require_accepted(policy, now)?;
            Arc::clone(kept)
        }
        None => Arc::new(VerifiedPlatform::verify(pem, seen, policy, now)?),
    };
    Ok(platform.finding(Arc::clone(&platform)))
}

fn module(report: &TdReport, info: &TcbInfo) -> Result<Finding<Module>, ModuleError> {
    let module = Module::of(report, info)?;
    let status = module.judged.as_ref().map_or_else(|| "judged with the platform".to_owned(), |judged| judged.status.to_string());
    let detail = format!("Intel's TDX module of version {}, SVN {}, {status}", module.version, module.svn);
    Ok(Finding::new(module, detail))
}

fn accepted(tcb: TcbClaims, policy: &TdxPolicy) -> Result<Finding<TcbClaims>, TcbError> {
    let (seen, date) = (tcb.status, tcb.date);
    let concerning = if tcb.advisories.is_empty() { String::new() } else { format!("; {}", tcb.advisories.join(", ")) };
    if seen == TcbStatus::Revoked || !policy.accepted_tcb.contains(&seen) {
        let accepted = policy.accepted_tcb.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(TcbError::Status { seen, accepted, advisories: concerning });
    }
    Ok(Finding::new(tcb, format!("{seen}, as of {date}{concerning}")))
}

fn require_form(id: &'static str, version: u32, seen_id: &str, seen_version: u32) -> Result<(), SignedError> {
    if seen_version != version {
        return Err(SignedError::Version { expected: version, seen: seen_version });
    }
    if seen_id != id {
        return Err(SignedError::Id { expected: id, seen: seen_id.to_owned() });
    }
    Ok(())
}

fn require_same<const N: usize>(what: &'static str, expected: &[u8; N], seen: &[u8; N]) -> Result<(), SignedError> {
    if expected == seen {
        return Ok(());
    }
    Err(SignedError::Platform { what, expected: hex::encode(expected), seen: hex::encode(seen) })
}

fn require_evaluation(seen: u32, policy: &TdxPolicy) -> Result<(), SignedError> {
    if seen >= policy.min_tcb_evaluation {
        return Ok(());
    }
    Err(SignedError::Evaluation { expected: policy.min_tcb_evaluation, seen })
}

/// What was verified in this appraisal, to be kept.
fn kept(unverified: &Unverified, platform: &VerifiedPlatform, parts: Parts) -> VerifiedCollateral {
    let Parts { lists, tcb_info, qe_identity } = parts;
    let mut windows: Vec<Window> = lists.windows().into();
    windows.extend(unverified.tcb_info.windows());
    windows.extend(unverified.qe_identity.windows());
    windows.push(Window::of_certificate(&platform.intermediate));
    VerifiedCollateral { lists, tcb_info, qe_identity, windows }
}

const TCB_INFO_VERSION: u32 = 3;
const QE_IDENTITY_VERSION: u32 = 2;
