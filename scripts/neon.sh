#!/usr/bin/env bash
# Tests the ANSI stripper's NEON code, and the text view's, on a machine that is no ARM, in an emulator: qemu-aarch64 (Debian: apt-get install
# qemu-user) and Rust's standard library for the target, which rustup fetches. About three minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-musl
if ! command -v qemu-aarch64 >/dev/null; then
    echo "qemu-aarch64 is missing: apt-get install qemu-user" >&2
    exit 1
fi
rustup target add "$target"
# The toolchain's own linker and C library: no cross compiler is needed.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER=qemu-aarch64
test=(cargo test --locked --package registry-core --target "$target" --target-dir target/neon)
"${test[@]}" --test ansi "$@"
# The editor of the text view works on the same blocks.
"${test[@]}" --lib ansi
