//! The jail helper for the tests of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    casemate_sandbox::jail::main(std::env::args_os().skip(1).collect())
}
