#!/bin/bash
# Ranks with unlike backends in one job: rank 0 has the first, two more the second. Each gives the bits that its backend gives alone, all give one text, and what
# would mix bits or let ranks wait for each other is refused.
#
#     tests/parallel/mixed.sh PRECIS [FIRST SECOND]        cpu cpu_ref, where no others are named
#
# Prints a line per check that fails and `mixed: N passed, N failed`.
set -u
here=$(dirname "$0")
. "$here/../expect.sh"
. "$here/../tiny_model.sh"
. "$here/env.sh"
begin mixed "$@"
first=${2:-cpu} second=${3:-cpu_ref}
command -v mpirun >/dev/null || skip "no mpirun"
model=$dir/model
tiny_model "$model"
head -c 6000 "$root/LICENSE" >"$dir/long.txt"
tail -c 700 "$root/LICENSE" >"$dir/short.txt"
texts=("$dir/long.txt" "$dir/short.txt")
tiny_prompts >"$dir/prompts.jsonl"

common=(--model "$model" --dtype f32 --threads 1) # two ranks may have one GPU
alone() { local backend=$1; shift; timeout -k 5 120 "$precis" "$@" "${common[@]}" --backend "$backend" 2>>"$dir/log"; }
# The words before -- go to all ranks, those behind it to rank 0, those behind a second -- to the others.
mixed() {
    local all=() one=() more=() at=0
    for word in "$@"; do
        case $word,$at in --,*) at=$((at + 1)) ;; *,0) all+=("$word") ;; *,1) one+=("$word") ;; *) more+=("$word") ;; esac
    done
    timeout -k 5 120 mpirun -n 1 "$precis" "${all[@]}" "${common[@]}" --backend "$first" --share-gpu "${one[@]}" : \
        -n 2 "$precis" "${all[@]}" "${common[@]}" --backend "$second" --share-gpu "${more[@]}" 2>"$dir/said"
    local rc=$?
    cat "$dir/said" >>"$dir/log"
    return $rc
}
refused() { # NAME PATTERN WORDS...: exit 2, and the pattern in what was said
    local name=$1 pattern=$2
    shift 2
    mixed "$@" >/dev/null
    local rc=$?
    [ $rc -eq 2 ] && grep -qE -- "$pattern" "$dir/said"; check "$name" $? "exit $rc: $(grep error: "$dir/said" | head -1)"
}
committed() { cat "$@" 2>/dev/null | grep -o '"address":"[^"]*"\|"checksum":"[^"]*"' | paste - - | sort; }

# Without a sink, which rank 0 makes for all, a segment's bits are those of the rank that encoded it.
plain=(--segment 128 --kv-dtype f32)
alone "$first" encode "${plain[@]}" --store "$dir/first" "${texts[@]}" >/dev/null; check "encode by $first" $? "$(tail -1 "$dir/log")"
alone "$second" encode "${plain[@]}" --store "$dir/second" "${texts[@]}" >/dev/null; check "encode by $second" $? "$(tail -1 "$dir/log")"
[ "$(digest "$dir/first")" != "$(digest "$dir/second")" ]; check "$first and $second have unlike bits" $?
mixed encode "${plain[@]}" --store "$dir/both" --speed 1 "${texts[@]}" >/dev/null; check "encode by both" $? "$(tail -1 "$dir/log")"
committed "$dir"/first/*.index >"$dir/first.list"
committed "$dir"/second/*.index >"$dir/second.list"
committed "$dir"/both/rank0000*.index >"$dir/by-first"
committed "$dir"/both/rank000[12]*.index >"$dir/by-second"
[ -s "$dir/by-first" ] && [ -z "$(comm -13 "$dir/first.list" "$dir/by-first")" ]; check "segments of rank 0 have the bits of $first" $?
[ -s "$dir/by-second" ] && [ -z "$(comm -13 "$dir/second.list" "$dir/by-second")" ]; check "segments of the others have the bits of $second" $?
[ "$(cat "$dir/by-first" "$dir/by-second" | wc -l)" -eq "$(wc -l <"$dir/first.list")" ]; check "no segment is missing" $?
mixed encode "${plain[@]}" --store "$dir/measured" "${texts[@]}" >/dev/null; check "encode with measured shares" $? "$(tail -1 "$dir/log")"
grep -q 'shares of the encoding by rank, %: ' "$dir/said"; check "shares are told" $?
[ "$(committed "$dir"/measured/*.index | wc -l)" -eq "$(wc -l <"$dir/first.list")" ]; check "no segment is missing where shares are measured" $?
mixed encode --layout full --segment 100 --store "$dir/full" "${texts[@]}" >/dev/null; check "documents under full, one rank each" $? "$(tail -1 "$dir/log")"

# One text, whoever is rank 0.
answers() { "$@" --prompts "$dir/prompts.jsonl" --max-tokens 24 --format jsonl | grep -o '"tokens":\[[^]]*\]'; }
both_ways() { # NAME ALONE-BACKEND WORDS...
    local name=$1
    shift
    answers alone "$second" "$@" >"$dir/answers-alone"
    answers mixed "$@" >"$dir/answers-mixed"
    answers_alike "$dir/answers-mixed" "$dir/answers-alone"; check "$name, $first first" $? "$(tail -1 "$dir/log")"
    local was=$first
    first=$second second=$was
    answers mixed "$@" >"$dir/answers-mixed"
    answers_alike "$dir/answers-mixed" "$dir/answers-alone"; check "$name, $first first" $? "$(tail -1 "$dir/log")"
    second=$first first=$was
}
both_ways "answers" query --store "$dir/both"
both_ways "answers by selected segments" query --store "$dir/both" --select 3
both_ways "drawn answers" query --store "$dir/both" --temperature 20 --seed 5
both_ways "a prompt alone" query
mixed encode --layout blockselect --ratio 4 --keep both --segment 128 --sink "A text:" --store "$dir/picked" --speed 1 "${texts[@]}" >/dev/null; check "encode, blockselect" $? "$(tail -1 "$dir/log")"
both_ways "two-level answers" query --store "$dir/picked" --select 2 --fetch raw
tiny_edits 150 >"$dir/edits.jsonl"
mixed edit encode --store "$dir/edits" --speed 1 "$dir/edits.jsonl" >/dev/null; check "edits by both" $? "$(tail -1 "$dir/log")"
both_ways "answers over edits" edit query --store "$dir/edits"
alone "$first" eval ppl --window 1K --score 256 --pieces 4 --format csv --input "${texts[0]}" >"$dir/ppl-alone"
mixed eval ppl --window 1K --score 256 --pieces 4 --format csv --input "${texts[0]}" >"$dir/ppl-mixed"
[ -s "$dir/ppl-mixed" ] && python3 - "$dir/ppl-alone" "$dir/ppl-mixed" <<'PY'; check "perplexity" $? "$(cat "$dir/ppl-alone" "$dir/ppl-mixed" | tr '\n' ' ')"
import csv, sys
a, b = (list(csv.DictReader(line for line in open(f) if not line.startswith("#")))[-1] for f in sys.argv[1:])
sys.exit(not abs(float(a["ppl"]) - float(b["ppl"])) <= 1e-3 * float(a["ppl"]))
PY

seq 0 159 >"$dir/ids"
refused "one document over unlike ranks" 'needs the same backend on all of them, but rank 0 runs on' encode --layout full --shard document --store "$dir/no" "${texts[@]}"
refused "logits by unlike ranks together" 'needs the same backend on all of them' logits --layout full --tokens "$dir/ids" --out "$dir/no.safetensors"
refused "unlike layouts" '--layout full: rank 0 has another' encode --store "$dir/no" "${texts[@]}" -- --layout pce -- --layout full
refused "an option for some ranks" '--segment .*: rank 0 has another' encode --store "$dir/no" "${texts[@]}" -- --segment 64
refused "unlike words" 'rank 0 has other words behind its options' encode --store "$dir/no" "${texts[0]}" -- "${texts[1]}"
refused "a speed for some ranks" '--speed is given to rank 0 and not to rank' encode --store "$dir/no2" "${texts[@]}" -- --speed 2
count_end
