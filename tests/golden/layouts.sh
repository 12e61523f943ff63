#!/bin/bash
# Every layout by one backend against another: the stores equal to rounding, and each backend answers from the other's store.
#
#     tests/golden/layouts.sh PRECIS [FIRST SECOND]        cpu cpu_ref, where no others are named
#
# LAYOUTS="full unigist" takes some of them alone. Numbers are f32, so that nothing but the order of sums differs. Prints a line per check that fails and `layouts: N passed, N failed`.
set -u
here=$(dirname "$0")
. "$here/../expect.sh"
. "$here/../tiny_model.sh"
begin layouts "$@"
first=${2:-cpu} second=${3:-cpu_ref}
tiny_model "$dir/model"
head -c 3000 "$root/LICENSE" >"$dir/long.txt"
tail -c 500 "$root/LICENSE" >"$dir/short.txt"
printf 'No' >"$dir/brief.txt" # too short for a gist
tiny_prompts >"$dir/prompts.jsonl"
by() { local backend=$1; shift; timeout -k 5 120 "$precis" "$@" --backend "$backend" --dtype f32 --model "${model:-$dir/model}" 2>>"$dir/log"; }
answers() { by "$@" --prompts "$dir/prompts.jsonl" --max-tokens 16 --format jsonl | grep -o '"tokens":\[[^]]*\]'; }

stored() { # NAME COMMAND-WORDS OPTIONS... -- INPUTS...; STORE is left in $dir/by-first and $dir/by-second
    local name=$1
    shift
    rm -rf "$dir/by-first" "$dir/by-second"
    by "$first" "$@" --kv-dtype f32 --store "$dir/by-first" >/dev/null; check "$name encoded by $first" $? "$(tail -1 "$dir/log")"
    by "$second" "$@" --kv-dtype f32 --store "$dir/by-second" >/dev/null; check "$name encoded by $second" $? "$(tail -1 "$dir/log")"
    said=$("$here/compare_stores.py" "$dir/by-first" "$dir/by-second" 2e-4 2>&1); check "K/V of $name" $? "$said"
}
asked() { # NAME COMMAND-WORDS OPTIONS...: both backends, each from the other's store
    local name=$1
    shift
    answers "$second" "$@" --store "$dir/by-second" >"$dir/plain"
    answers "$first" "$@" --store "$dir/by-second" >"$dir/answers"; answers_alike "$dir/plain" "$dir/answers"; check "$name: answers by $first from the store of $second" $? "$(tail -1 "$dir/log")"
    answers "$second" "$@" --store "$dir/by-first" >"$dir/answers"; answers_alike "$dir/plain" "$dir/answers"; check "$name: answers by $second from the store of $first" $? "$(tail -1 "$dir/log")"
}

for layout in pce "pce --align even" full "blockgist --keep both --sinks 2" fine-kv "fine-kv --positions compact" "fine-kv --local 16" coarse-kv coarse-rec "coarse-rec --positions compact" \
    "unigist --local 32 --sinks 4" pcw structured ape block star blockselect "blockselect --score knorm" "blockselect --score snapkv" "blockselect --score expected --budget uniform" \
    "blockselect --score observed --budget uniform --keep both"; do
    [[ " ${LAYOUTS:-${layout%% *}} " == *" ${layout%% *} "* ]] || continue
    [ -z "${LAYOUTS:-}" ] || case $layout in *--score*) continue ;; esac
    sink=(--sink "A text:")
    [ "$layout" != pcw ] || sink=(--bos)
    # shellcheck disable=SC2086
    case $layout in pcw) by "$first" encode --layout pcw --store "$dir/none" "$dir/brief.txt" >/dev/null 2>&1 || continue ;; esac # a model without BOS
    # shellcheck disable=SC2086
    stored "$layout" encode --layout $layout --ratio 4 --segment 128 "${sink[@]}" "$dir/long.txt" "$dir/short.txt" "$dir/brief.txt"
    asked "$layout" query
    case $layout in
    pce | block) asked "$layout, selected segments" query --select 2 ;;
    *"keep both"*) asked "$layout, two levels" query --select 2 --fetch raw ;;
    esac
done

adapter=$root/tests/golden/tiny-llama/adapter-everything.safetensors
stored "an adapter" encode --layout coarse-kv --adapter "$adapter" --ratio 4 --segment 128 "$dir/long.txt" "$dir/short.txt"
asked "an adapter" query --adapter "$adapter"
tiny_edits 150 >"$dir/edits.jsonl"
stored "edits" edit encode "$dir/edits.jsonl"
asked "edits" edit query

if [ -n "${LAYOUTS:-}" ]; then
    count_end
    exit
fi

# Layouts of which nothing is stored, sliding windows, rows of one document: logits.
seq 0 159 | cat - <(seq 0 3 159) <(seq 0 159) >"$dir/ids"
awk '{ print $1 % 64 }' "$dir/ids" >"$dir/few-ids"
logits() { # NAME IDS OPTIONS...
    local name=$1 ids=$2
    shift 2
    by "$first" logits --tokens "$ids" --out "$dir/logits-1" "$@" >/dev/null; check "logits of $name by $first" $? "$(tail -1 "$dir/log")"
    by "$second" logits --tokens "$ids" --out "$dir/logits-2" "$@" >/dev/null; check "logits of $name by $second" $? "$(tail -1 "$dir/log")"
    said=$("$here/compare_logits.py" "$dir/logits-1" "$dir/logits-2" 2e-4 2>&1); check "logits of $name" $? "$said"
}
for layout in full "full --segment 100" "streaming --sinks 4 --local 60" "unigist --ratio 8 --local 0 --gist-init unit" "fine-kv --ratio 8 --segment 128 --local 32"; do
    # shellcheck disable=SC2086
    logits "$layout" "$dir/ids" --layout $layout
done
for layout in full "full --segment 40" "pce --segment 60"; do
    # shellcheck disable=SC2086
    model=$root/tests/golden/tiny-window logits "a sliding window, $layout" "$dir/few-ids" --layout $layout
done
for name in qwen2 qwen3 yarn linear; do model=$root/tests/golden/tiny-$name logits "tiny-$name" "$dir/few-ids" --layout full; done
count_end
