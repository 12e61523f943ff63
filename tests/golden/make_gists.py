#!/usr/bin/env python3
"""Golden logits of every layout with gists, from rules written out row by row (methods: parallel context encoding, the three gist architectures, UniGist).

    python3 tests/golden/make_gists.py            # writes tests/golden/tiny-llama/golden-gists.safetensors; needs torch and safetensors

Nothing here is shared with the program: the whole sequence is one list of rows (kind, input, position, segment, unit), who sees whom is a dense boolean
matrix filled by a predicate, and the model is a few lines of torch in double precision on the weights of tests/golden/tiny-llama.  Every row's logits are
kept, in the order of the sequence, for the first 40 tokens of the vocabulary.  The cases are named; tests/golden/test_gists.c says again what each means.
"""
import json, math, os
import torch
from safetensors.torch import load_file, save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tiny-llama")
CONFIG = json.load(open(os.path.join(HERE, "config.json")))
W = {k: v.double() for k, v in load_file(os.path.join(HERE, "model.safetensors")).items()}
N, COLUMNS = 41, 40
TOKENS = [(i * i * 7 + 13 * i + 5) % CONFIG["vocab_size"] for i in range(N)]
TEXT_SINK = [101, 7, 42]
SINK, RAW, GIST = "sink", "raw", "gist"


def embedding(token): return W["model.embed_tokens.weight"][token]


def cut(n, length): return [(a, min(a + length, n)) for a in range(0, n, length)]


def build(layout, L=None, r=0, blank=0, text=False, align="left", positions="reused", init="mean", **_):
    """The sequence: rows in order, with everything that the rules ask about."""
    mean = W["model.embed_tokens.weight"].mean(0)
    rows = []
    for i in range(blank):
        rows.append(dict(kind=SINK, x=embedding(init) if isinstance(init, int) else mean, pos=i, segment=-1, unit=-1))
    for t in TEXT_SINK if text else []:
        rows.append(dict(kind=SINK, x=embedding(t), pos=len(rows), segment=-1, unit=-1))
    S, segments = len(rows), [(0, N)] if layout == "unigist" else cut(N, L)
    memory = 0
    for s, (a, b) in enumerate(segments):
        n = b - a
        def place(i):                                        # the position of the raw token at i of the segment, were there one
            if layout in ("full", "fine-kv", "coarse-kv") or positions == "global": return S + a + i
            if align == "even": return int(S + i * L / n)
            if align == "right": return S + L - n + i
            return S + i
        own = []
        def gist(u, at):
            units = [embedding(TOKENS[a + j]) for j in range(u * r, (u + 1) * r)]
            x = embedding(init) if isinstance(init, int) else sum(units) / r if init == "unit" else mean
            own.append(dict(kind=GIST, x=x, pos=place(at), segment=s, unit=u))
        for i in range(n):
            own.append(dict(kind=RAW, x=embedding(TOKENS[a + i]), pos=place(i), segment=s, unit=i // r if r else 0))
            if r and layout != "coarse-kv" and (i + 1) % r == 0: gist(i // r, i + 1)
        if r and layout == "coarse-kv":
            for u in range(n // r): gist(u, n + u)
        if positions == "compact":
            for i, row in enumerate(own): row["pos"] = S + memory + i
        for row in own:
            if row["kind"] == GIST:
                row["remembered"] = S + memory if positions == "compact" else row["pos"]   # where later segments find it
                memory += 1
        rows += own
    return rows


def sees(layout, q, c, qi, ci, r, window):
    if ci > qi: return False
    if c["kind"] == SINK: return True
    same = q["segment"] == c["segment"]
    if q["kind"] == SINK: return False
    if layout == "full": return True
    if layout == "pce": return same
    if layout in ("fine-kv", "coarse-kv"): return c["kind"] == GIST or same
    if layout == "blockgist" and not same: return False
    return c["kind"] == GIST or window is None or q["unit"] - c["unit"] <= window // r


def rope(x, pos):
    d = x.shape[-1]
    angle = torch.outer(torch.tensor(pos, dtype=torch.float64), CONFIG["rope_theta"] ** (-torch.arange(0, d, 2, dtype=torch.float64) / d))
    c, s = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    a, b = x[..., :d // 2], x[..., d // 2:]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def norm(x, w): return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + CONFIG["rms_norm_eps"])


def model(rows, mask, later):
    """later[q][c]: c is a gist of a segment before q's, so q finds it at its remembered place."""
    heads, kv = CONFIG["num_attention_heads"], CONFIG["num_key_value_heads"]
    d, n = CONFIG["hidden_size"] // heads, len(rows)
    pos, remembered = [row["pos"] for row in rows], [row.get("remembered", row["pos"]) for row in rows]
    x = torch.stack([row["x"] for row in rows])
    for layer in range(CONFIG["num_hidden_layers"]):
        w = lambda name: W[f"model.layers.{layer}.{name}.weight"]
        h = norm(x, w("input_layernorm"))
        q, k, v = (h @ w(f"self_attn.{p}_proj").T for p in "qkv")
        q, k, v = q.view(n, heads, d), k.view(n, kv, d), v.view(n, kv, d)
        far = rope(k, remembered).repeat_interleave(heads // kv, 1)
        q, k, v = rope(q, pos), rope(k, pos).repeat_interleave(heads // kv, 1), v.repeat_interleave(heads // kv, 1)
        logits = torch.where(later, torch.einsum("qhd,chd->hqc", q, far), torch.einsum("qhd,chd->hqc", q, k)) / math.sqrt(d)
        a = torch.softmax(logits.masked_fill(~mask, -math.inf), -1)
        x = x + torch.einsum("hqc,chd->qhd", a, v).reshape(n, -1) @ w("self_attn.o_proj").T
        h = norm(x, w("post_attention_layernorm"))
        x = x + (torch.nn.functional.silu(h @ w("mlp.gate_proj").T) * (h @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
    return norm(x, W["model.norm.weight"]) @ W["model.embed_tokens.weight"].T


CASES = {
    "full": dict(layout="full", L=16),
    "pce": dict(layout="pce", L=16, text=True),
    "pce_even": dict(layout="pce", L=16, text=True, align="even"),
    "pce_right": dict(layout="pce", L=18, text=True, align="right"),
    "pce_global": dict(layout="pce", L=18, text=True, positions="global"),
    "pce_blank": dict(layout="pce", L=16, blank=4),
    "blockgist_fine": dict(layout="blockgist", L=16, r=4, blank=2, text=True),
    "blockgist_window": dict(layout="blockgist", L=18, r=4, window=4, init="unit", text=True),
    "blockgist_even": dict(layout="blockgist", L=15, r=3, window=0, init=7, align="even", text=True),
    "blockgist_global": dict(layout="blockgist", L=18, r=4, window=8, positions="global", init="unit"),
    "blockgist_short": dict(layout="blockgist", L=6, r=5, blank=1),
    "fine_kv": dict(layout="fine-kv", L=18, r=4, blank=4),
    "fine_kv_compact": dict(layout="fine-kv", L=18, r=4, blank=4, positions="compact", init="unit"),
    "fine_kv_short": dict(layout="fine-kv", L=12, r=8, init="unit"),
    "coarse_kv": dict(layout="coarse-kv", L=18, r=4, blank=4, init="unit"),
    "coarse_kv_compact": dict(layout="coarse-kv", L=12, r=5, text=True, positions="compact"),
    "unigist": dict(layout="unigist", r=4, window=8, blank=5),
    "unigist_unit": dict(layout="unigist", r=3, window=0, blank=2, text=True, init="unit"),
    "unigist_wide": dict(layout="unigist", r=4, window=64, init=9, blank=2),
    "unigist_one": dict(layout="unigist", r=1, window=2, init="unit", blank=1),
    "unigist_short": dict(layout="unigist", r=64, window=64, text=True),
}

if __name__ == "__main__":
    out = {"tokens": torch.tensor(TOKENS, dtype=torch.int32), "text_sink": torch.tensor(TEXT_SINK, dtype=torch.int32)}
    for name, case in CASES.items():
        rows = build(**case)
        mask = torch.tensor([[sees(case["layout"], q, c, i, j, case.get("r", 0), case.get("window")) for j, c in enumerate(rows)] for i, q in enumerate(rows)])
        later = torch.tensor([[c["kind"] == GIST and q["segment"] > c["segment"] for c in rows] for q in rows])
        out[name] = model(rows, mask, later)[:, :COLUMNS].float().contiguous()
        print(name, len(rows), "rows, largest", float(out[name].abs().max()))
    save_file(out, os.path.join(HERE, "golden-gists.safetensors"))
