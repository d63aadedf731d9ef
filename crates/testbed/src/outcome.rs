//! What came of a command.

use std::{
    process::Child,
    time::{Duration, Instant},
};

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit status; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Panics with the whole output unless the status is `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless this is a refusal (status 2) that names `check` and gives a hint.
    #[track_caller]
    pub fn expect_refusal(self, check: &str) -> Self {
        let this = self.expect_code(2);
        assert!(this.stderr.contains(&format!("check {check} failed")), "expected {check} in:\n{}", this.stderr);
        assert!(this.stderr.contains("hint: "), "no hint in:\n{}", this.stderr);
        this
    }

    /// The instance's id, from the progress lines.
    #[track_caller]
    pub fn instance(&self) -> String {
        let line = self
            .stderr
            .lines()
            .find(|line| line.contains(" instance "))
            .unwrap_or_else(|| panic!("no instance in:\n{}", self.stderr));
        line.split_whitespace().last().unwrap_or_default().to_owned()
    }

    /// Waits for its end, but no longer than `limit`.
    pub(crate) fn of(mut child: Child, limit: Duration) -> anyhow::Result<Self> {
        fn collect(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                if let Some(mut pipe) = pipe {
                    let _ = pipe.by_ref().read_to_end(&mut bytes);
                }
                String::from_utf8_lossy(&bytes).into_owned()
            })
        }
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                let text = stderr.join().unwrap_or_default();
                anyhow::bail!("did not end within {} s:\n{text}", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let text = |handle: std::thread::JoinHandle<String>| handle.join().unwrap_or_default();
        Ok(Self { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) })
    }
}
