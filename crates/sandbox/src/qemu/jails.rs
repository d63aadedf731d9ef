//! Which jail the VMM and the vTPM get. Pure, but for looking which of the host's directories exist.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    Host,
    command::{self, inside},
    host::{Accel, KVM},
};
use crate::{
    Plan,
    api_vmm::Launch,
    jail::{Access, JailMount, JailSpec, LOG_LIMIT, Mode},
    layout::Places,
    process::Users,
    record::Record,
};

/// The jail of the VMM.
pub(crate) fn vmm(host: &Host, places: &Places, record: &Record, plan: &Plan, accel: Accel, file_size_limit: u64) -> JailSpec {
    let mut mounts = libraries(&host.program);
    mounts.extend(FIRMWARE.iter().filter_map(|path| existing(path)));
    mounts.push(mount(places.ram(), inside::RAM, Access::ReadWrite));
    mounts.push(mount(places.kernel(), inside::KERNEL, Access::ReadOnly));
    mounts.push(mount(places.initrd(), inside::INITRD, Access::ReadOnly));
    let mut groups = Vec::new();
    if accel == Accel::Kvm {
        mounts.push(mount(KVM.into(), KVM, Access::Device));
        groups.extend(std::fs::metadata(KVM).map(|metadata| metadata.gid()));
    }
    JailSpec {
        program: host.program.clone(),
        args: command::vmm(plan, accel),
        uid: users(host, record).vmm,
        groups,
        root: places.jail_root(),
        mounts,
        file_size_limit: file_size_limit.max(2 * LOG_LIMIT),
        mode: Mode::Supervise,
        cpus: plan.cpus_of_host().map(|cpus| cpus.numbers().collect()).unwrap_or_default(),
    }
}

/// The jail of a VMM with an API.
pub(crate) fn api_vmm(host: &Host, places: &Places, record: &Record, launch: Launch, file_size_limit: u64) -> JailSpec {
    let mut mounts = libraries(&host.program);
    mounts.extend(launch.mounts);
    let devices = mounts.iter().filter(|mount| mount.access == Access::Device);
    let groups = devices.filter_map(|device| std::fs::metadata(&device.source).ok()).map(|metadata| metadata.gid());
    let mut groups: Vec<u32> = groups.filter(|group| *group != 0).collect();
    groups.dedup();
    JailSpec {
        program: host.program.clone(),
        args: launch.args,
        uid: users(host, record).vmm,
        groups,
        root: places.jail_root(),
        mounts,
        file_size_limit: file_size_limit.max(2 * LOG_LIMIT),
        mode: Mode::Supervise,
        cpus: Vec::new(),
    }
}

/// The jail of the vTPM.
pub(crate) fn vtpm(host: &Host, swtpm: &Path, places: &Places, record: &Record, args: Vec<String>) -> JailSpec {
    let mut mounts = libraries(swtpm);
    mounts.push(mount(places.vtpm(), inside::VTPM, Access::ReadWrite));
    JailSpec {
        program: swtpm.to_owned(),
        args,
        uid: users(host, record).vtpm,
        groups: Vec::new(),
        root: places.jail_root(),
        mounts,
        file_size_limit: VTPM_FILE_LIMIT,
        mode: Mode::Become,
        cpus: Vec::new(),
    }
}

/// The users of an instance.
pub(crate) fn users(host: &Host, record: &Record) -> Users {
    Users::of(host.uid_base, record.slot.unwrap_or_default())
}

/// The program and what the dynamic linker may need for it.
fn libraries(program: &Path) -> Vec<JailMount> {
    let local: &[&str] = if program.starts_with("/usr/local") { &LOCAL } else { &[] };
    let mut mounts: Vec<JailMount> = LIBRARIES.iter().chain(local).filter_map(|path| existing(path)).collect();
    mounts.push(JailMount { source: program.to_owned(), target: program.to_owned(), access: Access::ReadOnly });
    mounts
}

fn existing(path: &str) -> Option<JailMount> {
    Path::new(path).symlink_metadata().is_ok().then(|| mount(path.into(), path, Access::ReadOnly))
}

fn mount(source: PathBuf, target: &str, access: Access) -> JailMount {
    JailMount { source, target: target.into(), access }
}

const LIBRARIES: [&str; 5] = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"];

/// For programs that the host's owner has built.
const LOCAL: [&str; 2] = ["/usr/local/lib", "/usr/local/share/qemu"];

/// Option ROMs and the machine's firmware (a link from the first to the second or third on some distributions).
const FIRMWARE: [&str; 3] = ["/usr/share/qemu", "/usr/share/seabios", "/usr/share/qboot"];

/// A vTPM's state is some ten kilobytes.
const VTPM_FILE_LIMIT: u64 = 16 << 20;
