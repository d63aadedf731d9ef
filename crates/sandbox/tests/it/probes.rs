//! The probes of `casemate selftest` as process 1 of a container, which has more rights than a workload ever gets.

use std::path::{Path, PathBuf};

use casemate_sandbox::{ExitCause, Plan, System, oci::Runtime};

use crate::{
    conformance::{Startup, ended},
    oci::bench,
};

/// The static program that `make build` makes, or the one that the environment names.
fn program() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let named = std::env::var_os("CASEMATE_PROBES").map(PathBuf::from);
    let path = named.unwrap_or_else(|| workspace.join("target/probes/casemate-probes"));
    assert!(path.is_file(), "there are no probes at {}; hint: run `make build`", path.display());
    path
}

async fn nothing_gets_out(runtime: Runtime) {
    let bench = bench(runtime);
    let mut plan: Plan = bench.subject.new_plan();
    if let System::Container(container) = &mut plan.system {
        container.init = program();
    }
    let driver = &*bench.subject.driver;
    driver.prepare(&plan, &Startup).await.unwrap();
    driver.start(&plan).await.unwrap();
    let exit = ended(driver, &plan.id).await;
    assert_eq!(exit.cause, ExitCause::PoweredOff, "{}: {}", runtime.name(), exit.console_tail);
    assert!(exit.console_tail.contains("blocked"), "it said what it tried: {}", exit.console_tail);
    bench.end(&plan).await;
}

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
