//! Death of a guest's process 1 at each step. No signal reaches it from outside, but the host owns the guest's memory: the host
//! overwrites the pages with its program, so that it dies of what it executes next.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    time::{Duration, Instant},
};

use casemate_testbed::{Bed, guest_os_dir};
use rustix::{
    fs::SeekFrom,
    process::{Pid, Signal},
};

use crate::{
    deaths::{PATIENT_MS, machines, running_machines, start, told_the_truth},
    support::{Background, run_args},
};

/// What a guest ends with whose process 1 died: the kernel's panic, or the reason that nobody could give.
const REASONS: [&str; 2] = ["guest.panic", "guest.powered-off"];

#[test]
fn the_guests_init_may_die_at_any_step() {
    let bed = start(PATIENT_MS);
    let program = Program::of_initrd(&fs::read(guest_os_dir().join("initrd.cpio")).unwrap());
    for step in ["ok prepared", "ok booted", "ok attested", "ok keyed", "ok running"] {
        let begin = Instant::now();
        let mut run = Background::start(&bed, &run_args(&["--output", "out"], &["2"]));
        let instance = run.instance();
        run.wait_for(step);
        let pages = match step {
            "ok prepared" => destroy_as_soon_as_it_is_there(&bed, &instance, &program),
            _ => destroy(&bed, &instance, &program),
        };
        assert!(pages > 0, "{step}: no page of the guest's program was found in its memory");
        let outcome = run.finish();
        let reason = REASONS.into_iter().find(|reason| outcome.stderr.contains(&format!("check {reason} failed")));
        assert!(reason.is_some(), "{step}: status {}\n{}\n{}", outcome.code, outcome.stdout, outcome.stderr);
        assert!(outcome.stderr.contains("ok receipt"), "{step}: no receipt in\n{}", outcome.stderr);
        assert!(!bed.work().join("out").exists(), "{step}: half of the results was taken for all");
        told_the_truth(&bed, step, outcome);
        bed.casemate(&["receipt", "verify", &instance]).expect_code(0);
        eprintln!("{step:<12} {pages:4} pages, {}, {:.2} s", reason.unwrap(), begin.elapsed().as_secs_f32());
    }
    bed.casemate(&run_args(&[], &[])).expect_code(0);
    bed.finish();
}

/// The code of the guest's process 1, page by page as it is in memory.
struct Program(HashMap<[u8; 16], Vec<Vec<u8>>>);

const PAGE: usize = 4096;

impl Program {
    /// From the one ELF file of an archive in "newc" format.
    fn of_initrd(archive: &[u8]) -> Self {
        let field = |entry: &[u8], number: usize| {
            let text = std::str::from_utf8(&entry[6 + 8 * number..][..8]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        let round_up = |length: usize| length.next_multiple_of(4);
        let mut rest = archive;
        loop {
            assert_eq!(&rest[..6], b"070701", "an entry of the archive, and no ELF file so far");
            let (size, name) = (field(rest, 6), field(rest, 11));
            let body = &rest[round_up(110 + name)..];
            if body.starts_with(b"\x7fELF") {
                return Self::of_elf(&body[..size]);
            }
            rest = &body[round_up(size)..];
        }
    }

    /// The whole pages of the executable segments.
    fn of_elf(elf: &[u8]) -> Self {
        let number =
            |at: usize, length: usize| elf[at..at + length].iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        let (table, entry, count) = (number(32, 8), number(54, 2), number(56, 2));
        let mut pages: HashMap<[u8; 16], Vec<Vec<u8>>> = HashMap::new();
        for header in (0..count).map(|index| table + index * entry) {
            let (kind, flags, offset, size) =
                (number(header, 4), number(header + 4, 4), number(header + 8, 8), number(header + 32, 8));
            let (load, executable) = (kind == 1, flags & 1 != 0);
            if load && executable {
                let (first, last) = (offset.next_multiple_of(PAGE), (offset + size) / PAGE * PAGE);
                for page in elf[first..last].chunks_exact(PAGE) {
                    pages.entry(page[..16].try_into().unwrap()).or_default().push(page.to_vec());
                }
            }
        }
        assert!(pages.len() > 50, "only {} pages of code", pages.len());
        Self(pages)
    }

    fn has(&self, page: &[u8]) -> bool {
        self.0.get(&page[..16]).is_some_and(|known| known.iter().any(|known| known == page))
    }
}

/// Overwrites the program with breakpoints while the machine stands still; the number of pages.
fn destroy(bed: &Bed, instance: &str, program: &Program) -> usize {
    let machines = machines(instance);
    let signal = |signal| machines.iter().for_each(|pid| _ = rustix::process::kill_process(Pid::from_raw(*pid).unwrap(), signal));
    signal(Signal::STOP);
    let pages = overwrite(&bed.run_dir().join("agent/ram").join(instance).join("ram"), program);
    signal(Signal::CONT);
    pages
}

/// From the first moment of the machine on, until a page was found.
fn destroy_as_soon_as_it_is_there(bed: &Bed, instance: &str, program: &Program) -> usize {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "the machine never held its program");
        if !running_machines(instance).is_empty() {
            let pages = destroy(bed, instance, program);
            if pages > 0 {
                return pages;
            }
        }
    }
}

fn overwrite(ram: &Path, program: &Program) -> usize {
    let file = File::options().read(true).write(true).open(ram).unwrap();
    let length = file.metadata().unwrap().len();
    let (mut at, mut pages) = (0, 0);
    let mut piece = vec![0; 256 * PAGE];
    while at < length {
        let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) else { break };
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
        let count = piece.len().min(usize::try_from(hole - data).unwrap());
        file.read_exact_at(&mut piece[..count], data).unwrap();
        for (index, page) in piece[..count].chunks_exact(PAGE).enumerate() {
            if program.has(page) {
                file.write_all_at(&[0xcc; PAGE], data + (index * PAGE) as u64).unwrap();
                pages += 1;
            }
        }
        at = data + count as u64;
    }
    pages
}
