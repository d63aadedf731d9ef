//! Landlock rules of our own, under which a program may put further ones: what it may do with what the jail shows it.
//!
//! The mounts say most of this already. What only the rules say: no links, devices, pipes or folders are made where the program may
//! write; no TCP port is bound or connected to; no signal and no abstract socket leads out.
//!
//! Source: Linux, `Documentation/userspace-api/landlock.rst`.

use std::io;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

use super::{
    Attempt, Failure,
    spec::{Access, JailSpec},
};

/// Puts the calling process, and what it executes, under the rules, as far as the kernel knows them; `no_new_privs` must be set. The
/// version of Landlock that they are in force by, 0 on a kernel without.
pub(super) fn apply(spec: &JailSpec) -> Result<u32, Failure> {
    let status = restrict(spec).map_err(io::Error::other).attempt("apply the rules of Landlock")?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) | (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => 0,
        (_, LandlockStatus::Available { effective_abi, .. }) => effective_abi.min(KNOWN) as u32,
    })
}

fn restrict(spec: &JailSpec) -> Result<landlock::RestrictionStatus, Box<dyn std::error::Error + Send + Sync>> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    for mount in &spec.mounts {
        // Where a link leads is shown by another mount, or not at all.
        if !mount.target.symlink_metadata()?.is_symlink() {
            rules = rules.add_rule(PathBeneath::new(PathFd::new(&mount.target)?, rights(mount.access)))?;
        }
    }
    Ok(rules.restrict_self()?)
}

fn rights(access: Access) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    match access {
        Access::ReadOnly => read | AccessFs::Execute,
        Access::ReadWrite => {
            let files = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
            read | files | AccessFs::MakeSock
        }
        Access::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
    }
}

/// The last version that brought rights which are handled here. A later one is asked for no more: what it adds (who may be connected to
/// by the name of a socket) was not tried.
const KNOWN: ABI = ABI::V6;
