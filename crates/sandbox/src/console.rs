//! From a console log and an exit status to the reason of an end. Pure.

use crate::{Exit, ExitCause, jail::Ended};

/// `serials` are those of the guest's disks in the order of their device numbers; the log may hold anything.
pub(crate) fn judge(log: &[u8], ended: Option<Ended>, serials: &[String]) -> Exit {
    let text = String::from_utf8_lossy(log);
    Exit { cause: cause(&text, ended, serials), console_tail: tail(&text) }
}

/// For VMMs whose exit code says nothing: they end with 0 after a failure of the hypervisor too, and some outlive their guest
/// until they are killed. So the guest must have said that it ends.
pub(crate) fn judge_words(log: &[u8], ended: Option<Ended>, serials: &[String]) -> Exit {
    let exit = judge(log, ended, serials);
    let text = String::from_utf8_lossy(log);
    let cause = match exit.cause {
        ExitCause::PoweredOff | ExitCause::Vmm(_) if let Some(line) = text.lines().find(|line| is_crash(line)) => {
            ExitCause::Vmm(format!("the hypervisor gave up: {}", clean(line, DETAIL_LIMIT)))
        }
        ExitCause::PoweredOff | ExitCause::Vmm(_) if ENDS.iter().any(|end| text.contains(end)) => ExitCause::PoweredOff,
        ExitCause::PoweredOff => ExitCause::Vmm("exit code 0, but the guest did not say that it ends".to_owned()),
        cause => cause,
    };
    Exit { cause, ..exit }
}

fn is_crash(line: &str) -> bool {
    CRASHES.iter().any(|crash| line.contains(crash))
}

fn cause(text: &str, ended: Option<Ended>, serials: &[String]) -> ExitCause {
    if let Some(line) = after(text, FATAL) {
        let (check, detail) = line.split_once(' ').unwrap_or((line, ""));
        return ExitCause::Guest { check: clean(check, CHECK_LIMIT), detail: clean(detail, DETAIL_LIMIT) };
    }
    if text.contains(VERITY_PANIC) {
        return verity(text, serials);
    }
    if let Some(reason) = after(text, PANIC) {
        return ExitCause::Panic(clean(reason, DETAIL_LIMIT));
    }
    match ended {
        Some(Ended::Code(0)) => ExitCause::PoweredOff,
        Some(Ended::Code(code)) => ExitCause::Vmm(format!("exit code {code}{}", complaint(text))),
        Some(Ended::Signal(signal)) => ExitCause::Vmm(format!("killed by signal {signal}")),
        None => ExitCause::Vmm("it ended, and how is not known".to_owned()),
    }
}

/// The kernel names the data device (`MAJOR:MINOR`) of the bad block; a virtio disk has 16 minors.
fn verity(text: &str, serials: &[String]) -> ExitCause {
    let complaint = text.lines().find(|line| line.contains("verity: ") && line.ends_with("is corrupted"));
    let device = complaint.and_then(|line| line.split("verity: ").nth(1)).and_then(|rest| rest.split(": ").next());
    let minor = device.and_then(|device| device.split_once(':')).and_then(|(_, minor)| minor.parse::<usize>().ok());
    let serial = minor.filter(|minor| minor % MINORS == 0).and_then(|minor| serials.get(minor / MINORS));
    let check = if serial.is_some_and(|serial| serial == "root") { "guest.root-verity" } else { "guest.layer-verity" };
    let what = complaint.and_then(|line| line.split("verity: ").nth(1)).unwrap_or(VERITY_PANIC);
    let whose = serial.map(|serial| format!("disk {serial}: ")).unwrap_or_default();
    ExitCause::Guest { check: check.to_owned(), detail: clean(&format!("{whose}{what}"), DETAIL_LIMIT) }
}

fn after<'a>(text: &'a str, marker: &str) -> Option<&'a str> {
    let begin = text.find(marker)? + marker.len();
    text.get(begin..)?.lines().next()
}

fn complaint(text: &str) -> String {
    let line = text.lines().rev().find_map(|line| line.split_once("qemu-system-x86_64: ")).map(|(_, complaint)| complaint);
    line.map(|line| format!(": {}", clean(line, DETAIL_LIMIT))).unwrap_or_default()
}

fn clean(text: &str, limit: usize) -> String {
    text.trim().chars().filter(|character| !character.is_control()).take(limit).collect()
}

fn tail(text: &str) -> String {
    let kept = |character: &char| *character == '\n' || !character.is_control();
    let mut begin = text.len().saturating_sub(TAIL_LIMIT);
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    text[begin..].chars().filter(kept).collect()
}

const FATAL: &str = "CASEMATE-FATAL ";

/// As the kernel says it with `panic_on_corruption`.
const VERITY_PANIC: &str = "dm-verity device corrupted";

const PANIC: &str = "Kernel panic - not syncing: ";

/// The last words of a kernel that ends as it was told.
const ENDS: [&str; 3] = ["reboot: Power down", "reboot: System halted", "reboot: Restarting system"];

/// What the monitors say when a virtual CPU cannot go on.
const CRASHES: [&str; 2] = ["Received KVM_EXIT_INTERNAL_ERROR", "VCPU generated error"];

/// Minor numbers of a virtio disk.
const MINORS: usize = 16;

/// Most characters of a check's name.
const CHECK_LIMIT: usize = 64;

/// Most characters of a detail.
const DETAIL_LIMIT: usize = 512;

/// Most bytes of the tail.
const TAIL_LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const OK: Option<Ended> = Some(Ended::Code(0));

    fn disks() -> Vec<String> {
        ["scratch", "root", "layer0"].map(str::to_owned).to_vec()
    }

    fn guest(check: &str, detail: &str) -> ExitCause {
        ExitCause::Guest { check: check.to_owned(), detail: detail.to_owned() }
    }

    #[test]
    fn a_fatal_line_names_the_check() {
        let log = b"[ 1.0] x\r\nCASEMATE-FATAL guest.tpm no device\r\n[ 2.0] reboot: Power down\r\n";
        assert_eq!(judge(log, OK, &disks()).cause, guest("guest.tpm", "no device"));
    }

    #[test]
    fn a_bad_block_names_the_disk() {
        let log = |device: &str| {
            format!(
                "[ 3.1] device-mapper: verity: {device}: data block 5 is corrupted\r\n\
                 [ 3.2] Kernel panic - not syncing: dm-verity device corrupted\r\n"
            )
        };
        let cause = |device| judge(log(device).as_bytes(), OK, &disks()).cause;
        assert_eq!(cause("254:16"), guest("guest.root-verity", "disk root: 254:16: data block 5 is corrupted"));
        assert_eq!(cause("254:32"), guest("guest.layer-verity", "disk layer0: 254:32: data block 5 is corrupted"));
        assert_eq!(cause("253:1"), guest("guest.layer-verity", "253:1: data block 5 is corrupted"));
    }

    #[test]
    fn other_ends_are_told_apart() {
        let cause = |log: &str, ended| judge(log.as_bytes(), ended, &[]).cause;
        assert_eq!(cause("reboot: Power down", OK), ExitCause::PoweredOff);
        let panic = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\r\n";
        assert_eq!(cause(panic, OK), ExitCause::Panic("Attempted to kill init! exitcode=0x00000100".to_owned()));
        assert_eq!(cause("", Some(Ended::Signal(9))), ExitCause::Vmm("killed by signal 9".to_owned()));
        let complaint = "qemu-system-x86_64: -kernel x: no such file\n";
        assert_eq!(cause(complaint, Some(Ended::Code(1))), ExitCause::Vmm("exit code 1: -kernel x: no such file".to_owned()));
        assert!(matches!(cause("", None), ExitCause::Vmm(_)));
    }

    #[test]
    fn an_exit_code_is_not_believed_without_the_guests_word() {
        let cause = |log: &str, ended| judge_words(log.as_bytes(), ended, &[]).cause;
        let vmm = |log: &str, ended| match cause(log, ended) {
            ExitCause::Vmm(detail) => detail,
            other => panic!("{other:?}"),
        };
        assert_eq!(cause("reboot: Restarting system\n", OK), ExitCause::PoweredOff);
        assert_eq!(cause("reboot: System halted\n", Some(Ended::Signal(9))), ExitCause::PoweredOff);
        assert_eq!(vmm("init runs\n", OK), "exit code 0, but the guest did not say that it ends");
        assert!(vmm("reboot: Power down\nfc_vcpu: Received KVM_EXIT_INTERNAL_ERROR signal\n", OK).contains("gave up"));
        assert!(vmm("ERROR:vmm/cpu.rs -- VCPU generated error: x\n", OK).contains("gave up"));
        assert_eq!(vmm("", Some(Ended::Signal(9))), "killed by signal 9");
        assert!(matches!(cause("Kernel panic - not syncing: x\nreboot: Restarting system\n", OK), ExitCause::Panic(_)));
    }

    #[test]
    fn the_tail_is_bounded_and_printable() {
        let log = "é\u{1b}[31m\0line\n".repeat(2000);
        let tail = judge(log.as_bytes(), OK, &[]).console_tail;
        assert!(tail.len() <= 4096 && !tail.contains('\u{1b}') && tail.ends_with("line\n"));
    }
}
