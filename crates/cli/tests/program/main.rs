//! The program as its users call it: answers on standard output, the rest on standard error, exit statuses.

// Clippy knows tests by their attribute; these are helpers of tests.
#![allow(clippy::unwrap_used)]

mod endorsements;
mod evidence;
mod help;
mod references;
mod requests;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::Value;

/// Runs the program with nothing of the user's around it.
fn casemate(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_casemate"))
        .args(args)
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may be done before it has read anything.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn answer(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// Standard output of a call that must succeed.
fn done(args: &[&str]) -> String {
    let output = casemate(args, b"");
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a call that must fail with this status and a hint or a reason.
fn fails(args: &[&str], status: i32) -> String {
    let output = casemate(args, b"");
    assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

const KINDS: [&str; 6] = ["snp", "tdx", "gpu", "tpm", "instance", "confidential"];

fn example_path(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api/examples").join(format!("{kind}.json"))
}

/// A complete request of the documentation.
fn example(kind: &str) -> Value {
    serde_json::from_slice(&fs::read(example_path(kind)).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().unwrap()).unwrap()
}
