//! Builds the guest OS image and the demo image, holds the repository's own rules, and runs what CI runs.
//!
//! It depends on no crate of the product, so that a broken product can still be built and tested by it.

#![forbid(unsafe_code)]

mod ci;
mod demo;
mod digest;
mod elf;
mod files;
mod guest_os;
mod mutants;
mod packages;
mod paths;
mod process;
mod progress;
mod tree;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build the guest OS image and its signed reference values (target/guest-os)
    GuestOs {
        /// Write to this folder instead
        #[arg(long)]
        out: Option<PathBuf>,
        /// Take this static program as PID 1 instead of building crates/guest
        #[arg(long, hide = true)]
        guest_binary: Option<PathBuf>,
    },
    /// Build the static program of `casemate selftest` (target/probes)
    Probes {
        /// Write to this folder instead
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Build the demo's OCI image and data set (target/demo)
    DemoImage {
        /// Write to this folder instead
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Check that every line of guest-os/kernel.config takes effect, without compiling
    KernelConfig {
        /// The release that apt's sources are of, when it is not this machine's
        #[arg(long)]
        release: Option<String>,
    },
    /// Write the distribution's own kernel, a bzImage, to a file (tests that boot it through firmware)
    DistroKernel {
        /// Where to
        #[arg(long)]
        out: PathBuf,
    },
    /// Write the kernels that the monitor's tests boot, each a folder with vmlinux and a module (FOLDER/VERSION/)
    NodeKernels {
        /// Where to
        #[arg(long)]
        out: PathBuf,
    },
    /// Run every check: format, lints, tests, documentation
    Ci,
    /// Say which changes of the verifier no test notices (needs cargo-mutants; takes an hour on two cores)
    Mutants {
        /// Only those in files whose paths end so
        files: Vec<String>,
        /// Only those that the last report calls survivors
        #[arg(long)]
        again: bool,
        /// Tests at the same time
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// Renew the versions and digests in guest-os/packages.lock from what apt offers now
    Lock {
        /// The release that apt's sources are of, when it is not this machine's
        #[arg(long)]
        release: Option<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let workspace = paths::Workspace::locate()?;
    match task {
        Task::GuestOs { out, guest_binary } => {
            guest_os::check_supported()?;
            guest_os::build(&workspace, &guest_os::Options { out, guest_binary })
        }
        Task::DemoImage { out } => {
            guest_os::check_supported()?;
            demo::build(&workspace, &out.unwrap_or_else(|| workspace.join("target/demo")))
        }
        Task::Probes { out } => guest_os::build_probes(&workspace, &out.unwrap_or_else(|| workspace.join("target/probes"))),
        Task::DistroKernel { out } => guest_os::write_distro_kernel(&workspace, &out),
        Task::NodeKernels { out } => guest_os::write_node_kernels(&workspace, &out),
        Task::Ci => ci::run(&workspace),
        Task::Mutants { files, again, threads } => mutants::run(&workspace, &files, again, threads),
        Task::KernelConfig { release } => {
            let packages = packages::Packages::of_release(&workspace, release_or_own(release)?)?;
            guest_os::check_kernel_config(&workspace, &packages)
        }
        Task::Lock { release } => packages::renew_lock(&workspace, &release_or_own(release)?),
    }
}

fn release_or_own(named: Option<String>) -> Result<packages::Release> {
    named.map_or_else(packages::Release::of_this_machine, |name| Ok(packages::Release::named(&name)))
}
