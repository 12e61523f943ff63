# Sourced: the first windows of every document of a set, cut by tokens, as text.
#   windows_cut PRECIS MODEL INPUT.jsonl[.zst] WINDOWS_PER_DOCUMENT WINDOW WORK     leaves WORK/text.jsonl
windows_cut() {
    local precis=$1 model=$2 input=$3 each=$4 window=$5 work=$6
    case $input in *.zst) zstdcat "$input" ;; *) cat "$input" ;; esac | python3 -c '
import json, sys
for line in sys.stdin: # no token has more than 8 characters on average, and the whole of a book would take long
    r = json.loads(line)
    print(json.dumps({"id": r["id"], "text": r["text"][:int(sys.argv[1]) * 8]}))' $((each * window + window / 4)) >"$work/all.jsonl"
    "$precis" tokenize --no-special --model "$model" --input "$work/all.jsonl" >"$work/ids.jsonl"
    python3 - "$work" "$each" "$window" <<'PY'
import json, sys
work, each, window = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(f"{work}/cut.jsonl", "w") as out:
    for line in open(f"{work}/ids.jsonl"):
        r = json.loads(line)
        out.write(json.dumps({"id": r["id"], "tokens": r["tokens"][: each * window + window // 4]}) + "\n")
PY
    "$precis" tokenize --decode --model "$model" --input "$work/cut.jsonl" >"$work/text.jsonl"
}
