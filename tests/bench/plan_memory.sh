#!/bin/bash
# What `precis plan` says of memory beside what encode and query take: resident bytes at the peak (VmHWM), for every layout, in segments of 1K.
#     tests/bench/plan_memory.sh build/precis MODEL TEXT [BYTES of TEXT, default 14000]
# Prints CSV: layout, planned and measured MB of encode and how far they are apart, the same of a query with a prompt of about 256 tokens.
set -eu
[ $# -ge 3 ] || { sed -n 3p "$0" >&2; exit 2; }
precis=$1 model=$2
work=$(mktemp -d "${TMPDIR:-/tmp}/precis-plan.XXXXXX")
trap 'rm -rf "$work"' EXIT
head -c "${4:-14000}" "$3" >"$work/text.txt"
head -c 1000 "$3" >"$work/prompt.txt"
number() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"; }
peak() { # COMMAND...: its peak, in bytes
    python3 -c 'import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)' "$@"
}
echo "layout,encode planned MB,measured,off %,query planned MB,measured,off %"
for layout in pce full blockgist "blockgist --keep both" "blockgist --keep raw" fine-kv coarse-kv coarse-rec unigist "unigist --local 1024" \
    "blockselect --score reconstruct" "blockselect --score observed --keep both" "blockselect --score expected" "blockselect --score snapkv" \
    "blockselect --score knorm" pcw structured ape block star; do
    rm -rf "$work/store"
    # shellcheck disable=SC2086 # an option may follow the name
    set -- --model "$model" --segment 1K --layout $layout
    "$precis" plan --quiet "$@" --format json "$work/text.txt" >"$work/plan"
    encode=$(peak "$precis" encode --quiet --store "$work/store" "$@" "$work/text.txt" 2>/dev/null)
    query=$(peak "$precis" query --quiet --model "$model" --store "$work/store" --prompts "$work/prompt.txt" --max-tokens 2 2>/dev/null)
    awk -v l="$layout" -v p="$(number resident_bytes <"$work/plan")" -v m="$encode" -v q="$(number query_resident_bytes <"$work/plan")" -v n="$query" \
        'BEGIN { printf "%s,%.1f,%.1f,%+.1f,%.1f,%.1f,%+.1f\n", l, p / 1e6, m / 1e6, 100 * (p / m - 1), q / 1e6, n / 1e6, 100 * (q / n - 1) }'
done
