#!/usr/bin/env python3
"""Golden scores of a segment's rows (which rows matter most), from their definitions, with dense attention in double precision.

    python3 tests/golden/make_scores.py           # writes tests/golden/tiny-llama/golden-scores.safetensors; needs torch and safetensors

Sink, segment and (for `reconstruct`) the prompt and the segment once more are one list of rows; all attention probabilities are written down, then summed up
or maximised as each score says.  Shares nothing with the program.  Tensors: NAME[layer][kv head][row].
"""
import json, math, os
import torch
from safetensors.torch import load_file, save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tiny-llama")
C = json.load(open(os.path.join(HERE, "config.json")))
W = {k: v.double() for k, v in load_file(os.path.join(HERE, "model.safetensors")).items()}
N, SINK, REPEAT = 90, [3, 1, 4, 1, 5, 9], [8, 9, 10]
TOKENS = [(i * i * 11 + 3 * i + 1) % C["vocab_size"] for i in range(N)]
HEADS, KV, LAYERS = C["num_attention_heads"], C["num_key_value_heads"], C["num_hidden_layers"]
D = C["hidden_size"] // HEADS


def norm(x, w): return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + C["rms_norm_eps"])


def rope(x, pos):
    angle = torch.outer(pos.double(), C["rope_theta"] ** (-torch.arange(0, D, 2, dtype=torch.float64) / D))
    c, s, a, b = torch.cos(angle)[:, None], torch.sin(angle)[:, None], x[..., :D // 2], x[..., D // 2:]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def probabilities(tokens, mask, pos=None):
    """[layer][head][q][c], the rotated keys and the values [layer][c][kv head][d], the queries before rotation."""
    x, pos, all_a, all_k, all_v, all_q = W["model.embed_tokens.weight"][tokens], torch.arange(len(tokens)) if pos is None else pos, [], [], [], []
    for layer in range(LAYERS):
        w = lambda name: W[f"model.layers.{layer}.{name}.weight"]
        h = norm(x, w("input_layernorm"))
        q, k, v = ((h @ w(f"self_attn.{p}_proj").T).view(len(tokens), -1, D) for p in "qkv")
        all_q.append(q); all_v.append(v)
        q, k = rope(q, pos), rope(k, pos)
        a = torch.einsum("qhd,chd->hqc", q, k.repeat_interleave(HEADS // KV, 1)) / math.sqrt(D)
        a = torch.softmax(a.masked_fill(~(mask(layer) if callable(mask) else mask), -math.inf), -1)
        x = x + torch.einsum("hqc,chd->qhd", a, v.repeat_interleave(HEADS // KV, 1)).reshape(len(tokens), -1) @ w("self_attn.o_proj").T
        h = norm(x, w("post_attention_layernorm"))
        x = x + (torch.nn.functional.silu(h @ w("mlp.gate_proj").T) * (h @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
        all_a.append(a); all_k.append(k)
    return torch.stack(all_a), torch.stack(all_k), torch.stack(all_v), torch.stack(all_q), norm(x, W["model.norm.weight"])


S = len(SINK)
once = SINK + TOKENS
a, k, v, q, _ = probabilities(once, torch.ones(len(once), len(once)).tril().bool())
by_group = lambda t: t.view(LAYERS, KV, HEADS // KV, *t.shape[2:])
given = by_group(a)[..., S:, S:].mean(2)                                   # [layer][kv][q][c], heads of a group averaged
out = {"tokens": torch.tensor(TOKENS, dtype=torch.int32), "knorm": -k[:, S:].norm(dim=-1).transpose(1, 2)}
out["observed"] = given.sum(2) / (N - torch.arange(N))
last = given[:, :, -64:].mean(2)
padded = torch.nn.functional.pad(last, (2, 2))
out["snapkv"] = sum(padded[..., i:i + N] for i in range(5)) / 5

# expected: queries to come as a Gaussian per head (mean and covariance of the segment's, without its first four), turned by the mean rotation matrix of the
# 512 positions behind the segment
R = torch.stack([rope(torch.eye(D, dtype=torch.float64)[:, None], torch.full((D,), S + N + i))[:, 0] for i in range(512)]).mean(0).T
out["expected"] = torch.zeros(LAYERS, KV, N, dtype=torch.float64)
for layer in range(LAYERS):
    for h in range(HEADS):
        x, key = q[layer, S + 4:, h], k[layer, S:, h // (HEADS // KV)]
        mu, sigma = R @ x.mean(0), R @ torch.cov(x.T, correction=0) @ R.T
        logits = torch.tensor([float(r @ mu / math.sqrt(D) + r @ sigma @ r / (2 * D)) for r in key], dtype=torch.float64)
        out["expected"][layer, h // (HEADS // KV)] += torch.softmax(logits, 0) / (HEADS // KV)
out["expected"] *= v[:, S:].norm(dim=-1).transpose(1, 2)

twice = once + REPEAT + TOKENS
mask = torch.ones(len(twice), len(twice)).tril().bool()
mask[S + N:, 4:S] = False                                                 # rows that read again see the first four rows of the sink alone
a, *_ = probabilities(twice, mask)
out["reconstruct"] = by_group(a)[..., S + N:, S:S + N].amax((2, 3))

# What a query makes of kept rows: two segments behind the sink, each keeps a quarter of its rows by its scores; the query's rows see the sink, the rows that
# their K/V head kept, and themselves.
QUERY = [(5 * i + 2) % C["vocab_size"] for i in range(17)]
second = [(i * 13 + 7) % C["vocab_size"] for i in range(N)]


def scores_of(segment, name):
    if name == "observed":
        a, *_ = probabilities(SINK + segment, torch.ones(S + N, S + N).tril().bool())
        return by_group(a)[..., S:, S:].mean(2).sum(2) / (N - torch.arange(N))
    a, *_ = probabilities(SINK + segment + REPEAT + segment, mask)
    return by_group(a)[..., S + N:, S:S + N].amax((2, 3))


def kept_of(score, budget):
    flat = score.reshape(LAYERS * KV, N) if budget == "uniform" else score.reshape(LAYERS, KV * N)
    best = torch.sort(flat, dim=1, descending=True, stable=True).indices[:, :N // 4 * (flat.shape[1] // N)]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, best, True).view(LAYERS, KV, N)


out["window"] = torch.tensor(TOKENS + second + QUERY, dtype=torch.int32)
positions = torch.cat([torch.arange(S + N), S + torch.arange(N), S + N + torch.arange(len(QUERY))])
for name, budget in (("reconstruct", "head"), ("observed", "uniform")):
    kept = [kept_of(scores_of(s, name), budget) for s in (TOKENS, second)]
    n = S + 2 * N + len(QUERY)
    see = torch.ones(n, n).tril().bool()
    see[S + N:S + 2 * N, S:S + N] = False                                 # the second segment is blind to the first
    def by_head(layer):
        m = see.repeat(HEADS, 1, 1)
        for h in range(HEADS):
            for s in range(2): m[h, S + 2 * N:, S + s * N:S + (s + 1) * N] = kept[s][layer, h // (HEADS // KV)]
        return m
    x = probabilities(SINK + TOKENS + second + QUERY, by_head, positions)[-1][S + 2 * N:-1]
    out[f"query_{name}_{budget}"] = x @ W.get("lm_head.weight", W["model.embed_tokens.weight"]).T
save_file({n: (t if t.dtype == torch.int32 else t.float()).contiguous() for n, t in out.items()}, os.path.join(HERE, "golden-scores.safetensors"))
