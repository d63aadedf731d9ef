//! A place on the processors before everybody else's.

use std::io;

/// Of those that go before all ordinary processes the last: what the kernel has there for itself goes first.
const PRIORITY: i32 = 1;

/// Runs the calling thread as soon as it has something to do, whoever else wants the processor. Its children begin as ordinary processes. The
/// kernel leaves others a twentieth of the time, where nobody told it not to.
pub(crate) fn go_before_ordinary_processes() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the parameters live until the call returns, and 0 is the calling thread.
    let outcome = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command, thread};

    use super::*;

    /// The scheduling policy in a `stat` of procfs.
    fn policy(stat: &str) -> i32 {
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(38).unwrap().parse().unwrap()
    }

    #[test]
    fn who_goes_first_does_not_hand_it_on() {
        let own = thread::spawn(|| {
            go_before_ordinary_processes().unwrap();
            let child = Command::new("cat").arg("/proc/self/stat").output().unwrap();
            (policy(&fs::read_to_string("/proc/thread-self/stat").unwrap()), policy(&String::from_utf8(child.stdout).unwrap()))
        });
        assert_eq!(own.join().unwrap(), (libc::SCHED_FIFO, libc::SCHED_OTHER));
    }
}
