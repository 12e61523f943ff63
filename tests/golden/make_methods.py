#!/usr/bin/env python3
"""Golden logits of the neighbours of parallel context encoding: APE, Star Attention, structured prompting, PCW, Block-Attention, StreamingLLM; and of
Coarse-Rec, whose memory is the gists' last hidden states.

    python3 tests/golden/make_methods.py          # writes tests/golden/tiny-llama/golden-methods.safetensors; needs torch and safetensors

Nothing here is shared with the program: a row is a dictionary, each pair of rows is asked whether one sees the other and at which two positions, and the
weights of a query row are written down as each method's paper states them.  Torch, double precision, the weights of tests/golden/tiny-llama.
A window of N tokens: pieces of ceil((N - Q) / P) tokens, then Q query rows; kept are the logits of the query rows but the last.  Streaming and the cases
whose name ends in _rows keep all rows, in order.
"""
import json, math, os
import torch
from safetensors.torch import load_file, save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tiny-llama")
C = json.load(open(os.path.join(HERE, "config.json")))
W = {k: v.double() for k, v in load_file(os.path.join(HERE, "model.safetensors")).items()}
N, Q = 64, 17
TOKENS = [(i * i * 5 + 11 * i + 3) % C["vocab_size"] for i in range(N)]
PREFIX = [101, 7, 42]
HEADS, KV, LAYERS = C["num_attention_heads"], C["num_key_value_heads"], C["num_hidden_layers"]
D = C["hidden_size"] // HEADS
FREQ = C["rope_theta"] ** (-torch.arange(0, D, 2, dtype=torch.float64) / D)


def turn(x, pos):
    """x [.., D] at position pos (a number)."""
    c, s, a, b = torch.cos(pos * FREQ), torch.sin(pos * FREQ), x[..., :D // 2], x[..., D // 2:]
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def norm(x, w): return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + C["rms_norm_eps"])


def window_rows(method, P, prefix):
    """prefix rows, pieces, query: kind, token, piece, where it stands while it is encoded, and where a query finds it."""
    rows = [dict(kind="prefix", token=t, piece=-1, pos=i, found=i) for i, t in enumerate(prefix)]
    S, n = len(prefix), N - Q
    size = -(-n // P)
    for p in range(P):
        a, b = p * size, min((p + 1) * size, n)
        for i in range(b - a):
            pos = S + i
            if method == "structured": pos = S + size - (b - a) + i
            if method == "star": pos = S + a + i
            rows.append(dict(kind="piece", token=TOKENS[a + i], piece=p, pos=pos, found=S + a + i if method == "block" else pos))
    start = S + (n if method in ("star", "block") else size)
    for i in range(Q): rows.append(dict(kind="query", token=TOKENS[n + i], piece=-2, pos=start + i, found=start + i))
    return rows


def segment_rows(method, L, prefix):
    """All of the text in segments of L: each row in its own segment's pass."""
    rows = [dict(kind="prefix", token=t, piece=-1, pos=i, found=i) for i, t in enumerate(prefix)]
    for i, t in enumerate(TOKENS):
        s, S = i // L, len(prefix)
        n = min(L, N - s * L)
        pos = {"star": S + i, "structured": S + L - n + i % L}.get(method, S + i % L)
        rows.append(dict(kind="piece", token=t, piece=s, pos=pos, found=pos))
    return rows


def sees(method, q, c, i, j):
    if j > i: return False
    if c["kind"] == "prefix" or q["kind"] == "query": return True
    return q["piece"] == c["piece"] or (method == "star" and c["piece"] == 0)        # the anchor: a copy of block 1 with its own positions


def weights(method, q, kinds, logits, P, T, S):
    """What a row gives to the keys it sees; logits are those at temperature 1."""
    if method == "structured" and q["kind"] == "query":
        own = torch.tensor([k == "query" for k in kinds])
        e = torch.exp(logits) * torch.where(own, float(P), 1.0)                      # own rows count P times
        return e / e.sum()
    if method == "ape" and q["kind"] == "query":
        context = torch.tensor([k == "piece" for k in kinds])
        inside = torch.exp(logits / T) * context                                     # the context at temperature T
        L_C, L_O = torch.log(inside.sum()), torch.log((torch.exp(logits) * ~context).sum())
        w = torch.exp(S * T * L_C) / (torch.exp(S * T * L_C) + torch.exp(L_O))
        return w * inside / inside.sum() + (1 - w) * torch.exp(logits) * ~context / torch.exp(L_O)
    return torch.softmax(logits, -1)


def model(rows, method, P=1, T=1.0, S=1.0, places=None, hidden=False):
    """places(i, j): positions of row i and key j when i looks at j, or None where it does not."""
    n = len(rows)
    x = torch.stack([r["x"] if "x" in r else W["model.embed_tokens.weight"][r["token"]] for r in rows])
    for layer in range(LAYERS):
        w = lambda name: W[f"model.layers.{layer}.{name}.weight"]
        h = norm(x, w("input_layernorm"))
        q, k, v = (h @ w(f"self_attn.{p}_proj").T for p in "qkv")
        q, k, v = q.view(n, HEADS, D), k.view(n, KV, D), v.view(n, KV, D)
        o = torch.zeros(n, HEADS, D, dtype=torch.float64)
        for i in range(n):
            seen = [(j, p) for j in range(n) if (p := places(i, j)) is not None]
            kinds = [rows[j]["kind"] for j, _ in seen]
            for head in range(HEADS):
                g = head // (HEADS // KV)
                logits = torch.stack([turn(q[i, head], a) @ turn(k[j, g], b) for j, (a, b) in seen]) / math.sqrt(D)
                o[i, head] = weights(method, rows[i], kinds, logits, P, T, S) @ torch.stack([v[j, g] for j, _ in seen])
        x = x + o.reshape(n, -1) @ w("self_attn.o_proj").T
        h = norm(x, w("post_attention_layernorm"))
        x = x + (torch.nn.functional.silu(h @ w("mlp.gate_proj").T) * (h @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
    x = norm(x, W["model.norm.weight"])
    return (x, x @ W["model.embed_tokens.weight"].T) if hidden else x @ W["model.embed_tokens.weight"].T


def run_recurrent(segments, r, blank=0, prefix=(), compact=False, unit=False, query=0):
    """Segment after segment, each from nothing: sinks, every earlier gist's last hidden state as an input, the raw tokens, their gists; all causal.
    `segments`: (begin, end); the last `query` tokens are one more segment, without gists, whose rows alone are kept."""
    E = W["model.embed_tokens.weight"]
    sinks = [dict(x=E.mean(0), pos=i) for i in range(blank)] + [dict(x=E[t], pos=blank + i) for i, t in enumerate(prefix)]
    S, memory, out = len(sinks), [], []
    for a, b in segments + ([(N - query, N)] if query else []):
        last = query and a == N - query
        n, at = b - a, S + (len(memory) if compact else a)
        rows = sinks + [dict(x=m["x"], pos=S + i if compact else m["pos"]) for i, m in enumerate(memory)]
        first = len(rows)
        rows = rows + [dict(x=E[TOKENS[a + i]], pos=at + i) for i in range(n)]
        for u in range(0 if last else n // r):
            units = [E[TOKENS[a + u * r + i]] for i in range(r)]
            rows = rows + [dict(x=sum(units) / r if unit else E.mean(0), pos=at + n + u)]
        hidden, logits = model([dict(x=row["x"], kind="raw") for row in rows], "recurrent", hidden=True,
                               places=lambda i, j: (rows[i]["pos"], rows[j]["pos"]) if j <= i else None)
        if a == 0 and not query: out.append(logits[:S])
        if last or not query: out.append(logits[first:])
        memory = memory + [dict(x=hidden[first + n + u], pos=at + n + u) for u in range(len(rows) - first - n)]
    return torch.cat(out)[: -1 if query else None]


def run_window(method, P, prefix=(), T=1.0, S=1.0):
    rows = window_rows(method, P, prefix)

    def places(i, j):
        if not sees(method, rows[i], rows[j], i, j): return None
        return rows[i]["pos"], rows[j]["found" if rows[i]["kind"] == "query" else "pos"]
    return model(rows, method, P, T, S, places)[-Q:-1]


def run_segments(method, L, prefix=()):
    rows = segment_rows(method, L, prefix)
    return model(rows, method, places=lambda i, j: (rows[i]["pos"], rows[j]["pos"]) if sees(method, rows[i], rows[j], i, j) else None)[len(prefix):]


def run_streaming(sinks, recent):
    rows = [dict(kind="piece", token=t) for t in TOKENS]

    def places(i, j):                                        # the cache as it stands when row i has come in: it counts from 0, whatever the text's positions
        cache = [c for c in range(i + 1) if c < sinks or i - c < recent]
        return (cache.index(i), cache.index(j)) if j in cache else None
    return model(rows, "streaming", places=places)


CASES = {
    "pce": lambda: run_window("pce", 3, PREFIX),
    "pcw": lambda: run_window("pcw", 3, [1]),
    "structured": lambda: run_window("structured", 3),
    "structured_sink": lambda: run_window("structured", 4, PREFIX),
    "ape": lambda: run_window("ape", 3, PREFIX, 0.9, 0.9),
    "ape_bare": lambda: run_window("ape", 4, (), 0.5, 1.2),
    "block": lambda: run_window("block", 3),
    "block_sink": lambda: run_window("block", 4, PREFIX),
    "star": lambda: run_window("star", 4),
    "star_sink": lambda: run_window("star", 3, PREFIX),
    "star_rows": lambda: run_segments("star", 14, PREFIX),
    "structured_rows": lambda: run_segments("structured", 18, PREFIX),
    "block_rows": lambda: run_segments("block", 18),
    "coarse_rec_rows": lambda: run_recurrent([(0, 18), (18, 36), (36, 54), (54, 64)], 4, blank=4),
    "coarse_rec_compact_rows": lambda: run_recurrent([(0, 12), (12, 24), (24, 36), (36, 48), (48, 60), (60, 64)], 5, prefix=PREFIX, compact=True, unit=True),
    "coarse_rec": lambda: run_recurrent([(0, 16), (16, 32), (32, 47)], 3, blank=2, prefix=PREFIX, query=Q),
    "coarse_rec_compact": lambda: run_recurrent([(0, 12), (12, 24), (24, 36), (36, 47)], 4, blank=1, compact=True, query=Q),
    "streaming": lambda: run_streaming(4, 12),
    "streaming_three": lambda: run_streaming(3, 7),
    "streaming_none": lambda: run_streaming(0, 9),
    "streaming_all": lambda: run_streaming(4, 100),
}
if __name__ == "__main__":
    out = {"tokens": torch.tensor(TOKENS, dtype=torch.int32), "prefix": torch.tensor(PREFIX, dtype=torch.int32)}
    for name, run in CASES.items():
        out[name] = run()[:, :40].float().contiguous()
        print(name, len(out[name]), "rows, largest", float(out[name].abs().max()))
    save_file(out, os.path.join(HERE, "golden-methods.safetensors"))
