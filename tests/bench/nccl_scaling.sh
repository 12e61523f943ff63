#!/bin/bash
# Several GPUs of one host through NCCL: the same bits at every number of ranks, what messages cost, how it scales, and a rank that is killed.
#
#     tests/bench/nccl_scaling.sh PRECIS MODEL TEXT [WORK]
#
# MODEL and TEXT are for the bits (any model with a tokenizer; a text of a few thousand tokens) and for the kill; the rates use random weights.
# RANKS="1 2 4 8"  SHAPE=8b  TOKENS=128K  BATCH=8K  REPEATS=3  LAYOUTS="full pce blockgist unigist" (of the bits)
# PARTS="device bits shard weak segments kill"  BACKEND=cuda (cpu: a rehearsal without GPUs)
set -u
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../parallel/env.sh"
[ $# -ge 3 ] || { echo "usage: $0 PRECIS MODEL TEXT [WORK]" >&2; exit 2; }
precis=$1 model=$2 text=$3 work=${4:-$(mktemp -d)}
backend=${BACKEND:-cuda} shape=${SHAPE:-8b} tokens=${TOKENS:-128K} batch=${BATCH:-8K} repeats=${REPEATS:-3}
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
ranks=${RANKS:-$(for n in 1 2 4 8; do [ "$n" -le "$gpus" ] && echo "$n"; done)}
parts=${PARTS:-device bits shard weak segments kill}
mkdir -p "$work"
failed=0
say() { echo "# $*"; }
check() { if [ "$2" -eq 0 ]; then echo "ok    $1"; else failed=$((failed + 1)); echo "FAIL  $1"; fi; }
mpi() { n=$1; shift; timeout -k 5 "${LIMIT:-300}" mpirun -n "$n" "$@"; } # at so many ranks
times() { awk "BEGIN { print $1 * $2 }"; }
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
        for layout in full pce "blockgist --ratio 4 --keep both" "unigist --ratio 4 --local 64 --sinks 4"; do
            name=${layout%% *} first= together=
            case " ${LAYOUTS:-full pce blockgist unigist} " in *" $name "*) ;; *) continue ;; esac
            case $name in full | unigist) together="--shard document" ;; esac
            for n in $ranks share; do
                share= count=$n
                if [ "$n" = share ]; then share=--share-gpu count=2; for m in $ranks; do [ "$m" -gt 1 ] && count=$((2 * m)); done; fi
                rm -rf "$work/store"
                # shellcheck disable=SC2086
                mpi "$count" "$precis" encode --backend "$backend" --dtype bf16 --model "$model" --store "$work/store" --layout $layout $together \
                    --segment 512 --sink "A text:" $share --quiet "$text" 2>"$work/err" || cat "$work/err"
                "$precis" store digest "$work/store" 2>>"$work/err" | cut -d' ' -f1 >"$work/digest-$n"
                # shellcheck disable=SC2086
                mpi "$count" "$precis" query --backend "$backend" --dtype bf16 --model "$model" --store "$work/store" --prompt "You may" --max-tokens 16 $share \
                    --quiet >"$work/answer-$n" 2>>"$work/err"
                # shellcheck disable=SC2086
                mpi "$count" "$precis" logits --backend "$backend" --dtype bf16 --model "$model" --tokens "$work/ids" --out "$work/logits-$n" --layout $layout \
                    --segment 256 $share 2>>"$work/err" >&2
                first=${first:-$n}
                [ -s "$work/digest-$n" ] && cmp -s "$work/digest-$n" "$work/digest-$first"; check "$name, $count ranks $share: store" $?
                [ -s "$work/answer-$n" ] && cmp -s "$work/answer-$n" "$work/answer-$first"; check "$name, $count ranks $share: answer" $?
                [ -s "$work/logits-$n" ] && cmp -s "$work/logits-$n" "$work/logits-$first"; check "$name, $count ranks $share: logits" $?
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
echo "nccl_scaling: $failed failed"
[ $failed -eq 0 ]
