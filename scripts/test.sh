#!/usr/bin/env bash
# Runs every test of the project. Needs Rust, a C compiler, and the servers that servers.sh installs.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

step "formatting"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

step "the muster binary"
cargo build --locked --bin muster

step "the servers that tests run against"
./scripts/servers.sh

step "tests"
cargo test --workspace --locked --no-fail-fast
