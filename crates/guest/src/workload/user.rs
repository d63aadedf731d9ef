//! Who the process runs as: the image's `USER`, resolved from the image's own files.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Option<String>,
}

impl Identity {
    /// Makes an empty directory this user's, readable for all.
    pub(crate) fn take_directory(&self, dir: &Path) -> io::Result<()> {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        chown(dir, Some(self.uid), Some(self.gid))
    }
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    #[error("read {file} of the image")]
    Read {
        file: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the image has no user {0:?} in /etc/passwd")]
    NoUser(String),
    #[error("the image has no group {0:?} in /etc/group")]
    NoGroup(String),
    #[error("user {0:?} is not uid, uid:gid, name or name:group")]
    Malformed(String),
}

/// Resolves `user` in the root file system at `root`; links inside it cannot lead out of it.
pub(crate) fn resolve_in(root: &Path, user: &str) -> Result<Identity, UserError> {
    resolve(user, &read(root, "/etc/passwd")?, &read(root, "/etc/group")?)
}

/// Resolves `user`: `""`, `uid`, `uid:gid`, `name`, `name:group` and mixtures, as container engines do.
pub(crate) fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let (name, group_name) = match user.split_once(':') {
        Some((_, "")) => return Err(UserError::Malformed(user.into())),
        Some((name, group_name)) => (name, Some(group_name)),
        None => (user, None),
    };
    // No user in the image's configuration means 0.
    let name = if user.is_empty() { "0" } else { name };
    let entry = passwd_entry(name, passwd);
    let uid = match (&entry, parse_id(name)) {
        (Some(entry), _) => entry.uid,
        (None, Some(uid)) => uid,
        (None, None) => return Err(UserError::NoUser(name.into())),
    };
    let (gid, groups) = match group_name {
        Some(group_name) => (group_id(group_name, group)?, Vec::new()),
        None => (entry.as_ref().map_or(0, |entry| entry.gid), memberships(&entry, group)),
    };
    Ok(Identity { uid, gid, groups, home: entry.map(|entry| entry.home.to_owned()).filter(|home| home.starts_with('/')) })
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A name wins over a number, like elsewhere.
fn passwd_entry<'a>(name: &str, passwd: &'a str) -> Option<Entry<'a>> {
    let entries = || passwd.lines().take(MAX_LINES).filter_map(parse_entry);
    entries().find(|entry| entry.name == name).or_else(|| {
        let uid = parse_id(name)?;
        entries().find(|entry| entry.uid == uid)
    })
}

fn parse_entry(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    let (uid, gid) = (parse_id(fields.nth(1)?)?, parse_id(fields.next()?)?);
    Some(Entry { name, uid, gid, home: fields.nth(1)? })
}

fn group_id(name: &str, group: &str) -> Result<u32, UserError> {
    let named = group_lines(group).find(|(found, ..)| *found == name).map(|(_, gid, _)| gid);
    named.or_else(|| parse_id(name)).ok_or_else(|| UserError::NoGroup(name.into()))
}

fn memberships(entry: &Option<Entry<'_>>, group: &str) -> Vec<u32> {
    let Some(entry) = entry else { return Vec::new() };
    let member = |members: &str| members.split(',').any(|member| member == entry.name);
    group_lines(group).filter(|(.., members)| member(members)).map(|(_, gid, _)| gid).take(MAX_GROUPS).collect()
}

fn group_lines(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().take(MAX_LINES).filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        Some((name, parse_id(fields.nth(1)?)?, fields.next().unwrap_or("")))
    })
}

/// The last number means "unchanged" to the kernel, so nobody has it.
fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|id| *id != u32::MAX)
}

/// An image without the file has no names.
fn read(at: &Path, file: &'static str) -> Result<String, UserError> {
    let failed = |source: io::Error| UserError::Read { file, source };
    let root = File::open(at).map_err(failed)?;
    // Non-blocking: the image may have a pipe in this place.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = match openat2(&root, file, flags, Mode::empty(), inside) {
        // Kernels in user space do not know the call. Where this process's own root is the image no link leads out of it.
        Err(rustix::io::Errno::NOSYS) if at == Path::new("/") => open(file, flags, Mode::empty()),
        found => found,
    };
    let fd = match found {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        result => result.map_err(|error| failed(error.into()))?,
    };
    let file = File::from(fd);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

const MAX_FILE: u64 = 1 << 20;
const MAX_LINES: usize = 20_000;
const MAX_GROUPS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:1:1::/:\napp:x:1000:1001:App:/home/app:/bin/sh\n7:x:70:71::rel:\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:bob,app\napp:x:1001:\naudio:x:29:app\nbad:x:-1:app\n";

    fn ids(user: &str) -> (u32, u32, Vec<u32>) {
        let identity = resolve(user, PASSWD, GROUP).unwrap();
        (identity.uid, identity.gid, identity.groups)
    }

    #[test]
    fn resolves_all_forms() {
        assert_eq!(ids(""), (0, 0, vec![]));
        assert_eq!(ids("app"), (1000, 1001, vec![50, 29]));
        assert_eq!(ids("1000"), (1000, 1001, vec![50, 29]));
        assert_eq!(ids("app:staff"), (1000, 50, vec![]));
        assert_eq!(ids("app:77"), (1000, 77, vec![]));
        assert_eq!(ids("65534"), (65534, 0, vec![]));
        assert_eq!(ids("65534:65533"), (65534, 65533, vec![]));
        assert_eq!(ids("7"), (70, 71, vec![]), "a name wins over a number");
        assert_eq!(resolve("app", PASSWD, GROUP).unwrap().home.as_deref(), Some("/home/app"));
        assert_eq!(resolve("7", PASSWD, GROUP).unwrap().home, None, "a relative home is none");
    }

    #[test]
    fn refuses_what_it_cannot_resolve() {
        assert!(matches!(resolve("ghost", PASSWD, GROUP), Err(UserError::NoUser(_))));
        assert!(matches!(resolve("app:ghosts", PASSWD, GROUP), Err(UserError::NoGroup(_))));
        assert!(matches!(resolve("app:", PASSWD, GROUP), Err(UserError::Malformed(_))));
        assert!(matches!(resolve(":5", PASSWD, GROUP), Err(UserError::NoUser(_))));
        assert!(matches!(resolve("4294967295", "", ""), Err(UserError::NoUser(_))));
        assert!(matches!(resolve("+5", "", ""), Err(UserError::NoUser(_))));
    }

    #[test]
    fn a_link_in_the_image_cannot_lead_out_of_it() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("passwd"), "evil:x:5:5::/:\n").unwrap();
        let image = tempfile::tempdir().unwrap();
        std::fs::create_dir(image.path().join("etc")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("passwd"), image.path().join("etc/passwd")).unwrap();
        assert!(matches!(resolve_in(image.path(), "evil"), Err(UserError::NoUser(_))));
    }
}
