#!/bin/bash
# Every layout on the same windows: perplexity, agreement with full attention, K/V bytes kept and moved, tokens/s. The table of README.md.
#   usage: tests/bench/layouts.sh PRECIS MODEL DEV.jsonl[.zst] [WINDOWS_PER_DOCUMENT] [WINDOW] > layouts.csv
# RUN=... is put in front of each run of the program. Takes the first windows of every document; 6 pieces, the last quarter of a window scored.
set -euo pipefail
precis=$1 model=$2 input=$3 each=${4:-1} window=${5:-4096}
sink=$'Given the following partial context, predicting the next sequence of words:\n\n'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. "$(dirname "$0")/machine.sh"
. "$(dirname "$0")/windows.sh"
windows_cut "$precis" "$model" "$input" "$each" "$window" "$work"
machine
echo "# eval ppl --agree --window $window --score $((window / 4)) --pieces 6, $(wc -l <"$work/text.jsonl") documents, $each windows of each"
echo "layout,options,tokens,ppl,kl,top1,entropy,kv_bytes,move_bytes,tokens_per_s"
row() { # LAYOUT OPTIONS...
    # shellcheck disable=SC2086
    ${RUN:-} "$precis" eval ppl --quiet --model "$model" --input "$work/text.jsonl" --window "$window" --score $((window / 4)) --pieces 6 --agree --format json --layout "$@" \
        ${with_sink:+--sink "$sink"} >"$work/row.json" || return
    python3 - "$work/row.json" "$1" "${*:2}${with_sink:+ --sink TEXT}" <<'PY'
import json, sys
r = json.loads(open(sys.argv[1]).read().splitlines()[-1])
print(",".join([sys.argv[2], sys.argv[3].replace(",", ";"), str(r["tokens"]), f'{r["ppl"]:.2f}', f'{r["kl"]:.4f}', f'{r["top1"]:.3f}', "" if r["entropy"] is None else f'{r["entropy"]:.2f}',
                str(r["kv_bytes"]), str(r["move_bytes"]), f'{r["windows"] * r["window"] / r["seconds"]:.0f}']), flush=True)
PY
}
with_sink=
row full
row pce
row pcw
row structured
with_sink=yes
row pce
row pce --select 2
for score in reconstruct snapkv observed expected knorm; do row blockselect --score $score --budget head --ratio 4; done
row blockselect --score reconstruct --budget uniform --ratio 4
for ratio in 2 8; do row blockselect --score reconstruct --budget head --ratio $ratio; done
row ape
row star
row block
with_sink=
row streaming --sinks 4 --local 1K
row blockgist --ratio 8 --gist-init unit --sinks 4
row blockgist --ratio 8 --gist-init unit --sinks 4 --local 128
row unigist --ratio 8 --gist-init unit --sinks 4
row fine-kv --ratio 8 --gist-init unit --sinks 4
row fine-kv --ratio 8 --gist-init unit --sinks 4 --positions compact
row coarse-kv --ratio 8 --gist-init unit --sinks 4
row coarse-rec --ratio 8 --gist-init unit --sinks 4
