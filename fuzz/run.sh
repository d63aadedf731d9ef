#!/bin/sh
# Fuzzes decoders one after the other: fuzz/run.sh SECONDS [NAME...]. Findings are left in fuzz/work/NAME/.
# By hand what `cargo fuzz run --sanitizer none` does, so that nothing but a C++ compiler has to be installed.
# Two crates: this folder has the verifier's decoders, `node` what a node decodes.
set -eu
cd "$(dirname "$0")"
seconds=${1:?usage: fuzz/run.sh SECONDS [NAME...]}
shift
[ $# -gt 0 ] || set -- $(ls corpus node/corpus | grep -v : | sort)

coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
target=$(rustc -vV | sed -n 's/^host: //p')

failed=
built=
for name in "$@"; do
    crate=.
    [ -d "corpus/$name" ] || crate=node
    [ -d "$crate/corpus/$name" ] || { echo "no decoder is called $name: see fuzz/corpus and fuzz/node/corpus" >&2; exit 2; }
    case " $built " in
        *" $crate "*) ;;
        *)
            (cd "$crate" && RUSTC_BOOTSTRAP=1 RUSTFLAGS="$coverage --cfg fuzzing" cargo build --release --locked --target "$target")
            built="$built $crate"
            ;;
    esac
    mkdir -p "work/$name/found"
    log=work/$name/log
    if DECODER=$name "$crate/target/$target/release/decoders" "work/$name/found" "$crate/corpus/$name" \
        -artifact_prefix="work/$name/" -max_total_time="$seconds" -max_len=65536 -timeout=20 \
        -rss_limit_mb=1024 -malloc_limit_mb=256 -print_final_stats=1 >"$log" 2>&1; then
        result=good
    else
        result=FAILED failed="$failed $name"
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rss=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    echo "$name: $result, ${runs:-0} runs, ${covered:-0} places reached, ${rss:-?} MiB at most"
done
[ -z "$failed" ] || { echo "findings in$failed: see fuzz/work/NAME/log" >&2; exit 1; }
