#!/usr/bin/env python3
"""What src/store/FORMAT.md says of a sink's rows, with transformers: they are its cache after the sink, and a segment's rows those that it gets behind them.

    precis encode --model DIR --dtype f32 --kv-dtype f32 --store STORE --segment 64 --sink @sink.txt [--sinks 4] text.txt
    precis encode --model DIR --dtype f32 --kv-dtype f32 --store SINK.store --special --segment 4K sink.txt
    python3 tests/golden/check_sink.py DIR STORE [SINK.store]            needs transformers and torch; a Hugging Face folder, layout pce, --align left

Prints the largest difference over the largest value; exit 1 above 1e-5.
"""
import json, os, re, sys
import numpy as np
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from compare_stores import segments


def cache(model, embeddings):
    """[K, V], each [layer, K/V head, row, d_head], after these rows at positions 0, 1, .."""
    with torch.no_grad():
        past = model(inputs_embeds=embeddings[None], use_cache=True).past_key_values
    return [np.stack([past[layer][i][0].numpy() for layer in range(model.config.num_hidden_layers)]) for i in (0, 1)]


def difference(segment, want):
    worst = 0.0
    for part, w in zip("kv", want):
        got = np.frombuffer(segment[part].tobytes(), dtype=np.float32).reshape(w.shape)
        worst = max(worst, float(np.abs(got - w).max() / np.abs(w).max()))
    return worst


def main(folder, store, alone=None):
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    profile = json.loads(open(os.path.join(store, "store.json")).readline())
    words = model.get_input_embeddings().weight.detach()
    blank = int((re.search(r"sinks (\d+)", profile.get("gists", "")) or [0, 0])[1])
    sink, worst, n = torch.cat([words.mean(0).repeat(blank, 1), words[profile["sink"]]]), 0.0, 0
    for segment in segments(store).values():
        ids = [i for i in segment["tokens"] if i >= 0]
        worst = max(worst, difference(segment, [rows[:, :, len(sink):] for rows in cache(model, torch.cat([sink, words[ids]]))]))
        n += 1
    print(f"{n} segments behind {blank} + {len(profile['sink'])} sink rows: {worst:.2g}")
    if alone:
        (segment,) = segments(alone).values()
        if [i for i in segment["tokens"] if i >= 0] != profile["sink"]:
            sys.exit(f"{alone}: other ids than the sink's")
        own = difference(segment, cache(model, words[profile["sink"]]))
        print(f"the sink's own rows: {own:.2g}")
        worst = max(worst, own)
    return worst > 1e-5


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
