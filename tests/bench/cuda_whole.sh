#!/bin/sh
# The end-to-end tables of SPEED.md for one GPU: encoding, decoding and single operations of models with random weights.   usage: tests/bench/cuda_whole.sh PRECIS
set -e
precis=${1:-build/precis}
run() { echo "== $*"; "$precis" bench "$@" --backend cuda --quiet; }
git log -1 --format='commit %h, %cd' 2>/dev/null || true
nvidia-smi --query-gpu=name,clocks.sm,power.limit --format=csv,noheader
run ops --shape 8b --batch 16K
run ops --shape smollm2 --batch 32K
for rows in 16K 32K 64K; do run encode --shape smollm2 --segment 2K --segments 256 --batch $rows; done
run encode --shape smollm2 --segment 2K --segments 256 --batch 32K --kv-to host
run encode --shape smollm2 --segment 4K --segments 128 --batch 64K
for rows in 16K 48K; do run encode --shape 8b --segment 4K --segments 24 --batch $rows --sinks 128 --profile; done
run encode --shape 8b --layout unigist --ratio 8 --local 512 --segment 128K --segments 1 --batch 18K --sinks 128 --repeats 1
run encode --shape 8b --layout full --segment 32K --segments 1 --batch 16K --repeats 1
for rows in 0 8K 128K; do run query --shape 8b --context $rows --segment 8K --profile; done
