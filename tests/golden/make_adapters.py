#!/usr/bin/env python3
"""Random adapters and the golden logits of layouts that use them.

    python3 tests/golden/make_adapters.py         # writes tests/golden/tiny-llama/adapter-*.safetensors and golden-adapters.safetensors; needs torch

Rows, positions and who sees whom come from make_gists.py; what an adapter does is written out here, row by row: every linear layer is asked for the row's
kind.  Factors are as large as the weights, so that a wrong row, layer or order is far from the golden.
"""
import math, os
import torch
from safetensors.torch import save_file
import make_gists as G

HERE, C, W = G.HERE, G.CONFIG, G.W
D, HEADS, KV, FF, LAYERS = C["hidden_size"], C["num_attention_heads"], C["num_key_value_heads"], C["intermediate_size"], C["num_hidden_layers"]
HD = D // HEADS
# `precis inspect tests/golden/tiny-llama` and `.../model.gguf`: the same weights, the second rounded to Q8_0 with its rows in pair order
FINGERPRINTS = "d9cdc8d5ef707dede548860863d0cfe0 f2071b02eb663b963a191e780f9060df"
SHAPE = {"q": (HEADS * HD, D), "k": (KV * HD, D), "v": (KV * HD, D), "o": (D, HEADS * HD), "gate": (FF, D), "up": (FF, D), "down": (D, FF)}
NAME = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
        "down": "mlp.down_proj"}


def factors(t, kind, layer, proj, rank):
    out, n = SHAPE[proj]
    t[f"layers.{layer}.{proj}.{kind}_a"] = torch.randn(rank, n) / math.sqrt(n)
    t[f"layers.{layer}.{proj}.{kind}_b"] = torch.randn(out, rank) * 0.3


def make(name, layouts, ratios, own=0, sinks=0, unit=False, lora=(), gist_lora=(), weights=()):
    torch.manual_seed(sum(name.encode()))
    t = {}
    if own: t["gist_embedding"] = torch.randn(own, D) * 0.5
    if sinks: t["sink_embedding"] = torch.randn(sinks, D) * 0.5
    for layer, projs, rank in lora:
        for i, p in enumerate(projs): factors(t, "lora", layer, p, rank + i)
    for layer, projs, rank in gist_lora:
        for i, p in enumerate(projs): factors(t, "gist_lora", layer, p, rank + i)
    for layer, projs in weights:
        for p in projs: t[f"layers.{layer}.{p}.gist_weight"] = torch.randn(SHAPE[p]) / math.sqrt(D)
    t["zero_key"] = torch.randn(LAYERS, KV, HD)
    meta = dict(format="precis-adapter-1", model=FINGERPRINTS, layouts=layouts, ratios=ratios, gist_input="unit" if unit else "own")
    save_file(t, os.path.join(HERE, f"adapter-{name}.safetensors"), metadata=meta)
    return {k: v.double() for k, v in t.items()}, unit


def linear(t, layer, proj, row, x):
    w = W[f"model.layers.{layer}.{NAME[proj]}.weight"]
    p, gist = f"layers.{layer}.{proj}.", row["kind"] == G.GIST
    if p + "lora_a" in t: w = w + t[p + "lora_b"] @ t[p + "lora_a"]
    if gist and p + "gist_weight" in t: w = t[p + "gist_weight"]
    y = w @ x
    if gist and p + "gist_lora_a" in t: y = y + t[p + "gist_lora_b"] @ (t[p + "gist_lora_a"] @ x)
    return y


def run(adapter, layout, **case):
    t, unit = adapter
    case = dict(case, layout=layout, init="unit" if unit else "mean")
    rows = G.build(**case)
    blank, seen = 0, {}
    for row in rows:
        if row["kind"] == G.SINK and blank < case.get("blank", 0):
            row["x"] = t["sink_embedding"][blank] if "sink_embedding" in t else row["x"]
            blank += 1
        if row["kind"] == G.GIST and "gist_embedding" in t:
            u = seen.get(row["segment"], 0)
            seen[row["segment"]] = u + 1
            vector = t["gist_embedding"][u % len(t["gist_embedding"])]
            row["x"] = row["x"] + vector if unit else vector
    r, window = case.get("r", 0), case.get("window")
    mask = torch.tensor([[G.sees(layout, q, c, i, j, r, window) for j, c in enumerate(rows)] for i, q in enumerate(rows)])
    n, pos, remembered = len(rows), [row["pos"] for row in rows], [row.get("remembered", row["pos"]) for row in rows]
    later = torch.tensor([[c["kind"] == G.GIST and q["segment"] > c["segment"] for c in rows] for q in rows])
    x = torch.stack([row["x"] for row in rows])
    apply = lambda layer, proj, h: torch.stack([linear(t, layer, proj, row, h[i]) for i, row in enumerate(rows)])
    for layer in range(LAYERS):
        h = G.norm(x, W[f"model.layers.{layer}.input_layernorm.weight"])
        q, k, v = apply(layer, "q", h).view(n, HEADS, HD), apply(layer, "k", h).view(n, KV, HD), apply(layer, "v", h).view(n, KV, HD)
        far = G.rope(k, remembered).repeat_interleave(HEADS // KV, 1)
        q, k, v = G.rope(q, pos), G.rope(k, pos).repeat_interleave(HEADS // KV, 1), v.repeat_interleave(HEADS // KV, 1)
        logits = torch.where(later, torch.einsum("qhd,chd->hqc", q, far), torch.einsum("qhd,chd->hqc", q, k)) / math.sqrt(HD)
        a = torch.softmax(logits.masked_fill(~mask, -math.inf), -1)
        x = x + apply(layer, "o", torch.einsum("hqc,chd->qhd", a, v).reshape(n, -1))
        h = G.norm(x, W[f"model.layers.{layer}.post_attention_layernorm.weight"])
        x = x + apply(layer, "down", torch.nn.functional.silu(apply(layer, "gate", h)) * apply(layer, "up", h))
    return G.norm(x, W["model.norm.weight"]) @ W["model.embed_tokens.weight"].T


ALL = ["q", "k", "v", "o", "gate", "up", "down"]
RANGE = range(LAYERS)
rows_own = make("rows", "blockgist fine-kv", "4", own=1, sinks=2)
unit_lora = make("lora", "full pce unigist", "4 8", own=1, unit=True, lora=[(layer, ALL, 1) for layer in RANGE])
gist_lora = make("gist-lora", "fine-kv blockgist", "4", own=1, gist_lora=[(0, ["q", "v", "down"], 2), (1, ALL, 3)])
everything = make("everything", "coarse-kv unigist", "4", own=3, sinks=4, lora=[(0, ["q", "gate", "down"], 2), (1, ["k", "o"], 5)],
                  gist_lora=[(layer, ALL, 1) for layer in RANGE], weights=[(0, ["k"]), (1, ["q", "k", "v"])])
CASES = {
    "rows": lambda: run(rows_own, "blockgist", L=16, r=4, blank=2),
    "lora_full": lambda: run(unit_lora, "full", L=16),
    "lora_unigist": lambda: run(unit_lora, "unigist", r=4, window=8, blank=2),
    "gist_lora": lambda: run(gist_lora, "fine-kv", L=18, r=4, positions="compact", text=True),
    "everything": lambda: run(everything, "coarse-kv", L=18, r=4, blank=4),
    "everything_unigist": lambda: run(everything, "unigist", r=4, window=4, blank=4, text=True),
}
if __name__ == "__main__":
    out = {}
    for name, go in CASES.items():
        out[name] = go()[:, :40].float().contiguous()
        print(name, len(out[name]), "rows, largest", float(out[name].abs().max()))
    save_file(out, os.path.join(HERE, "golden-adapters.safetensors"))
