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
. tests/expect.sh
begin cuda ${1:+"$1/precis"}
build=$1
tell=yes
"$precis" version | grep -q "^CUDA: [0-9]" || skip "this build is without CUDA"
nvidia-smi -L >/dev/null 2>&1 || skip "no GPU can be used here"

part_ops() {
    "$build/tests/ops/test_cuda" 2>&1 | grep -vE '^$|^Run Summary|^ +(Type|suites|tests|asserts)|^Elapsed'
    check "operations" "${PIPESTATUS[0]}"
}
part_golden() {
    PRECIS_TEST_BACKEND=cuda tests/golden/run.sh "$precis"
    check "golden suites" $?
    echo "1 5 9 2 7 3 8 4 6 10 11 12 13 14 15 16" >"$dir/ids"
    for model in tests/golden/tiny-*; do
        [ -f "$model/config.json" ] || continue
        for dtype in f32 bf16; do
            for backend in cuda cpu_ref; do
                "$precis" logits --model "$model" --tokens "$dir/ids" --backend $backend --dtype $dtype --quiet --out "$dir/$backend" || exit 1
            done
            tests/golden/compare_logits.py "$dir/cuda" "$dir/cpu_ref" "$([ $dtype = f32 ] && echo 1e-5 || echo 2e-2)" >/dev/null
            check "logits of $(basename "$model") in $dtype" $?
        done
    done
}
part_bench() {
    for layout in pce full unigist; do
        "$precis" bench encode --backend cuda --shape tiny --layout $layout --segments 2 --quiet | grep -q '^VALID'
        check "encoding, $layout, against the CPU" $?
    done
    "$precis" bench query --backend cuda --shape tiny --context 3000 --segment 700 --slots 3 --quiet | grep -q '^VALID'
    check "decoding against the CPU" $?
}
part_layouts() {
    tests/golden/layouts.sh "$precis" cuda cpu
    check "layouts against the CPU" $?
}
part_mixed() {
    tests/parallel/mixed.sh "$precis" cuda cpu
    check "GPU and CPU ranks in one job" $?
}
part_sanitizer() {
    if ! command -v compute-sanitizer >/dev/null; then
        echo "compute-sanitizer: not here, memory errors not checked"
        return
    fi
    compute-sanitizer --error-exitcode 9 "$precis" bench encode --backend cuda --shape tiny --segments 2 --segment 300 --repeats 1 --quiet >"$dir/log" 2>&1
    check "compute-sanitizer memcheck, encoding" $?
    compute-sanitizer --error-exitcode 9 "$precis" bench query --backend cuda --shape tiny --context 900 --segment 300 --max-tokens 2 --repeats 1 --quiet >"$dir/log" 2>&1
    check "compute-sanitizer memcheck, decoding" $?
}

for part in ${PARTS:-ops golden bench layouts mixed sanitizer}; do
    declare -F "part_$part" >/dev/null || { echo "cuda: no part $part; the head of $0 lists them" >&2; exit 2; }
    "part_$part"
done
count_end
