//! Dropping everything that root has.

use rustix::{
    process::{Gid, Uid},
    thread::{CapabilitySet, CapabilitySets},
};

use super::{Attempt, Failure, spec::JailSpec};

/// User, groups, capabilities (bounding set too), and no way back by set-user-id programs.
pub(super) fn drop_all(spec: &JailSpec) -> Result<(), Failure> {
    if spec.uid == 0 {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput)).attempt("drop privileges to user 0");
    }
    clear_bounding_set()?;
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.uid));
    let groups: Vec<Gid> = spec.groups.iter().map(|group| Gid::from_raw(*group)).collect();
    rustix::thread::set_thread_groups(&groups).attempt("set groups")?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).attempt("set the group id")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).attempt("set the user id")?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .attempt("drop capabilities")?;
    rustix::thread::set_no_new_privs(true).attempt("set no_new_privs")
}

fn clear_bounding_set() -> Result<(), Failure> {
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => rustix::thread::remove_capability_from_bounding_set(capability)
                .attempt(format!("drop capability {bit} from the bounding set"))?,
            Ok(false) => {}
            // The kernel's last one is behind us.
            Err(_) => break,
        }
    }
    Ok(())
}
