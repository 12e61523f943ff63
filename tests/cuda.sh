#!/bin/bash
# The CUDA backend on a GPU: operations against cpu_ref, golden models by both, encoding and decoding of a made-up model; then memory errors in
# small cases (compute-sanitizer).   usage: tests/cuda.sh BUILD
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

"$build/tests/ops/test_cuda" 2>&1 | grep -vE '^$|^Run Summary|^ +(Type|suites|tests|asserts)|^Elapsed'
say "operations" "${PIPESTATUS[0]}"
for layout in pce full unigist; do
    "$precis" bench encode --backend cuda --shape tiny --layout $layout --segments 2 --quiet | grep -q '^VALID'
    say "encoding, $layout, against the CPU" $?
done
"$precis" bench query --backend cuda --shape tiny --context 3000 --segment 700 --slots 3 --quiet | grep -q '^VALID'
say "decoding against the CPU" $?
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "1 5 9 2 7 3 8 4 6 10 11 12 13 14 15 16" >"$work/ids"
for model in tests/golden/tiny-*; do
    [ -f "$model/config.json" ] || continue
    for dtype in f32 bf16; do
        for backend in cuda cpu_ref; do
            "$precis" logits --model "$model" --tokens "$work/ids" --backend $backend --dtype $dtype --quiet --out "$work/$backend" || exit 1
        done
        python3 - "$work/cuda" "$work/cpu_ref" $dtype <<'PY'
import array, json, struct, sys
def load(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    at = json.loads(data[8:8 + n])["logits"]["data_offsets"]
    return array.array("f", data[8 + n + at[0]:8 + n + at[1]])
a, b = load(sys.argv[1]), load(sys.argv[2])
worst, size = max(abs(x - y) for x, y in zip(a, b)), max(map(abs, b))
ok = len(a) == len(b) and worst <= size * (1e-5 if sys.argv[3] == "f32" else 2e-2) and all(x == x for x in a)
sys.exit(not ok)
PY
        say "logits of $(basename "$model") in $dtype" $?
    done
done
if command -v compute-sanitizer >/dev/null; then
    compute-sanitizer --error-exitcode 9 "$precis" bench encode --backend cuda --shape tiny --segments 2 --segment 300 --repeats 1 --quiet >"$work/log" 2>&1
    say "compute-sanitizer memcheck, encoding" $?
    compute-sanitizer --error-exitcode 9 "$precis" bench query --backend cuda --shape tiny --context 900 --segment 300 --max-tokens 2 --repeats 1 --quiet >"$work/log" 2>&1
    say "compute-sanitizer memcheck, decoding" $?
else
    echo "compute-sanitizer: not here, memory errors not checked"
fi
echo "cuda: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
