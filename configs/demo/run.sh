#!/bin/bash
# make demo: encode a book on 2 ranks behind a shared sink, ask questions whose answers are known, show what the model says beside them.
# Run again it encodes nothing and answers from the store.   usage: configs/demo/run.sh build/precis [MODEL]
set -euo pipefail
here=$(dirname "$0")
precis=${1:-build/precis}
model=$(MODEL=${2:-${MODEL:-}} "$here/../fetch_model.sh")
work=${PRECIS_DEMO:-$(dirname "$precis")/demo}
settings=$(cksum <"$here/../demo.conf") # a store is for one set of settings
store=$work/$(basename "${model%.gguf}")-${settings%% *}.store
mkdir -p "$work"

ranks=()
if command -v mpirun >/dev/null && grep -q '^MPI: [^n]' <<<"$("$precis" version)"; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
    ranks=(mpirun -n 2)
fi

echo "# 1. encode: ${ranks[*]} precis encode --config configs/demo.conf --store $store book.txt"
"${ranks[@]}" "$precis" encode --config "$here/../demo.conf" --model "$model" --store "$store" --format json "$here/book.txt" >"$work/encode.json"
echo "# 2. query: ${ranks[*]} precis query --config configs/demo.conf --store $store --prompts questions.jsonl --chat --stats"
"${ranks[@]}" "$precis" query --config "$here/../demo.conf" --model "$model" --store "$store" --prompts "$here/questions.jsonl" --chat --stats \
    --format jsonl >"$work/answers.jsonl"
python3 "$here/show.py" "$here/questions.jsonl" "$work/answers.jsonl" "$work/encode.json"
