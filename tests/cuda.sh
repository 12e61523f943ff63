#!/bin/bash
# The CUDA backend on a GPU, in parts.   usage: tests/cuda.sh BUILD        PARTS="ops golden bench layouts mixed sanitizer", all by default
#
#   ops        every operation against cpu_ref
#   golden     the golden suites, and others that run a model, on the GPU; logits of every golden model against cpu_ref in f32 and bf16
#   bench      encoding and decoding of a made-up model, validated
#   layouts    stores and answers of every layout against the CPU's, each from the other's store
#   mixed      one rank with the GPU and two with CPUs in one job
#   sanitizer  memory errors in small cases (compute-sanitizer)
set -u
cd "$(dirname "$0")/.." || exit 1
build=$1 precis=$1/precis
passed=0 failed=0
say() { # name, exit code
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    echo "$1: $([ "$2" -eq 0 ] && echo ok || echo FAILED)"
}
skip() {
    echo "cuda: 0 passed, 0 failed, 1 skipped ($1)"
    exit 0
}
"$precis" version | grep -qi 'cuda' || skip "this build is without CUDA"
nvidia-smi -L >/dev/null 2>&1 || skip "no GPU can be used here"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

part_ops() {
    "$build/tests/ops/test_cuda" 2>&1 | grep -vE '^$|^Run Summary|^ +(Type|suites|tests|asserts)|^Elapsed'
    say "operations" "${PIPESTATUS[0]}"
}
part_golden() {
    PRECIS_TEST_BACKEND=cuda tests/golden/run.sh "$precis"
    say "golden suites" $?
    echo "1 5 9 2 7 3 8 4 6 10 11 12 13 14 15 16" >"$work/ids"
    for model in tests/golden/tiny-*; do
        [ -f "$model/config.json" ] || continue
        for dtype in f32 bf16; do
            for backend in cuda cpu_ref; do
                "$precis" logits --model "$model" --tokens "$work/ids" --backend $backend --dtype $dtype --quiet --out "$work/$backend" || exit 1
            done
            tests/golden/compare_logits.py "$work/cuda" "$work/cpu_ref" "$([ $dtype = f32 ] && echo 1e-5 || echo 2e-2)" >/dev/null
            say "logits of $(basename "$model") in $dtype" $?
        done
    done
}
part_bench() {
    for layout in pce full unigist; do
        "$precis" bench encode --backend cuda --shape tiny --layout $layout --segments 2 --quiet | grep -q '^VALID'
        say "encoding, $layout, against the CPU" $?
    done
    "$precis" bench query --backend cuda --shape tiny --context 3000 --segment 700 --slots 3 --quiet | grep -q '^VALID'
    say "decoding against the CPU" $?
}
part_layouts() {
    tests/golden/layouts.sh "$precis" cuda cpu
    say "layouts against the CPU" $?
}
part_mixed() {
    tests/parallel/mixed.sh "$precis" cuda cpu
    say "GPU and CPU ranks in one job" $?
}
part_sanitizer() {
    if ! command -v compute-sanitizer >/dev/null; then
        echo "compute-sanitizer: not here, memory errors not checked"
        return
    fi
    compute-sanitizer --error-exitcode 9 "$precis" bench encode --backend cuda --shape tiny --segments 2 --segment 300 --repeats 1 --quiet >"$work/log" 2>&1
    say "compute-sanitizer memcheck, encoding" $?
    compute-sanitizer --error-exitcode 9 "$precis" bench query --backend cuda --shape tiny --context 900 --segment 300 --max-tokens 2 --repeats 1 --quiet >"$work/log" 2>&1
    say "compute-sanitizer memcheck, decoding" $?
}

for part in ${PARTS:-ops golden bench layouts mixed sanitizer}; do
    declare -F "part_$part" >/dev/null || { echo "cuda: no part $part; the head of $0 lists them" >&2; exit 2; }
    "part_$part"
done
echo "cuda: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
