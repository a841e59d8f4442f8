#!/usr/bin/env bash
# Runs the core's concurrent tests under ThreadSanitizer. Needs a nightly toolchain: `rustup toolchain install nightly`,
# and, for findings inside of the standard library too, `rustup component add rust-src --toolchain nightly`.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc +nightly -vV | sed -n 's/^host: //p')
sysroot=$(rustc +nightly --print sysroot)
flags=(--package registry-core --target "$host" --target-dir target/tsan)
RUSTFLAGS="-Zsanitizer=thread"
if [ -d "$sysroot/lib/rustlib/src/rust/library" ]; then
    flags+=(-Zbuild-std)
else
    # The prebuilt standard library is not instrumented: what it synchronises inside is not seen, and may be reported
    # as a race that is none. Its atomics and locks are inlined into our code and are seen.
    RUSTFLAGS+=" -Cunsafe-allow-abi-mismatch=sanitizer"
fi
export RUSTFLAGS
export TSAN_OPTIONS="halt_on_error=1 suppressions=$PWD/scripts/tsan.supp ${TSAN_OPTIONS:-}"

# The long races of the other tests are too slow under it; these are all that start threads.
cargo +nightly test "${flags[@]}" --test registry "$@"
