//! QEMU's and swtpm's arguments. Pure; nothing secret is in them.

use std::path::Path;

use super::host::Accel;
use crate::{
    Demand, Plan,
    capabilities::SCRATCH,
    jail::{CONSOLE_FD, FIRST_FD},
    network::Mac,
};

/// Where things are inside of the jail.
pub(crate) mod inside {
    /// Guest memory.
    pub(crate) const RAM: &str = "/vm/ram";
    /// The kernel.
    pub(crate) const KERNEL: &str = "/vm/kernel";
    /// The initial RAM disk.
    pub(crate) const INITRD: &str = "/vm/initrd";
    /// The vTPM's state.
    pub(crate) const VTPM: &str = "/vtpm";
}

/// The VMM's descriptors, in the order in which they are handed over; after them come the read-only disks, then the
/// scratch disk, and the network's where there is one.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub(crate) enum VmmFd {
    /// Listening socket of the control protocol.
    Qmp = FIRST_FD,
    /// Listening socket of the guest channel.
    Guest = FIRST_FD + 1,
    /// Connection to the vTPM.
    Vtpm = FIRST_FD + 2,
    /// The first disk.
    Disks = FIRST_FD + 3,
}

/// Arguments of a machine that waits, after its start, to be told to run.
pub(crate) fn vmm(plan: &Plan, accel: Accel) -> Vec<String> {
    let mut args = Args::default();
    args.flags(&["-nodefaults", "-no-user-config", "-no-reboot", "-S"]);
    args.option("-display", "none");
    args.option("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    args.option("-M", "microvm,pit=off,pic=off,rtc=on,memory-backend=ram,dump-guest-core=off,mem-merge=off");
    match accel {
        Accel::Kvm => args.option("-accel", "kvm").option("-cpu", "host"),
        // AVX2 costs more under emulation than it saves.
        Accel::Tcg => args.option("-accel", format!("tcg,thread=multi,tb-size={TRANSLATION_MIB}")).option("-cpu", "max,-avx2"),
    };
    args.option("-smp", plan.cpus);
    args.option("-m", format!("{}M", plan.memory_mib));
    args.option(
        "-object",
        format!("memory-backend-file,id=ram,size={}M,mem-path={},share=on,prealloc=off", plan.memory_mib, inside::RAM),
    );
    args.option("-rtc", "base=utc");
    channels(&mut args);
    disks(&mut args, plan);
    if plan.demands.contains(&Demand::Network) {
        network(&mut args, plan);
    }
    args.option("-kernel", inside::KERNEL).option("-initrd", inside::INITRD);
    args.option("-append", plan.machine().map_or("", |machine| &machine.command_line));
    args.0
}

fn channels(args: &mut Args) {
    control_channels(args);
    vtpm_device(args);
    args.option("-device", "virtio-serial-device");
    args.option("-device", "virtserialport,chardev=guest,name=casemate.guest");
}

/// Console, control protocol and the host's end of the guest channel.
pub(crate) fn control_channels(args: &mut Args) {
    args.option("-add-fd", format!("fd={CONSOLE_FD},set={CONSOLE_FD}"));
    args.option("-chardev", format!("file,id=console,path=/dev/fdset/{CONSOLE_FD},append=on"));
    args.option("-serial", "chardev:console");
    args.option("-chardev", format!("socket,id=qmp,fd={},server=on,wait=off", VmmFd::Qmp as i32));
    args.option("-mon", "chardev=qmp,mode=control");
    args.option("-chardev", format!("socket,id=guest,fd={},server=on,wait=off", VmmFd::Guest as i32));
}

pub(crate) fn vtpm_device(args: &mut Args) {
    args.option("-chardev", format!("socket,id=tpm,fd={}", VmmFd::Vtpm as i32));
    args.option("-tpmdev", "emulator,id=tpm,chardev=tpm");
    args.option("-device", "tpm-tis,tpmdev=tpm");
}

fn disks(args: &mut Args, plan: &Plan) {
    let serials = plan.disks.iter().map(|disk| disk.serial.as_str()).chain([SCRATCH]);
    for (number, serial) in disk_backends(args, serials) {
        args.option("-device", format!("virtio-blk-device,drive=d{number},serial={serial}"));
    }
}

/// A card whose other side is the last descriptor; the jail has no device by which another one could be made.
fn network(args: &mut Args, plan: &Plan) {
    let number = VmmFd::Disks as usize + plan.disks.len() + 1;
    args.option("-netdev", format!("tap,id=net,fd={number},vhost=off"));
    args.option("-device", format!("virtio-net-device,netdev=net,mac={}", Mac::of(&plan.id)));
}

/// What is behind the disks: descriptors, in their order. Gives their numbers.
pub(crate) fn disk_backends<'a>(args: &mut Args, serials: impl Iterator<Item = &'a str>) -> Vec<(i32, &'a str)> {
    let numbered: Vec<(i32, &str)> = (VmmFd::Disks as i32..).zip(serials).collect();
    for (number, serial) in &numbered {
        // The scratch disk's key dies with the guest: what was not yet on the disk is never asked for.
        let access = if *serial == SCRATCH { "read-only=off,cache.no-flush=on,discard=unmap" } else { "read-only=on" };
        args.option("-add-fd", format!("fd={number},set={number}"));
        args.option(
            "-blockdev",
            format!(
                "driver=raw,node-name=d{number},{access},file.driver=file,file.filename=/dev/fdset/{number},file.locking=off"
            ),
        );
    }
    numbered
}

/// Serials in the order of the guest's device numbers.
pub(crate) fn guest_order(plan: &Plan) -> Vec<String> {
    plan.disks.iter().map(|disk| disk.serial.clone()).chain([SCRATCH.to_owned()]).collect()
}

/// Arguments of a vTPM process that serves the VMM over its first descriptor.
pub(crate) fn vtpm(state: &Path) -> Vec<String> {
    let mut args = vtpm_base(state, FIRST_FD);
    args.flags(&["--terminate"]);
    args.0
}

/// Arguments of a vTPM process to which the VMM connects, over a listening socket.
pub(crate) fn vtpm_listening(state: &Path) -> Vec<String> {
    let mut args = Args::default();
    args.flags(&["socket", "--tpm2"]);
    args.option("--tpmstate", format!("dir={}", state.display()));
    args.option("--ctrl", format!("type=unixio,fd={FIRST_FD}"));
    args.flags(&["--terminate"]);
    args.0
}

/// Arguments of a vTPM process that is started by itself and speaks over its second descriptor.
pub(crate) fn vtpm_provisioning(state: &Path) -> Vec<String> {
    let mut args = vtpm_base(state, FIRST_FD);
    args.option("--fd", FIRST_FD + 1);
    args.option("--flags", "not-need-init,startup-clear");
    args.flags(&["--terminate"]);
    args.0
}

fn vtpm_base(state: &Path, control: i32) -> Args {
    let mut args = Args::default();
    args.flags(&["socket", "--tpm2"]);
    args.option("--tpmstate", format!("dir={}", state.display()));
    args.option("--ctrl", format!("type=unixio,clientfd={control}"));
    args
}

/// Arguments in the making.
#[derive(Default)]
pub(crate) struct Args(pub(crate) Vec<String>);

impl Args {
    pub(crate) fn flags(&mut self, flags: &[&str]) -> &mut Self {
        self.0.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    pub(crate) fn option(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.0.extend([name.to_owned(), value.to_string()]);
        self
    }
}

/// Translated code that QEMU keeps under TCG.
pub(crate) const TRANSLATION_MIB: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, Isolation, MachineSystem, System};

    fn plan() -> Plan {
        Plan {
            id: "i-1".parse().unwrap(),
            isolation: Isolation::Microvm,
            demands: vec![Demand::Vtpm],
            system: System::Machine(MachineSystem {
                kernel: "/k".into(),
                initrd: "/i".into(),
                command_line: "console=ttyS0 a,b=c".to_owned(),
            }),
            disks: vec![Disk { serial: "root".to_owned(), path: "/r".into() }],
            cpus: 2,
            memory_mib: 512,
            scratch_mib: 64,
        }
    }

    #[test]
    fn disks_come_by_descriptor_and_only_scratch_is_writable() {
        let args = vmm(&plan(), Accel::Tcg);
        let drives: Vec<&String> = args.iter().filter(|arg| arg.starts_with("driver=raw")).collect();
        assert_eq!(drives.len(), 2);
        assert!(drives[0].contains("read-only=on") && drives[0].contains("/dev/fdset/7"));
        assert!(drives[1].contains("read-only=off") && drives[1].contains("/dev/fdset/8"));
        assert!(args.iter().any(|arg| arg == "virtio-blk-device,drive=d8,serial=scratch"));
        assert!(!args.iter().any(|arg| arg == "/r" || arg == "/k"), "host paths are not told to the VMM");
    }

    #[test]
    fn a_network_is_the_last_descriptor_and_there_only_where_it_is_asked_for() {
        assert!(!vmm(&plan(), Accel::Tcg).iter().any(|arg| arg.contains("net")));
        let args = vmm(&Plan { demands: vec![Demand::Vtpm, Demand::Network], ..plan() }, Accel::Tcg);
        assert!(args.iter().any(|arg| arg == "tap,id=net,fd=9,vhost=off"), "{args:?}");
        assert!(args.iter().any(|arg| arg.starts_with("virtio-net-device,netdev=net,mac=02:")), "{args:?}");
    }

    #[test]
    fn every_machine_is_sandboxed_and_starts_paused() {
        for accel in [Accel::Tcg, Accel::Kvm] {
            let args = vmm(&plan(), accel);
            assert!(args.iter().any(|arg| arg == "-S"));
            assert!(args.iter().any(|arg| arg.starts_with("on,obsolete=deny,elevateprivileges=deny,spawn=deny")));
            assert!(args.windows(2).any(|pair| pair[0] == "-append" && pair[1] == "console=ttyS0 a,b=c"));
        }
    }
}
