//! PID 1 of the guest.
//!
//! One static binary, measured with the initrd whose `/init` it is, and by the launcher of a container, whose process 1 it is there. In a
//! machine it does all of the following; in a container what is left of it (see [`home`]). It opens the verity root and enters it, opens the scratch
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
mod home;
mod life;
mod network;
mod observe;
mod phase;
mod power;
mod storage;
mod sys;
mod workload;

use std::process::ExitCode;

fn main() -> ExitCode {
    let container = home::container::Container::asked(std::env::args().skip(1));
    if !rustix::process::getpid().is_init() {
        eprintln!("casemate-guest is the init process of a Casemate guest; it does nothing elsewhere");
        return ExitCode::from(2);
    }
    match container {
        None => live_in_a_machine(),
        Some(Ok(container)) => live_in_a_container(container),
        Some(Err(code)) => code,
    }
}

fn live_in_a_machine() -> ExitCode {
    power::off_on_panic();
    let Err(fatal) = home::machine::Machine::boot().and_then(life::run);
    fatal.print();
    power::off()
}

fn live_in_a_container(container: home::container::Container) -> ExitCode {
    power::exit_on_panic();
    let Err(fatal) = container.enter().and_then(life::run);
    fatal.print();
    ExitCode::FAILURE
}
