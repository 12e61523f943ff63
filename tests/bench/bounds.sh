#!/bin/bash
# The bounds that the program promises on this machine, each beside what it is measured against in the same run. Needs the demo model and a quiet machine of 2 cores.
#   usage: tests/bench/bounds.sh PRECIS MODEL BOOK.txt     (BENCH_OPS: the bench_ops program, default build/tests/bench/bench_ops)
set -euo pipefail
. "$(dirname "$0")/machine.sh"
precis=$(realpath "$1") model=$(realpath "$2") book=$(realpath "$3") ops=$(realpath "${BENCH_OPS:-build/tests/bench/bench_ops}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpi=(mpirun --oversubscribe --bind-to none)
field() { grep -o "\"$1\":[0-9.e+-]*" | cut -d: -f2; }
median() { sort -g | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
now() { date +%s.%N; }
sink=$'Read the following text.\n\n'
encode() { # STORE INPUT OPTIONS... -> JSON
    "$precis" encode --quiet --format json --model "$model" --store "$1" --segment 2K --sink "$sink" "${@:3}" "$2"
}
machine

# 1. encoding, against the bf16 matrix product of the same run
gemm=$("$ops" | awk '/linear 2048 x 1536 x 576/ && !seen++ {print $(NF-1)}')
for _ in 1 2 3; do rm -rf s1; encode s1 "$book" --dtype bf16 | field tokens_per_s; done | median >rate
read -r rate <rate
# SmolLM2-135M, 2K segments: 2 x 106.2 M matrix elements a token, and 4 x 30 x 576 x (1025 + sink) for attention
awk -v r="$rate" -v g="$gemm" 'BEGIN { f = 2 * 30 * (576*960 + 576*576 + 3*576*1536) + 4 * 30 * 576 * 1030; printf "encode, bf16, 2K segments: %.0f tokens/s = %.1f GF/s of %.1f GF/s matrix product: %.0f %% (bound 55 %%)\n", r, r*f/1e9, g, 100*r*f/1e9/g }'

# 2. two ranks of one thread against one rank of two threads, in turn
for _ in 1 2 3; do
    rm -rf a b
    encode a "$book" --threads 2 | field tokens_per_s >>one
    "${mpi[@]}" -n 2 "$precis" encode --quiet --format json --model "$model" --store b --segment 2K --sink "$sink" --threads 1 "$book" | field tokens_per_s >>two
done
awk -v a="$(median <one)" -v b="$(median <two)" 'BEGIN { printf "1 rank x 2 threads: %.0f tokens/s; 2 ranks x 1 thread: %.0f tokens/s: ratio %.3f (bound 0.95)\n", a, b, b/a }'

# 3. peak memory, 100 KB against 2 MB of text (shorter segments: only memory is of interest)
if [ -z "${SKIP_MEMORY:-}" ]; then # six minutes, 11 GB of disk
head -c 100000 "$book" >small.txt
for i in $(seq 20); do sed "s/^/$i /" small.txt; done | head -c 2000000 >large.txt
for t in small large; do rm -rf s; encode s $t.txt --segment 512 | field peak_rss_bytes >"rss-$t"; done
awk -v a="$(cat rss-small)" -v b="$(cat rss-large)" 'BEGIN { printf "peak memory: %.1f MB for 100 KB, %.1f MB for 2 MB: ratio %.3f (bound 1.05)\n", a/1e6, b/1e6, b/a }'
fi

# 4. first token from the store against encoding the same context
t0=$(now); rm -rf s2; encode s2 "$book" >json; t1=$(now)
"$precis" query --quiet --model "$model" --store s2 --prompt $'\n\nIn short,' --max-tokens 1 --format json >json; t2=$(now)
awk -v e="$(echo "$t1 - $t0" | bc)" -v q="$(echo "$t2 - $t1" | bc)" -v f="$(field first_token_s <json)" 'BEGIN { printf "encoding: %.2f s; query to its first token: %.2f s as a whole process, %.3f s behind the loaded context: %.0f x sooner (bound 10)\n", e, q, f, e/q }'

# 5. opening a store of 10,000 segments
for i in $(seq 10000); do echo "{\"id\":\"$i\",\"text\":\"number $i of many\"}"; done >many.jsonl
"$precis" encode --quiet --model "$model" --store s3 --segment 16 many.jsonl
t0=$(now); "$precis" inspect s3 >/dev/null; t1=$(now)
echo "a store of 10,000 segments: inspected in $(echo "$t1 - $t0" | bc) s (bound 1)"
