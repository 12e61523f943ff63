#!/bin/bash
# A fuzzing campaign: each parser's harness with libFuzzer and sanitizers, for a number of executions, from its committed corpus; then the corpus is
# brought down to the inputs that matter.   usage: tests/fuzz/campaign.sh [-n EXECUTIONS] [-w FOLDER] [PARSER...]
# Needs clang with its fuzzer runtime. What it learned stays in FOLDER (build/fuzz); a finding stops it, with the input named. Runs at low priority,
# in pieces of at most 100 s, each behind $TURN (a command that takes a command; none by default) on a machine that is shared.
set -eu
cd "$(dirname "$0")/../.."
runs=500000 work=build/fuzz
while getopts n:w: flag; do
    case $flag in n) runs=$OPTARG ;; w) work=$OPTARG ;; *) exit 2 ;; esac
done
shift $((OPTIND - 1))
if [ $# = 0 ]; then set -- gguf safetensors json corpus model tokenizer tokenizer_gguf tokenizer_json store_index; fi
mkdir -p "$work"
sources=(src/base/*.c src/io/*.c src/text/*.c src/layout/*.c src/store/*.c src/model/{config,config_gguf,config_json,bind,rope}.c)
# shellcheck disable=SC2046 # words
libraries=$(pkg-config --libs libcjson libpcre2-8 libutf8proc libzstd zlib libxxhash)

for parser; do
    fuzz=$work/fuzz_$parser new=$work/new_$parser done_file=$work/done_$parser
    if [ ! -x "$fuzz" ]; then
        # shellcheck disable=SC2086 # words
        ${TURN:-} clang -g -O1 -std=c11 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I. -Isrc -Itests \
            "tests/fuzz/fuzz_$parser.c" "${sources[@]}" $libraries -lpthread -lm -o "$fuzz"
    fi
    mkdir -p "$new"
    total=$(cat "$done_file" 2>/dev/null || echo 0)
    while [ "$total" -lt "$runs" ]; do
        ${TURN:-} nice -n 19 "$fuzz" -runs=$((runs - total)) -max_total_time=100 -max_len=8192 -timeout=10 -rss_limit_mb=3000 -print_final_stats=1 \
            -artifact_prefix="$work/finding_${parser}_" "$new" "tests/fuzz/corpus/$parser" >"$work/log_$parser" 2>&1 || {
            tail -40 "$work/log_$parser"
            exit 1
        }
        total=$((total + $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log_$parser")))
        echo "$total" >"$done_file"
    done
    rm -rf "$work/min_$parser"; mkdir "$work/min_$parser"
    ${TURN:-} nice -n 19 "$fuzz" -merge=1 "$work/min_$parser" "tests/fuzz/corpus/$parser" "$new" >"$work/log_merge_$parser" 2>&1
    echo "$parser: $total executions, $(find "$new" -type f | wc -l) new inputs, $(find "$work/min_$parser" -type f | wc -l) that matter"
done
