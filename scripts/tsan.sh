#!/usr/bin/env bash
# Runs the core's concurrent tests under ThreadSanitizer. Needs a nightly toolchain with its sources:
# `rustup toolchain install nightly --component rust-src`. About four minutes on two cores at first, half of it building.
set -euo pipefail
cd "$(dirname "$0")/.."

# Several times what a run takes on two busy cores, in seconds: beyond it a test hangs.
bound_s=600

host=$(rustc +nightly -vV | sed -n 's/^host: //p')
sysroot=$(rustc +nightly --print sysroot)
if [ ! -d "$sysroot/lib/rustlib/src/rust/library" ]; then
    # The prebuilt standard library is not instrumented: what it synchronises would be reported as a race that is none.
    echo "the sanitizer needs the standard library's source: rustup component add rust-src --toolchain nightly" >&2
    exit 1
fi
# The models bring schedulers of their own, so only the tests that start real threads are run.
test=(cargo +nightly test -Zbuild-std --package registry-core --target "$host" --target-dir target/tsan --test registry)
export RUSTFLAGS="-Zsanitizer=thread"
export TSAN_OPTIONS="halt_on_error=1 suppressions=$PWD/scripts/tsan.supp ${TSAN_OPTIONS:-}"

"${test[@]}" --no-run
timeout "$bound_s" "${test[@]}" "$@"
