#!/bin/bash
# Perplexity and attention entropy of naive / Sink / SEL / both for P = 1 .. 32: the table of README.md.
#   usage: tests/bench/ppl_table.sh PRECIS MODEL DEV.jsonl[.zst] [WINDOWS_PER_DOCUMENT] [WINDOW]
# Takes the first windows of every document. Prints CSV: commit, machine and settings in comment lines, then a row per method and P.
set -euo pipefail
precis=$1 model=$2 input=$3 each=${4:-2} window=${5:-4096}
sink=$'Given the following partial context, predicting the next sequence of words:\n\n'
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. "$(dirname "$0")/machine.sh"
. "$(dirname "$0")/windows.sh"
windows_cut "$precis" "$model" "$input" "$each" "$window" "$work"
machine
first=1
for method in naive sink sel both; do
    args=(--sink none)
    case $method in sink | both) args=(--sink "$sink") ;; esac
    case $method in sel | both) args+=(--select 2) ;; esac
    "$precis" eval ppl --quiet --model "$model" --input "$work/text.jsonl" --window "$window" --score 1K --pieces 1,2,4,8,16,32 "${args[@]}" --format csv |
        grep -v '^#' | { read -r head; [ "$first" ] && echo "method,$head"; sed "s/^/$method,/"; }
    first=
done
