#!/bin/bash
# How long a model takes from the command to its first forward pass, beside what the machine can do in the same run: a small GGUF file warm, and folders
# of BF16 shards in the shape of Llama-3-8B with some or all of its 32 layers, cold and warm. Needs root to empty the page cache (without: warm alone),
# python3, and disk for one folder at a time (2.1 GB + 0.44 GB a layer); all 32 layers take 16 GB of memory for the packed copy.
#   usage: tests/bench/startup.sh PRECIS MODEL.gguf FOLDER [LAYERS...]      (FOLDER: where to make the weights; LAYERS: 4 8 16 unless given)
set -euo pipefail
. "$(dirname "$0")/machine.sh"
precis=$(realpath "$1") model=$(realpath "$2") place=$(realpath "$3")
shift 3
layers=("${@:-4}")
if [ $# = 0 ]; then layers=(4 8 16); fi
work=$(mktemp -d -p "$place")
trap 'rm -rf "$work"' EXIT
echo 1 >"$work/ids"
cold() { sync && { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null; }
median() { sort -g | awk '{v[NR]=$1} END {print v[int((NR+1)/2)]}'; }
timed() { # COMMAND...: seconds
    local from
    from=$(date +%s.%N)
    "$@" >"$work/out" 2>"$work/err" || { cat "$work/err" >&2; return 1; }
    awk -v a="$from" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f\n", b - a }'
}
first_pass() { timed "$precis" logits --model "$1" --dtype "$2" --tokens "$work/ids" --out "$work/logits"; } # rows of one token: the smallest pass there is
packed() { grep -o 'weights: [0-9]* MB ready in [0-9.]* s' "$work/err" | awk '{print $2, $6}'; }

echo "$(machine), $(free -g | awk '/Mem/ {print $2}') GiB"

cat >"$work/copy.c" <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
int main(void) { /* into memory never touched before, as packing does, and into memory that is there */
    size_t n = (size_t)1 << 30, piece = n / 256;
    char *a = malloc(n), *b = malloc(n);
    memset(a, 1, n);
    for (int round = 0; round < 2; round++) {
        double t = now();
#pragma omp parallel for
        for (int i = 0; i < 256; i++) memcpy(b + i * piece, a + i * piece, piece);
        printf("%.2f ", n * 1e-9 / (now() - t));
    }
    return b[n / 2] == 0;
}
C
${CC:-cc} -O2 -fopenmp "$work/copy.c" -o "$work/copy"
read -r fresh again <<<"$("$work/copy")"
echo "copy of 1 GiB by all cores: $fresh GB/s into fresh memory, $again GB/s into memory that is there"

for dtype in f32 bf16; do
    for _ in 1 2 3 4 5 6 7; do first_pass "$model" $dtype; done | median >"$work/s"
    echo "$(basename "$model"), $dtype, warm: $(cat "$work/s") s from command to end of the first pass (median of 7; bound 0.5)"
done

for n in "${layers[@]}"; do
    mkdir "$work/m"
    python3 - "$work/m" "$n" <<'P'
import json, os, struct, sys
path, n_layer = sys.argv[1], int(sys.argv[2])
D, FF, KV, V, SHARD = 4096, 14336, 1024, 128256, 5 << 30
json.dump(dict(model_type="llama", hidden_size=D, num_hidden_layers=n_layer, num_attention_heads=32, num_key_value_heads=8, intermediate_size=FF, vocab_size=V,
               max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=False), open(f"{path}/config.json", "w"))
shapes = {"model.embed_tokens.weight": [V, D], "lm_head.weight": [V, D], "model.norm.weight": [D]}
for l in range(n_layer):
    p = f"model.layers.{l}."
    shapes |= {p + "self_attn.q_proj.weight": [D, D], p + "self_attn.k_proj.weight": [KV, D], p + "self_attn.v_proj.weight": [KV, D], p + "self_attn.o_proj.weight": [D, D],
               p + "mlp.gate_proj.weight": [FF, D], p + "mlp.up_proj.weight": [FF, D], p + "mlp.down_proj.weight": [D, FF], p + "input_layernorm.weight": [D],
               p + "post_attention_layernorm.weight": [D]}
size = lambda s: 2 * s[0] * (s[1] if len(s) > 1 else 1)
shards, room = [[]], SHARD
for name, s in shapes.items():
    if size(s) > room and shards[-1]: shards.append([]); room = SHARD
    shards[-1].append(name); room -= size(s)
noise = bytearray(os.urandom(64 << 20))
noise[1::2] = bytes(b & 0x81 | 0x3c for b in noise[1::2])  # bf16 around 0.01
where = {}
for i, names in enumerate(shards):
    file, at, header = f"model-{i + 1:05}-of-{len(shards):05}.safetensors", 0, {}
    for name in names:
        header[name] = dict(dtype="BF16", shape=shapes[name], data_offsets=[at, at + size(shapes[name])]); at += size(shapes[name]); where[name] = file
    text = json.dumps(header).encode(); text += b" " * (-len(text) % 8)
    with open(f"{path}/{file}", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        while at > 0: f.write(noise[:min(at, len(noise))]); at -= len(noise)
        f.flush(); os.fsync(f.fileno())
json.dump(dict(metadata={}, weight_map=where), open(f"{path}/model.safetensors.index.json", "w"))
P
    gb=$(du -sb "$work/m" | awk '{print $1 / 1e9}')
    line="8B shape, $n layers, $gb GB:"
    if cold; then
        s=$(timed cat "$work"/m/*.safetensors) && line+=" disk $(awk -v g="$gb" -v s="$s" 'BEGIN { printf "%.2f", g / s }') GB/s;"
        cold
        s=$(first_pass "$work/m" bf16) && read -r mb p <<<"$(packed)"
        line+=" cold $s s (weights $p s, $(awk -v m="$mb" -v p="$p" 'BEGIN { printf "%.2f", m / 1000 / p }') GB/s);"
    fi
    first_pass "$work/m" bf16 >/dev/null
    for _ in 1 2 3; do first_pass "$work/m" bf16 >>"$work/warm" && packed >>"$work/packed"; done
    s=$(median <"$work/warm") p=$(awk '{print $2}' "$work/packed" | median) mb=$(awk 'END {print $1}' "$work/packed")
    echo "$line warm $s s (weights $p s, $(awk -v m="$mb" -v p="$p" 'BEGIN { printf "%.2f", m / 1000 / p }') GB/s; medians of 3)"
    rm -f "$work/warm" "$work/packed"
    rm -rf "$work/m"
done
