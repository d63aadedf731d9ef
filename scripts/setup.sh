#!/usr/bin/env bash
# Makes a fresh Debian 12+ or Ubuntu 22.04+ machine ready: system packages from packages.txt, and a check of the Rust toolchain.
# Does nothing, quickly, when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf 'error: %s\n' "$1" >&2
    printf 'hint: %s\n' "$2" >&2
    exit 1
}

install_packages() {
    local wanted optional missing=() apt=(apt-get) name
    mapfile -t wanted < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' scripts/packages.txt)
    optional=" ${wanted[*]} "
    wanted=("${wanted[@]%\?}")
    local installed
    # It fails where it has never heard of one of them, as on a new machine.
    installed=" $({ dpkg-query -W -f='${db:Status-Status}:${Package}\n' "${wanted[@]}" 2>/dev/null || true; } | sed -n 's/^installed://p' | tr '\n' ' ') "
    for name in "${wanted[@]}"; do
        [[ $installed == *" $name "* ]] || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    echo "  setup: installing ${missing[*]}" >&2
    if [[ $(id -u) != 0 ]]; then
        command -v sudo >/dev/null || fail "these system packages are missing: ${missing[*]}" "run this as root: apt-get install ${missing[*]}"
        apt=(sudo apt-get)
    fi
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" update -qq
    # A name with a question mark is installed where the distribution has it.
    local offered=()
    for name in "${missing[@]}"; do
        if [[ $optional != *" $name? "* ]] || apt-cache show "$name" >/dev/null 2>&1; then
            offered+=("$name")
        else
            echo "  setup: this distribution has no $name; what needs it is not available" >&2
        fi
    done
    ((${#offered[@]})) || return 0
    missing=("${offered[@]}")
    "${apt[@]}" install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The guest OS build downloads packages by apt, which needs the archive's lists.
refresh_lists() {
    compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null && return 0
    echo "  setup: reading the package lists" >&2
    if [[ $(id -u) == 0 ]]; then apt-get update -qq; else sudo apt-get update -qq; fi
}

check_rust() {
    local install='curl --proto =https --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y'
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    command -v cargo >/dev/null || fail "cargo is not installed (Rust $wanted or newer is needed)" "$install"
    # With rustup this fetches the version that rust-toolchain.toml pins.
    found=$(rustc --version | cut -d' ' -f2) || fail "rustc does not start" "$install"
    [[ $(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n1) == "$wanted" ]] ||
        fail "rustc is $found, and $wanted or newer is needed" "use rustup, which takes the right version by itself: $install"
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        command -v rustup >/dev/null || fail "rustfmt or clippy is missing" "install them beside your rustc, or use rustup: $install"
        rustup component add rustfmt clippy
    fi
}

[[ $(uname -m) == x86_64 ]] || fail "this machine is $(uname -m)" "Casemate is built and run on x86_64 for now"
command -v apt-get >/dev/null || fail "there is no apt-get here" "set-up knows Debian 12+ and Ubuntu 22.04+; elsewhere install what scripts/packages.txt names"
install_packages
refresh_lists
check_rust
