#!/usr/bin/env python3
"""Golden logits of queries that read a pool of edits (InComeS), a direct transcription of its formulas.

    python3 tests/golden/make_incomes.py          # writes tests/golden/tiny-llama/adapter-edits.safetensors and golden-incomes.safetensors; needs torch

Each edit alone: BOS, its tokens, a gist; causal, positions from 0.  Of the gist's row the upper half of the layers keep k before rotation, and v.  A query
row adds to its own attention  sum_j alpha_j v_j,  alpha = softmax_j(q . k_j / (sqrt(d) T))  over entry 0 (a learned key, value 0) and all edits, q rotated,
k_j not; T = 0.45 when the pool has more than 10 entries.  Shares nothing with the program.
"""
import json, math, os
import torch
from safetensors.torch import load_file, save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tiny-llama")
C = json.load(open(os.path.join(HERE, "config.json")))
W = {k: v.double() for k, v in load_file(os.path.join(HERE, "model.safetensors")).items()}
HEADS, KV, LAYERS, V = C["num_attention_heads"], C["num_key_value_heads"], C["num_hidden_layers"], C["vocab_size"]
D = C["hidden_size"] // HEADS
BOS = 1
EDITS = [[(e * 31 + i * 17 + 2) % V for i in range(3 + e % 5)] for e in range(70)]
QUERY = [(i * i * 3 + 7 * i + 1) % V for i in range(12)]
FINGERPRINTS = "d9cdc8d5ef707dede548860863d0cfe0 f2071b02eb663b963a191e780f9060df"


def rope(x, pos):
    f = C["rope_theta"] ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)
    angle = torch.outer(torch.tensor(pos, dtype=torch.float64), f)
    c, s, a, b = torch.cos(angle)[:, None], torch.sin(angle)[:, None], x[..., :D // 2], x[..., D // 2:]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def norm(x, w): return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + C["rms_norm_eps"])


def run(x, pool=None, T=1.0):
    """x: inputs of the rows. pool[layer] = (keys [entries, KV, D], values). Returns the logits and, per layer, k before rotation and v."""
    n, kept = len(x), []
    mask = torch.tril(torch.ones(n, n, dtype=torch.bool))
    for layer in range(LAYERS):
        w = lambda name: W[f"model.layers.{layer}.{name}.weight"]
        h = norm(x, w("input_layernorm"))
        q, k, v = (h @ w(f"self_attn.{p}_proj").T for p in "qkv")
        q, k, v = q.view(n, HEADS, D), k.view(n, KV, D), v.view(n, KV, D)
        kept.append((k, v))
        q, own = rope(q, list(range(n))), rope(k, list(range(n)))
        o = torch.zeros(n, HEADS, D, dtype=torch.float64)
        for head in range(HEADS):
            g = head // (HEADS // KV)
            a = torch.softmax((q[:, head] @ own[:, g].T / math.sqrt(D)).masked_fill(~mask, -math.inf), -1)
            o[:, head] = a @ v[:, g]
            if pool and pool[layer]:
                alpha = torch.softmax(q[:, head] @ pool[layer][0][:, g].T / (math.sqrt(D) * T), -1)
                o[:, head] += alpha @ pool[layer][1][:, g]
        x = x + o.reshape(n, -1) @ w("self_attn.o_proj").T
        h = norm(x, w("post_attention_layernorm"))
        x = x + (torch.nn.functional.silu(h @ w("mlp.gate_proj").T) * (h @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
    return norm(x, W["model.norm.weight"]) @ W["model.embed_tokens.weight"].T, kept


def case(edits, gist, zero):
    E = W["model.embed_tokens.weight"]
    unique = list(dict.fromkeys(tuple(e) for e in edits))
    pool = [None] * LAYERS
    for layer in range(LAYERS // 2, LAYERS): pool[layer] = ([zero[layer]], [torch.zeros(KV, D, dtype=torch.float64)])
    for e in unique:
        _, kept = run(torch.stack([E[t] for t in [BOS, *e]] + [gist]))
        for layer in range(LAYERS // 2, LAYERS):
            pool[layer][0].append(kept[layer][0][-1])
            pool[layer][1].append(kept[layer][1][-1])
    pool = [p and (torch.stack(p[0]), torch.stack(p[1])) for p in pool]
    return run(torch.stack([E[t] for t in QUERY]), pool, 0.45 if len(unique) + 1 > 10 else 1.0)[0]


torch.manual_seed(6)
adapter = {"gist_embedding": torch.randn(1, C["hidden_size"]) * 0.5, "zero_key": torch.randn(LAYERS, KV, D)}
mean, none = W["model.embed_tokens.weight"].mean(0), torch.zeros(LAYERS, KV, D, dtype=torch.float64)
own, zero = adapter["gist_embedding"][0].double(), adapter["zero_key"].double()
CASES = {
    "few": lambda: case(EDITS[:5], own, zero),
    "ten": lambda: case(EDITS[:10], own, zero),
    "many": lambda: case(EDITS, own, zero),
    "twice": lambda: case(EDITS[:6] + EDITS[2:5], own, zero),
    "plain": lambda: case(EDITS[:13], mean, none),
}
if __name__ == "__main__":
    save_file(adapter, os.path.join(HERE, "adapter-edits.safetensors"),
              metadata=dict(format="precis-adapter-1", model=FINGERPRINTS, layouts="incomes", ratios=""))
    out = {"query": torch.tensor(QUERY, dtype=torch.int32)}
    for name, go in CASES.items():
        out[name] = go()[:, :40].float().contiguous()
        print(name, "largest", float(out[name].abs().max()))
    save_file(out, os.path.join(HERE, "golden-incomes.safetensors"))
