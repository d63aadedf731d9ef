//! The probes of `casemate selftest` as process 1 of a container, which has more rights than a workload ever gets.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use casemate_sandbox::{
    Plan, System,
    oci::{LayerMounts, Runtime},
};

use crate::{
    conformance::{Startup, ended},
    containers::bench,
    guest::Line,
};

/// The static program that `make build` makes, or the one that the environment names.
fn program() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let named = std::env::var_os("CASEMATE_PROBES").map(PathBuf::from);
    let path = named.unwrap_or_else(|| workspace.join("target/probes/casemate-probes"));
    assert!(path.is_file(), "there are no probes at {}; hint: run `make build`", path.display());
    path
}

/// What gets through as process 1 of a runtime's containers, and why that is no way out. A workload gets none of it: it has no
/// capability, and a filter of its own (`docs/selftest.md`).
const EXCEPTIONS: &[(Runtime, &str, &str)] = &[
    (Runtime::Runsc, "capabilities", "they are over the kernel in user space, and its first user namespace is not the host's"),
    (Runtime::Runsc, "user-namespace", "one of the kernel in user space"),
    (Runtime::Runsc, "mount-namespace", "one of the kernel in user space"),
    (Runtime::Runsc, "file-handle", "the kernel in user space knows the call, and answers that it has no handles"),
    (Runtime::Runsc, "io-uring", "the ring is the kernel's in user space, which handles its calls like all others"),
    (Runtime::Runsc, "kernel-log", "the log is made up by the kernel in user space"),
];

async fn nothing_gets_out(runtime: Runtime) {
    let bench = bench(runtime, LayerMounts::Files);
    let mut plan: Plan = bench.subject.new_plan();
    if let System::Container(container) = &mut plan.system {
        container.init = program();
        // Not before the driver has looked at it.
        container.args = vec!["--wait".to_owned()];
    }
    let driver = &*bench.subject.driver;
    driver.prepare(&plan, &Startup).await.unwrap();
    driver.start(&plan).await.unwrap();
    Line::connect(driver, &plan.id).await.tell("begin").await;
    let said = ended(driver, &plan.id).await.console_tail;
    let of = |outcome: &str| -> BTreeSet<&str> {
        let lines = said.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.filter(|words| words.first() == Some(&outcome)).filter_map(|words| words.get(1).copied()).collect()
    };
    let excepted: BTreeSet<&str> = EXCEPTIONS.iter().filter(|(of, ..)| *of == runtime).map(|(_, probe, _)| *probe).collect();
    // An exception that is not needed any more is one too many.
    assert_eq!(of("through"), excepted, "{}: {said}", runtime.name());
    assert!(of("blocked").len() >= 15 && said.contains(FIRST) && said.contains(LAST), "all were tried: {said}");
    bench.end(&plan).await;
}

const FIRST: &str = "descriptors";
const LAST: &str = "host-vsock";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_gets_out_of_runc() {
    nothing_gets_out(Runtime::Runc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_gets_out_of_crun() {
    nothing_gets_out(Runtime::Crun).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_gets_out_of_runsc() {
    nothing_gets_out(Runtime::Runsc).await;
}
