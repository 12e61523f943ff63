#!/bin/bash
# Several GPUs of one host through NCCL: the same bits at every number of ranks, what messages cost, how it scales, and a rank that is killed.
#
#     tests/bench/nccl_scaling.sh PRECIS MODEL TEXT [WORK]
#
# MODEL and TEXT are for the bits (any model with a tokenizer; a text of a few thousand tokens) and for the kill; the rates use random weights.
# RANKS="1 2 4 8"  SHARE= (bits without two ranks a GPU)  SHAPE=8b  TOKENS=128K  BATCH=8K  REPEATS=3  LAYOUTS="full pce blockgist unigist" (of the bits)
# PARTS="device bits shard weak segments kill"; also "blocks": `full` at most ranks with BLOCKS="0 2 4 8" blocks for messages (PRECIS_NCCL_CTAS)
# BACKEND=cuda (cpu: a rehearsal without GPUs)
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../parallel/env.sh"
. "$here/../expect.sh"
[ $# -ge 3 ] || { echo "usage: $0 PRECIS MODEL TEXT [WORK]" >&2; exit 2; }
precis=$1 model=$2 text=$3 work=${4:-$(mktemp -d)}
backend=${BACKEND:-cuda} shape=${SHAPE:-8b} tokens=${TOKENS:-128K} batch=${BATCH:-8K} repeats=${REPEATS:-3}
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
ranks=${RANKS:-$(for n in 1 2 4 8; do [ "$n" -le "$gpus" ] && echo "$n"; done)}
parts=${PARTS:-device bits shard weak segments kill}
mkdir -p "$work"
suite=nccl_scaling tell=yes
say() { echo "# $*"; }
mpi() { n=$1; shift; timeout -k 5 "${LIMIT:-300}" mpirun -n "$n" "$@"; } # at so many ranks
times() { awk "BEGIN { print $1 * $2 }"; }
# What one layout gives at one number of ranks, on the GPUs from number `at` on: its store's digest, an answer from it, logits.
one_bits() { # layout, ranks or "share", processes, at
    together= share= dir=$work/$1-$2 # together: of the store alone
    case $1 in full) set -- full "${@:2}"; together="--shard document" ;; blockgist) set -- "blockgist --ratio 4" "${@:2}"; together="--keep both" ;;
    unigist) set -- "unigist --ratio 4 --local 64 --sinks 4" "${@:2}"; together="--shard document" ;; esac
    [ "$2" = share ] && share=--share-gpu
    local own
    own=$(seq -s, "$4" $(($4 + $3 - 1)))
    [ "$2" = share ] || [ "$gpus" -eq 0 ] || export CUDA_VISIBLE_DEVICES="$own"
    mkdir -p "$dir"
    same="--backend $backend --dtype bf16 --model $model --quiet $share"
    # shellcheck disable=SC2086
    {
        mpi "$3" "$precis" encode $same --store "$dir/kept" --layout $1 $together --segment 512 --sink "A text:" "$text" || echo "encode failed"
        "$precis" store digest "$dir/kept" | cut -d' ' -f1 >"$dir/store"
        mpi "$3" "$precis" query $same --store "$dir/kept" --prompt "You may" --max-tokens 16 >"$dir/answer" || echo "query failed"
        mpi "$3" "$precis" logits $same --tokens "$work/ids" --out "$dir/logits" --layout $1 --segment 256 || echo "logits failed"
    } 2>"$dir/err" >&2 || true
    grep -h -m 3 -E 'error|failed' "$dir/err"
    return 0
}
nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | sort | uniq -c
"$precis" version | grep -E '^(precis|CUDA|NCCL|MPI)'

for part in $parts; do
    case $part in
    device)
        program=$(dirname "$precis")/tests/parallel/test_device
        say "exchanges of device memory"
        if [ -x "$program" ]; then for n in $ranks; do mpi "$n" "$program" || failed=$((failed + 1)); done; else echo "not built: make $program"; fi
        ;;
    bits)
        say "stores, logits and answers at $ranks ranks, and with two ranks a GPU"
        (seq 1 159; seq 2 2 159; seq 1 159) | tr '\n' ' ' >"$work/ids"
        for n in $ranks ${SHARE-share}; do # jobs of n ranks side by side, each on GPUs of its own
            count=$n at=0
            if [ "$n" = share ]; then count=2; for m in $ranks; do [ "$m" -gt 1 ] && count=$((2 * m)); done; fi
            for layout in full pce blockgist unigist; do
                case " ${LAYOUTS:-full pce blockgist unigist} " in *" $layout "*) ;; *) continue ;; esac
                if [ "$n" = share ] || [ $((at + count)) -gt "$gpus" ]; then wait; at=0; fi
                one_bits "$layout" "$n" "$count" "$at" &
                at=$((at + count))
            done
            wait
        done
        for layout in ${LAYOUTS:-full pce blockgist unigist}; do
            for n in $ranks ${SHARE-share}; do
                for what in store answer logits; do
                    [ -s "$work/$layout-$n/$what" ] && cmp -s "$work/$layout-$n/$what" "$work/$layout-${ranks%% *}/$what"
                    check "$layout, $n ranks: $what" $?
                done
            done
        done
        if [ "$backend" = cuda ]; then
            mpi $((2 * gpus)) "$precis" logits --backend cuda --model "$model" --tokens "$work/ids" --out "$work/none" 2>&1 | grep -q -- --share-gpu
            check "more ranks than GPUs are told so" $?
        fi
        ;;
    shard | weak)
        for layout in "unigist --ratio 8 --local 128" full; do
            [ "$part" = weak ] && [ "$layout" = full ] && continue
            say "$part scaling: ${layout%% *}, shape $shape, $tokens tokens$([ "$part" = weak ] && echo ' a rank')"
            base= first=
            for n in $ranks; do
                size=$tokens
                [ "$part" = weak ] && size=$((${tokens%K} * n))K
                # shellcheck disable=SC2086
                mpi "$n" "$precis" bench shard --backend "$backend" --shape "$shape" --layout $layout --window "$size" --batch "$batch" --sinks 128 --repeats "$repeats" \
                    --quiet >"$work/out" 2>"$work/err"
                rc=$? rate=$(sed -n 's/^rate *\([0-9]*\).*/\1/p' "$work/out") digest=$(sed -n 's/^digest *//p' "$work/out")
                cat "$work/out"
                [ $rc -eq 0 ] || cat "$work/err"
                base=${base:-$rate} first=${first:-$digest}
                echo "${layout%% *},$part,$n ranks,$rate tokens/s,ideal $(times "${base:-0}" "$n"),$(awk "BEGIN { printf \"%.1f\", 100 * ${rate:-0} / ((${base:-0} + 1e-9) * $n) }") %"
                [ "$part" = weak ] || { [ -n "$digest" ] && [ "$digest" = "$first" ]; check "${layout%% *}, $n ranks: the K/V of $tokens tokens" $?; }
            done
        done
        ;;
    blocks)
        for n in $ranks; do :; done
        say "blocks for messages beside computing: full, $n ranks, shape $shape, $tokens tokens"
        for b in ${BLOCKS:-0 2 4 8}; do
            PRECIS_NCCL_CTAS=$b mpi "$n" "$precis" bench shard --backend "$backend" --shape "$shape" --layout full --window "$tokens" --batch "$batch" --sinks 128 \
                --repeats "$repeats" --quiet 2>&1 | sed -n "s/^\(rate\|overlap\|beside\|messages\)/PRECIS_NCCL_CTAS=$b: &/p"
        done
        ;;
    segments)
        say "weak scaling of segments that need nothing of each other: one process a GPU, all at once"
        base=
        for n in $ranks; do
            for i in $(seq 0 $((n - 1))); do
                CUDA_VISIBLE_DEVICES=$i "$precis" bench encode --backend "$backend" --shape "$shape" --segment 4K --segments "${SEGMENTS:-16}" --batch 16K --repeats "$repeats" --quiet \
                    >"$work/out-$i" 2>&1 &
            done
            wait
            rate=$(for i in $(seq 0 $((n - 1))); do sed -n 's/^rate *\([0-9]*\).*/\1/p' "$work/out-$i"; done | awk '{ s += $1 } END { print s + 0 }')
            base=${base:-$rate}
            echo "segments,weak,$n processes,$rate tokens/s,$(awk "BEGIN { printf \"%.1f\", 100 * $rate / (($base + 1e-9) * $n) }") %"
        done
        ;;
    kill)
        n=2
        for m in $ranks; do n=$m; done
        [ "$n" -gt 1 ] || n=2
        share=$([ "$backend" = cuda ] && [ "$n" -gt "$gpus" ] && echo --share-gpu)
        say "a rank of $n is killed in the middle"
        rm -rf "$work/whole" "$work/cut" "$work/many"
        mkdir -p "$work/many"
        for i in $(seq 1 "${COPIES:-12}"); do (echo "Part $i."; for _ in $(seq 1 "${LENGTH:-20}"); do cat "$text"; done) >"$work/many/$i.txt"; done
        encode() {
            # shellcheck disable=SC2086
            mpi "$n" "$precis" encode --backend "$backend" --dtype bf16 --model "$model" --store "$1" --layout unigist --ratio 4 --local 64 --shard document $share "$work/many"
        }
        begin=$(date +%s.%N)
        encode "$work/whole" >/dev/null 2>"$work/err"
        whole=$(awk "BEGIN { print $(date +%s.%N) - $begin }")
        encode "$work/cut" >/dev/null 2>"$work/killed" &
        run=$!
        sleep "$(awk "BEGIN { print 0.7 * $whole }")"
        victim=$(pgrep -f -- "precis encode .*--store $work/cut" | while read -r p; do tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -q "^OMPI_COMM_WORLD_RANK=$((n - 1))$" && echo "$p"; done | tail -1)
        begin=$(date +%s.%N)
        kill -9 "$victim"
        wait $run
        rc=$? ended=$(awk "BEGIN { print $(date +%s.%N) - $begin }")
        [ $rc -ne 0 ] && awk "BEGIN { exit !($ended < 30) }"; check "all ranks ended $ended s after rank $((n - 1)) was killed (a whole run takes $whole s), exit code $rc" $?
        grep -iE "rank $((n - 1)) .*(signal|killed)|signal 9" "$work/killed" | head -2
        grep -qiE "rank $((n - 1))" "$work/killed"; check "the message names the rank" $?
        "$precis" store check "$work/cut"; check "the store is sound" $?
        had=$("$precis" store ls "$work/cut" 2>/dev/null | sed -n 's/.* \([0-9]*\) segments.*/\1/p' | head -1)
        encode "$work/cut" >/dev/null 2>"$work/err"
        [ "$("$precis" store digest "$work/cut" | cut -d' ' -f1)" = "$("$precis" store digest "$work/whole" | cut -d' ' -f1)" ]; check "the same command again ends in the same store ($had segments were there)" $?
        ;;
    esac
done
count_end
