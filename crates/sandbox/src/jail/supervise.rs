//! The program's parent: keeps the console in a bounded log, waits, writes down how it ended.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
};

use rustix::process::{Pid, WaitOptions};

use super::{Attempt, Failure, spec::Ended};

/// The log never becomes larger than this; what is older than half of it is then dropped.
pub(crate) const LOG_LIMIT: u64 = 1 << 20;

/// Returns when the program has ended and everything is written.
pub(super) fn supervise(program: Pid, mut output: File, mut log: File, mut ended: File) -> Result<(), Failure> {
    let mut buffer = vec![0_u8; 16 * 1024];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => break,
            // A full disk must not stop the program; the log then has a gap.
            Ok(count) => drop(append(&mut log, &buffer[..count])),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let end = wait(program)?;
    let text = serde_json::to_vec(&end).expect("an end is a number");
    ended.write_all(&text).attempt("write the exit status")?;
    ended.sync_data().attempt("write the exit status")
}

/// Appends to the log, and drops its older half when it is full.
pub(crate) fn append(log: &mut File, bytes: &[u8]) -> std::io::Result<()> {
    let length = log.seek(SeekFrom::End(0))?;
    if length + bytes.len() as u64 > LOG_LIMIT {
        let half = length.min(LOG_LIMIT / 2);
        let mut kept = vec![0_u8; usize::try_from(half).expect("at most half a MiB")];
        log.read_exact_at(&mut kept, length - half)?;
        log.set_len(0)?;
        log.write_all_at(&kept, 0)?;
        log.seek(SeekFrom::End(0))?;
    }
    log.write_all(bytes)
}

fn wait(program: Pid) -> Result<Ended, Failure> {
    loop {
        match rustix::process::waitpid(Some(program), WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                if let Some(signal) = status.terminating_signal() {
                    return Ok(Ended::Signal(signal));
                }
                if let Some(code) = status.exit_status() {
                    return Ok(Ended::Code(code));
                }
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).attempt("wait for the program"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_end_of_a_long_log() {
        let mut log = tempfile::tempfile().unwrap();
        for number in 0..3 * LOG_LIMIT / 1024 {
            append(&mut log, format!("{number:1023}\n").as_bytes()).unwrap();
        }
        let mut text = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut text).unwrap();
        assert!(text.len() as u64 <= LOG_LIMIT);
        assert!(text.ends_with("3071\n"));
    }
}
