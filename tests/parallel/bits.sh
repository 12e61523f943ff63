#!/bin/bash
# The partition changes nothing: stores, answers and their statistics have the same bits at 1, 2, 3, 4 and 7 ranks x 1 and 2 threads.
#
#     tests/parallel/bits.sh PRECIS [MODEL]        without MODEL: that of tests/tiny_model.sh
#
# Prints a line per check that fails and `bits: N passed, N failed`.
set -u
here=$(dirname "$0")
. "$here/../expect.sh"
. "$here/../tiny_model.sh"
. "$here/env.sh"
begin bits "$@"
model=${2:-}
command -v mpirun >/dev/null || skip "no mpirun"

if [ -z "$model" ]; then
    model=$dir/model
    tiny_model "$model"
fi

# Very unequal documents; one of them alone has fewer segments than ranks.
head -c 6000 "$root/LICENSE" >"$dir/long.txt"
tail -c 700 "$root/LICENSE" >"$dir/short.txt"
echo "One line." >"$dir/line.txt"
printf 'No' >"$dir/brief.txt" # too short for a gist
tiny_prompts >"$dir/prompts.jsonl"

run() { timeout -k 5 120 mpirun -n "$n" "$precis" "$@" --threads "$t" 2>>"$dir/log"; } # at $n ranks x $t threads
answers() { run query --model "$model" --store "$1" --prompts "$dir/prompts.jsonl" --max-tokens 12 --temperature 0 --format jsonl --stats "${@:2}" | sed 's/"timings":{[^}]*}//'; }

for n in ${SIZES:-1 2 3 4 7}; do
    for t in ${THREADS:-1 2}; do
        at="$n ranks x $t threads"
        for corpus in "$dir/long.txt $dir/line.txt $dir/short.txt" "$dir/short.txt"; do
            name=$(wc -w <<<"$corpus")
            store=$dir/store-$n-$t-$name
            # shellcheck disable=SC2086
            run encode --model "$model" --store "$store" --segment 128 --sink "A text:" $corpus >/dev/null
            check "encode at $at" $? "$(tail -1 "$dir/log")"
            got=$(digest "$store")
            [ "$n-$t" != 1-1 ] || printf '%s' "$got" >"$dir/digest-$name"
            [ -n "$got" ] && [ "$got" = "$(cat "$dir/digest-$name" 2>/dev/null)" ]; check "store at $at" $? "$got"
        done
        answers "$dir/store-$n-$t-3" >"$dir/answers-$n-$t"
        [ "$(wc -l <"$dir/answers-$n-$t")" -eq 3 ] && cmp -s "$dir/answers-$n-$t" "$dir/answers-1-1"; check "answers at $at" $? "$(tail -1 "$dir/log")"
        answers "$dir/store-$n-$t-3" --select 3 >"$dir/select-$n-$t"
        [ "$(wc -l <"$dir/select-$n-$t")" -eq 3 ] && cmp -s "$dir/select-$n-$t" "$dir/select-1-1"; check "answers by selected segments at $at" $? "$(tail -1 "$dir/log")"
    done
done

# Prompts dealt to ranks: more prompts than ranks, fewer, drawn ones, over a store, over edits (below) and over nothing but themselves.
t=1
for n in 1 2 5; do
    deal=(--deal prompts --slots 1)
    answers "$dir/store-1-1-3" "${deal[@]}" >"$dir/dealt-$n"
    [ "$(wc -l <"$dir/dealt-$n")" -eq 3 ] && cmp -s "$dir/dealt-$n" "$dir/answers-1-1"; check "answers to dealt prompts at $n ranks" $? "$(tail -1 "$dir/log")"
    answers "$dir/store-1-1-3" "${deal[@]}" --temperature 1 --seed 5 >"$dir/drawn-$n"
    [ "$(wc -l <"$dir/drawn-$n")" -eq 3 ] && cmp -s "$dir/drawn-$n" "$dir/drawn-1"; check "drawn answers to dealt prompts at $n ranks" $? "$(tail -1 "$dir/log")"
    for deal in segments auto; do # alone, auto deals prompts
        run query --model "$model" --prompts "$dir/prompts.jsonl" --max-tokens 12 --deal $deal | sed 's/"timings":{[^}]*}//' >"$dir/own-$n"
        [ "$n-$deal" != 1-segments ] || cp "$dir/own-$n" "$dir/own"
        [ "$(wc -l <"$dir/own-$n")" -eq 3 ] && cmp -s "$dir/own-$n" "$dir/own"; check "prompts alone, --deal $deal at $n ranks" $? "$(tail -1 "$dir/log")"
    done
done

# Layouts with gists, and those for comparison: stores and answers, too, and UniGist in one piece.
for layout in "blockgist --keep both --sinks 2" fine-kv "fine-kv --positions compact" coarse-kv coarse-rec "coarse-rec --positions compact" "unigist --local 32 --sinks 4" structured ape block star blockselect "blockselect --score observed --budget uniform --keep both"; do
    for n in 1 3; do
        t=1 at="${layout%% *} at $n ranks"
        store=$dir/gists-$n
        rm -rf "$store"
        # shellcheck disable=SC2086
        run encode --model "$model" --store "$store" --layout $layout --ratio 4 --segment 128 --sink "A text:" "$dir/long.txt" "$dir/short.txt" "$dir/brief.txt" >/dev/null
        digest "$store" >"$dir/gist-digest-$n"
        # shellcheck disable=SC2086 # and plan knows its size
        planned=$("$precis" plan --quiet --model "$model" --layout ${layout/--positions compact/} --ratio 4 --segment 128 --format json "$dir/long.txt" "$dir/short.txt" "$dir/brief.txt" 2>>"$dir/log" |
            grep -o '"kv_kept_bytes":[0-9]*')
        [ "${planned#*:}" = "$("$precis" inspect --format json "$store" | grep -o '"kv_bytes":[0-9]*' | cut -d: -f2)" ]; check "plan of $at" $? "$planned"
        answers "$store" >"$dir/gist-answers-$n"
        [ -s "$dir/gist-digest-$n" ] && cmp -s "$dir/gist-digest-$n" "$dir/gist-digest-1"; check "store of $at" $? "$(tail -1 "$dir/log")"
        case $layout in structured | ape) # chosen segments have the weights of the layout
            answers "$store" --select 2 >"$dir/chosen-answers-$n"
            [ "$(wc -l <"$dir/chosen-answers-$n")" -eq 3 ] && cmp -s "$dir/chosen-answers-$n" "$dir/chosen-answers-1" && ! cmp -s "$dir/chosen-answers-$n" "$dir/gist-answers-$n"
            check "answers by selected segments of $at" $? "$(tail -1 "$dir/log")" ;;
        *"keep both"*)
            answers "$store" --select 2 --fetch raw >"$dir/fetch-answers-$n"
            [ "$(wc -l <"$dir/fetch-answers-$n")" -eq 3 ] && cmp -s "$dir/fetch-answers-$n" "$dir/fetch-answers-1"; check "two-level answers over $at" $? "$(tail -1 "$dir/log")" ;;
        esac
        [ "$(wc -l <"$dir/gist-answers-$n")" -eq 3 ] && cmp -s "$dir/gist-answers-$n" "$dir/gist-answers-1"; check "answers over $at" $? "$(tail -1 "$dir/log")"
    done
done

# UniGist without a store: the prompt's gists go on through the answer.
alone() { run query --model "$model" --prompts "$dir/prompts.jsonl" --max-tokens 12 --format jsonl "$@" | sed 's/"timings":{[^}]*}//'; }
t=1
for n in 1 3; do
    alone --layout unigist --ratio 4 --local 8 --sinks 4 --gist-init unit >"$dir/alone-$n"
    [ "$(wc -l <"$dir/alone-$n")" -eq 3 ] && cmp -s "$dir/alone-$n" "$dir/alone-1"; check "answers under unigist alone at $n ranks" $? "$(tail -1 "$dir/log")"
done
n=1
alone --layout pcw >/dev/null; grep -q 'a prompt alone is answered under full or unigist' "$dir/log"; check "other layouts for a prompt alone are refused" $?
alone --ratio 4 >/dev/null; grep -q -- '--ratio: without --store only for --layout unigist' "$dir/log"; check "options of unigist without it are refused" $?
printf 'layout = blockgist\nratio = 4\nsink = "A text:"\nselect = 2\n' >"$dir/shared.conf"
answers "$dir/gists-1" --config "$dir/shared.conf" | grep -q '"text"'; check "a settings file for encode and query" $? "$(tail -1 "$dir/log")"
alone --config "$dir/shared.conf" | grep -q '"text"'; check "the same without a store" $? "$(tail -1 "$dir/log")"
alone --store "$dir/gists-1" --local 8 >/dev/null; grep -q -- '--local: .* knows how it was encoded' "$dir/log"; check "layout options beside a store are refused" $?

# An adapter changes the weights that ranks share, and is part of a store's address.
adapter=$root/tests/golden/tiny-llama/adapter-everything.safetensors
for n in $([ -n "${2:-}" ] || echo 1 3); do
    t=1 store=$dir/adapted-$n
    run encode --model "$model" --store "$store" --layout coarse-kv --adapter "$adapter" --ratio 4 --segment 128 "$dir/long.txt" "$dir/short.txt" >/dev/null
    digest "$store" >"$dir/adapted-digest-$n"
    [ -s "$dir/adapted-digest-$n" ] && cmp -s "$dir/adapted-digest-$n" "$dir/adapted-digest-1"; check "store with an adapter at $n ranks" $? "$(tail -1 "$dir/log")"
    answers "$store" --adapter "$adapter" >"$dir/adapted-answers-$n"
    [ "$(wc -l <"$dir/adapted-answers-$n")" -eq 3 ] && cmp -s "$dir/adapted-answers-$n" "$dir/adapted-answers-1"; check "answers with an adapter at $n ranks" $? "$(tail -1 "$dir/log")"
    answers "$store" >/dev/null; grep -q 'was encoded with the adapter of hash' "$dir/log"; check "answers without the store's adapter are refused" $?
    rm -rf "$store"
done

# Fetching the raw rows of all segments is PCE (under blockgist it is not: raw rows see the gists among them).
n=1 t=1
for layout in pce "blockselect --keep both --ratio 4"; do
    # shellcheck disable=SC2086
    run encode --model "$model" --store "$dir/all-${layout%% *}" --layout $layout --segment 128 --sink "A text:" "$dir/short.txt" >/dev/null
    more=()
    [ "$layout" = pce ] || more=(--select 99 --fetch raw)
    answers "$dir/all-${layout%% *}" "${more[@]}" >"$dir/all-${layout%% *}.answers"
    [ "$(wc -l <"$dir/all-${layout%% *}.answers")" -eq 3 ] && cmp -s "$dir/all-${layout%% *}.answers" "$dir/all-pce.answers"; check "all of ${layout%% *} fetched" $? "$(tail -1 "$dir/log")"
done

# A pool of edits, some of them twice, written by any number of ranks and read by any other.
awk 'BEGIN { for (i = 0; i < 150; i++) printf "{\"id\":\"edit %d\",\"text\":\"The %s of %d is %d.\"}\n", i, i % 2 ? "size" : "name", i % 140, (i % 140) * 37 }' >"$dir/edits.jsonl"
edited() { run edit query --model "$model" --store "$1" --prompts "$dir/prompts.jsonl" --max-tokens 12 --format jsonl "${@:2}" | sed 's/"timings":{[^}]*}//'; }
for n in 1 2 3 7; do
    t=1 store=$dir/edits-$n
    run edit encode --model "$model" --store "$store" "$dir/edits.jsonl" --format json >"$dir/edits-report-$n"
    digest "$store" >"$dir/edits-digest-$n"
    grep -q '"documents":150.*"encoded":140' "$dir/edits-report-$n"; check "equal edits are encoded once at $n ranks" $? "$(cat "$dir/edits-report-$n")"
    [ -s "$dir/edits-digest-$n" ] && cmp -s "$dir/edits-digest-$n" "$dir/edits-digest-1"; check "edits stored at $n ranks" $? "$(tail -1 "$dir/log")"
    edited "$dir/edits-1" >"$dir/edited-$n"
    [ "$(wc -l <"$dir/edited-$n")" -eq 3 ] && cmp -s "$dir/edited-$n" "$dir/edited-1"; check "answers over edits at $n ranks" $? "$(tail -1 "$dir/log")"
    edited "$dir/edits-1" --deal prompts >"$dir/edited-dealt"
    cmp -s "$dir/edited-dealt" "$dir/edited-1"; check "dealt prompts over edits at $n ranks" $? "$(tail -1 "$dir/log")"
done
[ "$(grep -o '"edit_share":0\.[0-9]*' "$dir/edited-1" | sort -u | wc -l)" -eq 3 ]; check "answers say what they took from edits" $? "$(head -1 "$dir/edited-1")"
run edit query --model "$model" --store "$dir/store-1-1-3" --prompt x >/dev/null; grep -q 'is no pool of edits' "$dir/log"; check "a store that is no pool of edits is refused" $?

seq 0 150 >"$dir/ids"
for t in ${THREADS:-1 2}; do
    "$precis" logits --model "$model" --tokens "$dir/ids" --threads "$t" --out "$dir/logits-$t" >/dev/null 2>>"$dir/log" && cmp -s "$dir/logits-$t" "$dir/logits-1"
    check "logits with $t threads" $? "$(tail -1 "$dir/log")"
done

# One document over all ranks: the logits of its rows, and its store (the bytes between ranks being the planned ones).
seq 0 3 159 | cat - "$dir/ids" "$dir/ids" >"$dir/long-ids"
layouts=("full" "full --segment 100" "fine-kv --ratio 4 --segment 60 --sinks 2" "fine-kv --ratio 8 --segment 128 --local 32" "coarse-kv --ratio 4 --segment 100" "unigist --ratio 4 --local 32 --sinks 4" "unigist --ratio 8 --local 0 --gist-init unit")
for layout in "${layouts[@]}"; do
    for n in ${SIZES:-1 2 3 4 7}; do
        t=1 at="$layout at $n ranks"
        # shellcheck disable=SC2086
        run logits --model "$model" --tokens "$dir/long-ids" --dtype bf16 --all-rows --layout $layout --out "$dir/sharded-$n" >/dev/null
        cmp -s "$dir/sharded-$n" "$dir/sharded-1"; check "logits of $at" $? "$(tail -1 "$dir/log")"
        store=$dir/shared-$n
        rm -rf "$store"
        # shellcheck disable=SC2086
        run encode --model "$model" --store "$store" --shard document --segment 128 --layout $layout --sink "A text:" --format json "$dir/long.txt" "$dir/short.txt" >"$dir/report"
        check "encode by all ranks, $at" $? "$(tail -1 "$dir/log")"
        digest "$store" >"$dir/shared-digest-$n"
        [ -s "$dir/shared-digest-$n" ] && cmp -s "$dir/shared-digest-$n" "$dir/shared-digest-1"; check "store of $at" $? "$(tail -1 "$dir/log")"
        if [ "$n" -gt 1 ]; then
            sent=$(sed -n 's/.*"kv_sent_bytes":\([0-9]*\).*/\1/p' "$dir/report") planned=$(sed -n 's/.*"kv_sent_bytes_planned":\([0-9]*\).*/\1/p' "$dir/report")
            [ -n "$sent" ] && [ "$sent" -gt 0 ] && [ "$sent" = "$planned" ]; check "bytes between ranks of $at" $? "$sent, planned $planned"
        fi
    done
done
# Of a GPU that is too small for a document's K/V two layers are planned, of one that is not all of them.
for layout in "full --segment 100" "blockselect --ratio 4 --score reconstruct --segment 8K"; do
    for gpu in 1MiB 1GiB; do
        # shellcheck disable=SC2086
        "$precis" plan --quiet --model "$model" --layout $layout --gpu-memory $gpu --format json "$dir/long.txt" 2>>"$dir/log" | grep -o '"kv_gpu_layers_bytes":[0-9]*' >"$dir/layers-$gpu"
    done
    grep -q ':[1-9]' "$dir/layers-1MiB" && grep -q ':0$' "$dir/layers-1GiB"; check "precis plan for a small GPU and a large one, $layout" $? "$(cat "$dir"/layers-*)"
done
# So it is of what ranks keep of a document that they share; where two layers are more than it has, plan fails.
for gpu in 12MiB 1GiB; do
    "$precis" plan --quiet --model "$model" --layout full --segment 100 --batch 64 --ranks 2 --gpu-memory $gpu --corpus-tokens 20000 >"$dir/plan-$gpu" 2>>"$dir/log"
done
grep -q 'which all ranks share: in host memory' "$dir/plan-12MiB" && grep -q 'on the GPU, per rank' "$dir/plan-12MiB" && ! grep -q 'in host memory' "$dir/plan-1GiB"
check "precis plan for small GPUs and large ones that share a document" $? "$(grep -h 'K/V' "$dir"/plan-*)"
"$precis" plan --quiet --model "$model" --layout full --segment 100 --gpu-memory 1MiB "$dir/long.txt" 2>&1 >/dev/null | grep -q 'does not fit: two layers .* space [0-9.]* GiB are left'; check "precis plan for a GPU that is too small for two layers" $? "$(tail -1 "$dir/log")"
# What precis plan says before is what goes over the wire.
for layout in "full --segment 100" "unigist --ratio 8 --local 64" "fine-kv --ratio 4 --segment 200"; do
    n=3 t=1
    rm -rf "$dir/planned"
    # shellcheck disable=SC2086
    planned=$("$precis" plan --model "$model" --ranks $n --dtype bf16 --layout $layout --format json "$dir/long.txt" 2>>"$dir/log" | sed -n 's/.*"shared_wire_bytes":\([0-9]*\).*/\1/p')
    # shellcheck disable=SC2086
    sent=$(run encode --model "$model" --store "$dir/planned" --dtype bf16 --layout $layout --shard document --format json "$dir/long.txt" | sed -n 's/.*"kv_sent_bytes":\([0-9]*\).*/\1/p')
    [ -n "$sent" ] && [ "$sent" -gt 0 ] && [ "$sent" = "$planned" ]; check "precis plan's bytes between ranks, $layout" $? "$sent, planned $planned"
done
count_end
