# `make demo` and `make test` do everything that they need by themselves, and are quick when run again.

export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test build guest-os setup doctor clean

help:
	@echo 'make demo      build everything and show the main job end to end (KEEP=1 leaves platform and node running;'
	@echo '               STORE=postgres takes three servers on a PostgreSQL)'
	@echo 'make test      run every check that CI runs: format, lints, tests (some in real VMs), documentation'
	@echo 'make build     build the executables, the guest OS image and the demo image'
	@echo 'make guest-os  build the guest OS image and its signed reference values (target/guest-os);'
	@echo '               KERNEL=distro takes the kernel of this distribution instead of compiling our own'
	@echo 'make doctor    say whether this machine can be a node'
	@echo 'make setup     install the system packages that the above need (they all do it themselves)'
	@echo 'make clean     remove what was built (the cache of kernels and packages stays: see docs/guest-os.md)'

demo: build
	@scripts/demo.sh

test: build
	@cargo xtask ci

build: setup
	@scripts/build.sh

guest-os: setup
	@cargo xtask guest-os

doctor: setup
	@cargo run --quiet --package casemate-cli -- doctor

setup:
	@scripts/setup.sh

clean:
	@rm -rf target
