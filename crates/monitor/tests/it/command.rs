//! The command line and the class on this machine's own kernel.

use std::process::{Command, Output};

use serde_json::Value;

fn monitor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_casemate-monitor")).args(arguments).output().unwrap()
}

#[test]
fn the_class_of_this_kernel_is_stated_and_never_better_than_what_loads() {
    let output = monitor(&["probe"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let class = told["class"]["name"].as_str().unwrap();
    let missing = told["groups"].as_object().unwrap().values().any(|group| !group["missing"].as_array().unwrap().is_empty());
    assert_eq!(class == "enforcing", !missing, "{told:#}");
    let refuses = told["groups"]["ptrace"]["hooks"].as_array().is_some_and(|hooks| !hooks.is_empty());
    assert_eq!(class.starts_with("enforcing"), refuses, "{told:#}");
}

#[test]
fn a_refusal_says_what_was_attempted_on_what_and_why() {
    let output = monitor(&["run", "--config", "/nonexistent/monitor.toml"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert_eq!(text, "error: read the configuration /nonexistent/monitor.toml: No such file or directory (os error 2)\n");
}

#[test]
fn detectors_are_listed_with_what_is_done_about_them() {
    let told: Value = serde_json::from_slice(&monitor(&["detectors"]).stdout).unwrap();
    let inspect = told.as_array().unwrap().iter().find(|one| one["name"] == "ptrace.inspect").unwrap();
    assert_eq!(inspect["usual"], serde_json::json!(["deny", "note"]), "a process list ends nobody's work");
}
