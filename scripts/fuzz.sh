#!/usr/bin/env bash
# Runs each fuzz target for some time, or those named: `scripts/fuzz.sh 60 [TARGET...]`. Needs a C++ compiler besides Rust.
# The first run builds everything with instrumentation, which takes some minutes.
#
# Inputs that were found worth keeping gather in fuzz/corpus; what broke a target stands in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."

# cargo-fuzz passes compiler flags that stable Rust takes only when told so.
export RUSTC_BOOTSTRAP=1

seconds=${1:-60}
shift || true
# `none` is several times as fast; reads and writes outside of buffers go unseen then.
sanitizer=${SANITIZER:-address}
# Enough for the text view's few and the hub's many parts; far more than what one input may take.
rss_limit_mb=2048
malloc_limit_mb=256
# The longest input of each target, in bytes: several blocks of the stripper, several frames, several batches.
declare -A max_len=([strip]=512 [text]=1024 [screen]=1024 [codec]=1024 [ingest]=2048)

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "cargo-fuzz is missing: installing it" >&2
    cargo install --locked cargo-fuzz
fi

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(cargo fuzz list)
fi
for target in "${targets[@]}"; do
    printf '\n== %s, %s s\n' "$target" "$seconds"
    crashers=()
    [ -d "fuzz/crashers/$target" ] && crashers=("fuzz/crashers/$target")
    mkdir -p "fuzz/corpus/$target"
    cargo fuzz run --sanitizer "$sanitizer" "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" "${crashers[@]}" -- \
        -max_total_time="$seconds" -max_len="${max_len[$target]:-1024}" -dict=fuzz/dictionaries/terminal.dict \
        -rss_limit_mb="$rss_limit_mb" -malloc_limit_mb="$malloc_limit_mb" -timeout=10 -print_final_stats=1
done
