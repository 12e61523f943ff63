#!/bin/bash
# The demo on a GPU: encode a book, query it, and exchange stores with the CPU backend.   usage: tests/bench/cuda_demo.sh PRECIS MODEL BOOK.txt QUESTIONS.jsonl [WORK]
set -u
precis=$1 model=$2 book=$3 questions=$4 work=${5:-$(mktemp -d)}
mkdir -p "$work"
run() { "$precis" "$@" --model "$model"; }
sink=$'Read the following text.\n\n'
for backend in cuda cpu; do
    rm -rf "${work:?}/$backend"
    run encode --backend $backend --dtype bf16 --quiet --format json --segment 2K --sink "$sink" --store "$work/$backend" "$book" | sed "s/^/encode $backend: /"
    "$precis" store check "$work/$backend"
done
for store in cuda cpu; do
    for backend in cuda cpu; do
        run query --backend $backend --dtype bf16 --quiet --store "$work/$store" --prompts "$questions" --chat --max-tokens 24 --select 2 --format jsonl >"$work/$store-$backend.jsonl" || echo "query of the $store store by $backend failed"
    done
done
python3 - "$work" <<'PY'
import json, sys
said = {}
for store in ("cuda", "cpu"):
    for backend in ("cuda", "cpu"):
        said[store, backend] = [json.loads(l) for l in open(f"{sys.argv[1]}/{store}-{backend}.jsonl")]
base = said["cpu", "cpu"]
for key, rows in said.items():
    same = sum(a["tokens"] == b["tokens"] for a, b in zip(rows, base))
    first = sum(a["tokens"][:8] == b["tokens"][:8] for a, b in zip(rows, base))
    t = [r["timings"] for r in rows]
    print(f"store by {key[0]}, query by {key[1]}: {same} of {len(base)} answers as cpu/cpu ({first} in their first 8 tokens); first token {sum(x['first_token_s'] for x in t)/len(t):.3f} s, {sum(x['tokens_per_s'] for x in t)/len(t):.1f} tokens/s a prompt")
for r, c in list(zip(said["cuda", "cuda"], base))[:3]: print(repr(r["text"]), "|", repr(c["text"]))
PY
