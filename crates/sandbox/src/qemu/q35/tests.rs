//! Every argument.

use super::*;
use crate::{Demand, Disk, Isolation, MachineSystem, System};

fn plan() -> Plan {
    Plan {
        id: "i-1".parse().unwrap(),
        isolation: Isolation::Confidential,
        demands: vec![Demand::SevSnp],
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

fn snp(smt: Smt) -> SevSnp {
    SevSnp { host_data: [0xab; 32], cpu: SnpCpu::Genoa, smt, c_bit: 51, reduced_address_bits: 1 }
}

/// Pairs of option and value, so that a difference is readable.
fn lines(protection: Protection) -> Vec<String> {
    let args = arguments(&plan(), &Q35 { protection });
    let mut lines: Vec<String> = Vec::new();
    for arg in args {
        match lines.last_mut() {
            Some(last) if !arg.starts_with('-') => last.push_str(&format!(" {arg}")),
            _ => lines.push(arg),
        }
    }
    lines
}

#[test]
fn an_snp_guest_is_started_exactly_so() {
    let expected = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-S",
        "-display none",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-accel kvm",
        "-M q35,smm=off,vmport=off,i8042=off,usb=off,graphics=off,memory-backend=ram,dump-guest-core=off,mem-merge=off,\
         confidential-guest-support=guest",
        "-cpu EPYC-Genoa",
        "-smp 2",
        "-m 512M",
        "-object memory-backend-memfd,id=ram,size=512M,share=on,prealloc=off",
        "-object sev-snp-guest,id=guest,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on,\
         host-data=q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=",
        "-bios /vm/firmware",
        "-rtc base=utc",
        "-add-fd fd=3,set=3",
        "-chardev file,id=console,path=/dev/fdset/3,append=on",
        "-serial chardev:console",
        "-chardev socket,id=qmp,fd=4,server=on,wait=off",
        "-mon chardev=qmp,mode=control",
        "-chardev socket,id=guest,fd=5,server=on,wait=off",
        "-device virtio-serial-pci,disable-legacy=on,iommu_platform=on",
        "-device virtserialport,chardev=guest,name=casemate.guest",
        "-add-fd fd=7,set=7",
        "-blockdev driver=raw,node-name=d7,read-only=on,file.driver=file,file.filename=/dev/fdset/7,file.locking=off",
        "-add-fd fd=8,set=8",
        "-blockdev driver=raw,node-name=d8,read-only=off,cache.no-flush=on,discard=unmap,file.driver=file,\
         file.filename=/dev/fdset/8,file.locking=off",
        "-device virtio-blk-pci,drive=d7,serial=root,disable-legacy=on,iommu_platform=on",
        "-device virtio-blk-pci,drive=d8,serial=scratch,disable-legacy=on,iommu_platform=on",
        "-kernel /vm/kernel",
        "-initrd /vm/initrd",
        "-append console=ttyS0 a,b=c",
    ];
    assert_eq!(lines(Protection::SevSnp(snp(Smt::Allowed))), expected);
    assert_eq!(snp(Smt::Forbidden).policy(), 0x20000, "no debugging, no migration, no shared cores");
}

#[test]
fn a_tdx_guest_differs_in_machine_processor_and_object() {
    let snp_lines = lines(Protection::SevSnp(snp(Smt::Allowed)));
    let tdx_lines = lines(Protection::Tdx(Tdx::for_workload([0xab; 32])));
    let own: Vec<&String> = tdx_lines.iter().filter(|line| !snp_lines.contains(line)).collect();
    let expected = [
        "-M q35,smm=off,vmport=off,i8042=off,usb=off,graphics=off,memory-backend=ram,dump-guest-core=off,mem-merge=off,\
         kernel-irqchip=split,confidential-guest-support=guest",
        "-cpu host",
        "-object tdx-guest,id=guest,mrconfigid=q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6sAAAAAAAAAAAAAAAAAAAAA",
    ];
    assert_eq!(own, expected);
    assert_eq!(tdx_lines.len(), snp_lines.len());
}

#[test]
fn only_an_unprotected_machine_has_a_tpm_of_its_host_and_memory_in_a_file() {
    let has = |lines: &[String], word: &str| lines.iter().any(|line| line.contains(word));
    let plain = lines(Protection::None);
    assert!(has(&plain, "tpm-tis") && has(&plain, "memory-backend-file") && has(&plain, "-cpu host"));
    assert!(!has(&plain, "confidential-guest-support"));
    for protection in [Protection::SevSnp(snp(Smt::Allowed)), Protection::Tdx(Tdx::for_workload([1; 32]))] {
        let lines = lines(protection);
        assert!(!has(&lines, "tpm") && !has(&lines, "memory-backend-file"));
        assert!(has(&lines, "confidential-guest-support=guest"));
    }
}

/// With emulation instead of KVM and sockets by name; nothing boots. It must come to the point where it waits to be told to run.
#[test]
fn the_installed_qemu_takes_an_unprotected_machine() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    std::fs::File::create(at("ram")).unwrap().set_len(512 << 20).unwrap();
    std::fs::write(at("disk"), [0; 4096]).unwrap();
    let args = arguments(&plan(), &Q35 { protection: Protection::None });
    let mut command = std::process::Command::new("bash");
    // The shell opens what a jail hands over.
    let script = r#"exec 3>"$0/console" 7<"$0/disk" 8<>"$0/disk"; exec qemu-system-x86_64 "$@""#;
    command.args(["-c", script]).arg(directory.path());
    let mut args = args.into_iter().peekable();
    while let Some(option) = args.next() {
        let value = args.next_if(|value| !value.starts_with('-')).unwrap_or_default();
        let value = match option.as_str() {
            "-kernel" | "-initrd" | "-append" | "-tpmdev" => continue,
            "-device" | "-chardev" if value.contains("tpm") => continue,
            "-accel" => "tcg".to_owned(),
            "-cpu" => "max".to_owned(),
            "-bios" => "/usr/share/ovmf/OVMF.fd".to_owned(),
            _ => value.replace(inside::RAM, &at("ram")).replace("fd=4,server", &format!("path={},server", at("qmp"))),
        };
        let value = value.replace("fd=5,server", &format!("path={},server", at("guest")));
        command.arg(option).args(Some(value).filter(|value| !value.is_empty()));
    }
    let mut machine = command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").spawn().unwrap();
    let waits = std::iter::repeat_with(|| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        crate::qemu::qmp::Qmp::connect(at("qmp").as_ref(), std::time::Duration::from_secs(60)).ok()
    });
    let status = waits.take(1200).flatten().next().and_then(|mut qmp| qmp.execute("query-status").ok());
    let _ = machine.kill();
    let _ = machine.wait();
    assert_eq!(status.expect("it came to wait; hint: install qemu-system-x86 and ovmf")["status"], "prelaunch");
}
