//! What the tests share: a workload, its data, and a patient reader of progress.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::mpsc,
    time::{Duration, Instant},
};

use casemate_testbed::{Bed, ImageBuilder, Outcome, static_program};

/// The secret in the test data: it must never be seen outside the guest.
pub(crate) const MARKER: &str = "MARKER-7f3a91c2-the-tenants-secret";

/// Prints what it sees, writes a result, sleeps as many seconds as its first argument says, exits with its second.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IOLBF, 0);
    printf("hello from uid %d pid %d\n", getuid(), getpid());
    FILE *in = fopen("/data/data", "r");
    char line[256] = "";
    if (in && fgets(line, sizeof line, in)) printf("data has %zu bytes in its first line\n", strlen(line));
    FILE *out = fopen("/out/result.txt", "w");
    if (out) { fprintf(out, "result %zu\n", strlen(line)); fclose(out); }
    fprintf(stderr, "a word on stderr\n");
    for (int left = argc > 1 ? atoi(argv[1]) : 0; left > 0; left--) { printf("tick %d\n", left); sleep(1); }
    printf("done\n");
    return argc > 2 ? atoi(argv[2]) : 0;
}
"#;

/// Writes image, data and key into the bed's folder; returns the arguments of a run.
pub(crate) fn prepare(bed: &Bed) {
    let work = bed.work();
    let program = static_program(PROGRAM).unwrap();
    let image = ImageBuilder::new()
        .layer(&[("etc/base", b"base"), ("data/.keep", b"")])
        .layer(&[("app", &program)])
        .entrypoint(&["/app"]);
    image.write(&work.join("image")).unwrap();
    fs::write(work.join("data.txt"), format!("{MARKER}\n")).unwrap();
    bed.casemate(&["asset", "encrypt", "--key", "data.key", "data.txt", "data.enc"]).expect_code(0);
}

/// Arguments of a run of the prepared image with `extra` options and `command` words for the program.
pub(crate) fn run_args<'a>(extra: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    run_args_at("microvm", extra, command)
}

/// The same at another level.
pub(crate) fn run_args_at<'a>(level: &'a str, extra: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    let mut args =
        vec!["run", "--isolation", level, "--image", "oci:./image", "--asset", "data=./data.enc", "--key", "data=./data.key"];
    args.extend(["--memory-mib", "256", "--scratch-mib", "32"]);
    args.extend(extra);
    if !command.is_empty() {
        args.extend(["--", "/app"]);
        args.extend(command);
    }
    args
}

/// A run in the background whose progress can be waited for.
pub(crate) struct Background {
    child: Child,
    lines: mpsc::Receiver<String>,
    stdout: std::thread::JoinHandle<String>,
    seen: Vec<String>,
}

impl Background {
    pub(crate) fn start(bed: &Bed, args: &[&str]) -> Self {
        Self::of(bed.casemate_command(args))
    }

    /// Of a command whose output is piped.
    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let out = BufReader::new(child.stdout.take().unwrap());
        let stdout = std::thread::spawn(move || out.lines().map_while(Result::ok).map(|line| line + "\n").collect());
        Self { child, lines, stdout, seen: Vec::new() }
    }

    /// Waits for a progress line with this mark and step, e.g. `ok booted`; returns the line.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, step: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(&format!(" {step} ")) {
                        return line;
                    }
                }
                Err(_) => panic!("never saw {step:?}:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// The instance's id.
    #[track_caller]
    pub(crate) fn instance(&mut self) -> String {
        self.wait_for("ok instance").split_whitespace().last().unwrap().to_owned()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, which must have been brought about.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(120);
        let status = loop {
            self.seen.extend(self.lines.try_iter());
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("it did not end:\n{}", self.seen.join("\n"));
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        self.seen.extend(self.lines.iter());
        Outcome { code: status.code().unwrap_or(-1), stdout: self.stdout.join().unwrap(), stderr: self.seen.join("\n") }
    }
}

/// A private copy of the build's guest OS, to be changed.
pub(crate) fn guest_os_copy(dir: &std::path::Path) -> PathBuf {
    let copy = dir.join("guest-os");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(casemate_testbed::guest_os_dir()).expect("build the guest OS first: make guest-os").flatten() {
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    copy
}
