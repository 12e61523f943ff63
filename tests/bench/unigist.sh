#!/bin/bash
# UniGist beside full attention on one long text: rows that stay per layer, K/V bytes, resident memory, tokens/s.
#   usage: tests/bench/unigist.sh PRECIS MODEL TEXTS.jsonl[.zst] [TOKENS=32768] [RATIO=8] [WINDOW=128] [SINKS=128]
# RUN=... is put in front of each encoding. Ends with VALID when the rows kept are sinks + n/r + the window's (k*r .. k*r + r), else INVALID.
set -euo pipefail
. "$(dirname "$0")/machine.sh"
precis=$1 model=$2 input=$3 n=${4:-32768} r=${5:-8} window=${6:-128} sinks=${7:-128}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# the texts joined, cut after n tokens, as a text that has n tokens again
case $input in *.zst) zstdcat "$input" ;; *) cat "$input" ;; esac | python3 -c '
import json, sys
text = "\n\n".join(json.loads(line)["text"] for line in sys.stdin)
print(json.dumps({"id": "all", "text": text[: 8 * int(sys.argv[1])]}))' "$n" >"$work/all.jsonl"
"$precis" tokenize --no-special --model "$model" --input "$work/all.jsonl" | python3 -c '
import json, sys
print(json.dumps({"id": "long", "tokens": json.loads(sys.stdin.read())["tokens"][: int(sys.argv[1])]}))' "$n" >"$work/ids.jsonl"
"$precis" tokenize --decode --model "$model" --input "$work/ids.jsonl" >"$work/long.jsonl"
machine
echo "layout,tokens,rows_a_layer,kv_bytes,peak_rss_bytes,tokens_per_s"
valid=VALID
for layout in "unigist --ratio $r --local $window --sinks $sinks" "full --segment 4K"; do
    # shellcheck disable=SC2086
    ${RUN:-} "$precis" encode --quiet --format json --batch 256 --model "$model" --store "$work/store-${layout%% *}" --layout $layout "$work/long.jsonl" >"$work/report.json"
    python3 - "$work" "${layout%% *}" "$sinks" "$r" "$window" <<'PY' || valid=INVALID
import glob, json, sys
work, layout, sinks, r, window = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
report = json.loads(open(f"{work}/report.json").read())
lines = [json.loads(l) for p in glob.glob(f"{work}/store-{layout}/*.index") for l in open(p)]
segments = [l for l in lines if "address" in l]
n, rows = sum(s["tokens"] for s in segments), sum(s["rows"] for s in segments) + (sinks if layout == "unigist" else 0)
print(f'{layout},{n},{rows},{sum(s["bytes"] for s in segments) - 4 * n},{report["peak_rss_bytes"]},{report["tokens_per_s"]:.0f}', flush=True)
if layout == "unigist": sys.exit(not sinks + n // r + window <= rows <= sinks + n // r + window + r)
PY
done
echo $valid
