//! Compiles the BPF programs.
//!
//! One translation unit: the groups share their maps. The headers of libbpf come with the crate that compiles libbpf; types of the kernel
//! are declared by hand in `bpf/kernel.h` and relocated against the running kernel when they are loaded.

use std::{env, path::PathBuf, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=bpf");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("monitor.bpf.o");
    let headers = env::var_os("DEP_BPF_INCLUDE").expect("libbpf-sys says where its headers are");
    let mut command = Command::new(env::var_os("CLANG").unwrap_or_else(|| "clang".into()));
    command.args([
        "-g",
        "-O2",
        "-target",
        "bpf",
        "-mcpu=v3",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-Werror",
        "-D__TARGET_ARCH_x86",
        "-I",
    ]);
    command.arg(headers).args(["-c", "bpf/monitor.bpf.c", "-o"]).arg(&out);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("compiling the BPF programs: {command:?} ended with {status}"),
        Err(error) => panic!("compiling the BPF programs: starting clang: {error} (hint: install the package clang)"),
    }
}
