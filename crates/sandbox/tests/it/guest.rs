//! What the test guests are made of, and how one talks to them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use casemate_sandbox::{Channel, Driver};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The kernel that `make guest-os` builds, or the one that the environment names.
pub(crate) fn kernel() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path = std::env::var_os("CASEMATE_GUEST_KERNEL").map_or_else(|| workspace.join("target/guest-os/vmlinux"), PathBuf::from);
    assert!(path.is_file(), "there is no guest kernel at {}; hint: run `make guest-os`", path.display());
    path
}

/// An initial RAM disk with the test init, made once.
pub(crate) fn initrd() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let making = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let init = making.path().join("init");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/init.c");
        let compiled = Command::new("cc").args(["-static", "-Os", "-s", "-o"]).arg(&init).arg(source).status();
        assert!(compiled.is_ok_and(|status| status.success()), "compiling the test init failed; hint: install gcc and libc6-dev");
        let made = making.path().join("initrd.cpio");
        fs::write(&made, archive(&fs::read(&init).unwrap())).unwrap();
        // Another run of the tests may do the same at this moment.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("initrd.cpio");
        fs::rename(made, &path).unwrap();
        path
    })
}

fn archive(init: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for directory in ["dev", "proc", "sys"] {
        entry(&mut bytes, directory, 0o040_755, &[]);
    }
    entry(&mut bytes, "init", 0o100_755, init);
    entry(&mut bytes, "TRAILER!!!", 0, &[]);
    bytes
}

/// An entry of a "newc" archive.
fn entry(bytes: &mut Vec<u8>, name: &str, mode: u32, data: &[u8]) {
    let fields = [0, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
    bytes.extend(b"070701");
    fields.iter().for_each(|field| bytes.extend(format!("{field:08x}").as_bytes()));
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A connection to a guest that executes lines.
pub(crate) struct Line(Box<dyn Channel>);

impl Line {
    pub(crate) async fn connect(driver: &dyn Driver, id: &casemate_lifecycle::InstanceId) -> Self {
        Self(driver.connect(id).await.unwrap())
    }

    /// Sends a line that has no answer.
    pub(crate) async fn tell(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Sends a line and returns the answer's line.
    pub(crate) async fn ask(&mut self, line: &str) -> String {
        self.tell(line).await;
        let answer = async {
            let mut text = Vec::new();
            loop {
                match self.0.read_u8().await.expect("the guest answers") {
                    b'\n' => return String::from_utf8(text).unwrap(),
                    byte => text.push(byte),
                }
            }
        };
        tokio::time::timeout(ANSWER_LIMIT, answer).await.expect("the guest answers in time")
    }
}

/// A guest boots in a second or two, many times that on a loaded machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
