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

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::{TcpListener, TcpStream},
        os::{
            linux::net::SocketAddrExt as _,
            unix::net::{SocketAddr, UnixListener, UnixStream},
        },
        path::Path,
        process::Command,
        thread,
    };

    use rustix::process::{Pid, test_kill_process};

    use super::*;
    use crate::jail::spec::{JailMount, Mode};

    fn spec(mounts: &[(&Path, Access)]) -> JailSpec {
        let mount = |(path, access): &(&Path, Access)| JailMount { source: path.into(), target: path.into(), access: *access };
        JailSpec {
            program: "/none".into(),
            args: Vec::new(),
            uid: 1,
            groups: Vec::new(),
            root: "/none".into(),
            mounts: mounts.iter().map(mount).collect(),
            file_size_limit: 0,
            mode: Mode::Become,
            cpus: Vec::new(),
        }
    }

    fn is_refused<T>(outcome: io::Result<T>) -> bool {
        outcome.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    }

    #[test]
    fn a_thread_under_the_rules_has_its_files_for_what_they_are_for_and_reaches_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let [given, shown, other] = ["given", "shown", "other"].map(|name| folder.path().join(name));
        for path in [&given, &shown, &other] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("file"), "x").unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = SocketAddr::from_abstract_name(folder.path().as_os_str().as_encoded_bytes()).unwrap();
        let _heard = UnixListener::bind_addr(&name).unwrap();
        let mut neighbour = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_child(&neighbour);
        let reach = listener.local_addr().unwrap();
        // The rules end with the thread.
        let asked = thread::spawn(move || {
            assert!(
                TcpStream::connect(reach).is_ok() && UnixStream::connect_addr(&name).is_ok() && test_kill_process(pid).is_ok()
            );
            rustix::thread::set_no_new_privs(true).unwrap();
            let version = apply(&spec(&[(&given, Access::ReadWrite), (&shown, Access::ReadOnly)])).unwrap();
            if version == 0 {
                return;
            }
            fs::write(given.join("new"), "x").unwrap();
            fs::remove_file(given.join("new")).unwrap();
            assert_eq!(fs::read(shown.join("file")).unwrap(), b"x");
            assert!(is_refused(fs::create_dir(given.join("folder"))));
            assert!(is_refused(std::os::unix::fs::symlink("/", given.join("link"))));
            assert!(is_refused(fs::write(shown.join("file"), "y")));
            assert!(is_refused(fs::read(other.join("file"))));
            if version >= 4 {
                assert!(is_refused(TcpStream::connect(reach)));
                assert!(is_refused(TcpListener::bind("127.0.0.1:0")));
            }
            if version >= 6 {
                assert!(is_refused(UnixStream::connect_addr(&name)));
                assert!(is_refused(test_kill_process(pid).map_err(Into::into)));
            }
        });
        let asked = asked.join();
        neighbour.kill().unwrap();
        neighbour.wait().unwrap();
        asked.unwrap();
    }
}
