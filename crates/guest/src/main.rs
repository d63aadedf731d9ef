//! PID 1 of the guest.
//!
//! One static binary, measured with the initrd whose `/init` it is. It opens the verity root and enters it, opens the scratch
//! volume, answers the host, attests, receives sealed keys, runs the workload and powers the machine off. It never returns,
//! never offers a shell, and ends the machine with a named reason on any failure.
//!
//! Everything is synchronous and single-threaded until the machine is set up; then a current-thread runtime begins. There
//! is never a second thread: the workload is started by a plain fork.
//!
//! The host sees the console and the channel, so neither ever carries a plain secret.

mod boot;
mod channel;
mod disk;
mod dm;
mod entropy;
mod evidence;
mod fatal;
mod life;
mod phase;
mod power;
mod storage;
mod sys;
mod workload;

use std::{convert::Infallible, process::ExitCode};

use fatal::Fatal;

fn main() -> ExitCode {
    if !rustix::process::getpid().is_init() {
        eprintln!("casemate-guest is the init process of a Casemate guest; it does nothing elsewhere");
        return ExitCode::from(2);
    }
    power::off_on_panic();
    let fatal = match boot_and_live() {
        Ok(never) => match never {},
        Err(fatal) => fatal,
    };
    fatal.print();
    power::off()
}

fn boot_and_live() -> Result<Infallible, Fatal> {
    boot::first_stage()?;
    boot::second_stage()?;
    life::run()
}
