//! What is said of processor and GPUs: submodules of the result, with the roots that vouch for them.

use crate::{
    checks::Appraised,
    gpu::GpuClaims,
    result::{Anchor, Kind, Silicon, Submodule, Tier, TrustVector, claim},
    snp::{Generation, SnpClaims, VerifiedSnp},
    tdx::{TdxClaims, VerifiedTdx},
    time::UnixTime,
};

/// A guest in SEV-SNP.
pub(crate) fn snp(appraised: &Appraised<VerifiedSnp, SnpClaims>) -> Submodule {
    let simulated = appraised.claims().is_some_and(|claims| claims.simulated);
    let assured = appraised.claims().is_some_and(|claims| claims.integrity_assured);
    let hardware = match (simulated, assured) {
        (true, _) => claim::NONE,
        (false, true) => claim::GENUINE_HARDWARE,
        (false, false) => claim::CONTRAINDICATED_HARDWARE,
    };
    let mut submodule = Submodule::of(Kind::SnpGuest, appraised, guest_trust(hardware));
    submodule.simulated = simulated;
    if let Some(verified) = appraised.verified() {
        let generation = generation_name(verified.generation());
        submodule.anchors.push(Anchor {
            kind: "amd-root".to_owned(),
            subject: format!("ARK of generation {generation}"),
            fingerprint: hex::encode(verified.root_fingerprint()),
            simulated,
            proved: "launch measurement, workload digest, and that the guest's memory is encrypted by this processor".to_owned(),
        });
        let trust = if verified.generation() == Generation::Milan { Tier::Contraindicated } else { Tier::Affirming };
        submodule.silicon = Some(Silicon { generation: generation.to_owned(), trust });
    }
    submodule
}

/// A guest in TDX.
pub(crate) fn tdx(appraised: &Appraised<VerifiedTdx, TdxClaims>, now: UnixTime) -> Submodule {
    let platform = appraised.claims().and_then(|claims| claims.platform.as_ref());
    let simulated = platform.is_some_and(|platform| platform.simulated);
    let hardware = if simulated { claim::NONE } else { claim::GENUINE_HARDWARE };
    let mut submodule = Submodule::of(Kind::TdxGuest, appraised, guest_trust(hardware));
    submodule.simulated = simulated;
    if let Some(verified) = appraised.verified() {
        submodule.anchors.push(Anchor {
            kind: "intel-root".to_owned(),
            subject: verified.platform().root_subject().to_owned(),
            fingerprint: hex::encode(verified.platform().root_fingerprint()),
            simulated,
            proved: "measurements of the trust domain, workload digest, and that its memory is encrypted by this processor"
                .to_owned(),
        });
        submodule.tcb_age_s = Some(now.0.saturating_sub(verified.tcb().date.0));
        let generation = hex::encode(verified.platform().fmspc());
        submodule.silicon = Some(Silicon { generation, trust: Tier::Affirming });
    }
    submodule
}

/// A GPU or switch. Of the memory's opacity nothing is claimed: it is behind a firewall, and not encrypted.
pub(crate) fn gpu(claims: &GpuClaims, verified: bool) -> Submodule {
    let trust = TrustVector {
        instance_identity: claim::TRUSTWORTHY_INSTANCE,
        configuration: claim::APPROVED_CONFIGURATION,
        executables: claim::APPROVED_BOOT,
        hardware: if claims.simulated { claim::NONE } else { claim::GENUINE_HARDWARE },
        ..TrustVector::default()
    };
    let mut submodule = Submodule::judged(Kind::Gpu, verified, true, trust);
    submodule.claims = serde_json::to_value(claims).expect("claims are plain data");
    submodule.simulated = claims.simulated;
    if verified {
        submodule.anchors.push(Anchor {
            kind: "nvidia-root".to_owned(),
            subject: "root of the device's certificates".to_owned(),
            fingerprint: claims.root.clone(),
            simulated: claims.simulated,
            proved: "GPUs and switches, their firmware and driver, and that they answered this processor's evidence".to_owned(),
        });
        submodule.silicon =
            gpu_family(&claims.model).map(|family| Silicon { generation: family.to_owned(), trust: Tier::Affirming });
    }
    submodule
}

pub(super) fn generation_name(generation: Generation) -> &'static str {
    match generation {
        Generation::Milan => "milan",
        Generation::Genoa => "genoa",
        Generation::Turin => "turin",
    }
}

/// NVIDIA's name of the generation that a chip is of.
pub(super) fn gpu_family(model: &str) -> Option<&'static str> {
    match model {
        "GH100" => Some("hopper"),
        "GB100" => Some("blackwell"),
        _ => None,
    }
}

fn guest_trust(hardware: i8) -> TrustVector {
    TrustVector {
        instance_identity: claim::TRUSTWORTHY_INSTANCE,
        configuration: claim::APPROVED_CONFIGURATION,
        executables: claim::APPROVED_BOOT,
        hardware,
        runtime_opaque: claim::ENCRYPTED_MEMORY,
        ..TrustVector::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_genuine_device_everything_but_opacity_is_claimed() {
        let claims = GpuClaims { model: "GB100".to_owned(), ..GpuClaims::default() };
        let genuine = gpu(&claims, true);
        let trust = TrustVector {
            instance_identity: claim::TRUSTWORTHY_INSTANCE,
            configuration: claim::APPROVED_CONFIGURATION,
            executables: claim::APPROVED_BOOT,
            hardware: claim::GENUINE_HARDWARE,
            ..TrustVector::default()
        };
        assert_eq!((&genuine.trust, genuine.trust.runtime_opaque), (&trust, 0));
        assert_eq!(genuine.silicon.unwrap().generation, "blackwell");
        // A simulated one claims the same of itself, and nothing of hardware.
        let simulated = gpu(&GpuClaims { simulated: true, ..claims }, true);
        assert_eq!(simulated.trust, TrustVector { hardware: claim::NONE, ..trust });
    }

    #[test]
    fn all_that_hardware_shows_of_a_guest_is_claimed_and_nothing_more() {
        let expected = [
            claim::TRUSTWORTHY_INSTANCE,
            claim::APPROVED_CONFIGURATION,
            claim::APPROVED_BOOT,
            claim::NONE,
            claim::GENUINE_HARDWARE,
            claim::ENCRYPTED_MEMORY,
            claim::NONE,
            claim::NONE,
        ];
        assert_eq!(guest_trust(claim::GENUINE_HARDWARE).claims().map(|(_, claim)| claim), expected);
    }
}
