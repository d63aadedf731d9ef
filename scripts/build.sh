#!/usr/bin/env bash
# Builds the executables and the images side by side: compiling the guest kernel (once) takes as long as all crates.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --quiet --package xtask
images() {
    target/debug/xtask guest-os
    target/debug/xtask demo-image
    target/debug/xtask probes
}
# In a process group of its own, so that no kernel build is left behind when the crates do not compile; and not on the
# terminal itself, as cargo updates its line there.
set -m
images > >(cat >&2) 2>&1 &
images=$!
trap 'kill -- "-$images" 2>/dev/null || true' EXIT
trap 'exit 130' INT TERM
cargo build --workspace --bins
wait "$images"
trap - EXIT
