#!/usr/bin/env python3
"""Which rows matter most, and what a query makes of them: methods.md's training-free summaries on a real model, by dense attention, from the definitions.

    python3 tests/golden/check_select.py --model MODEL.gguf --ids FILE [--window 4096] [--score 1024] [--segment 512] [--method reconstruct+head+4 ...]

FILE has token ids, a window of them a line. The sink's ids are --sink's. Prints a line per method: perplexity of the scored rows, per window and over all.
With --precis, `precis encode --layout blockselect` (f32) stores the same segments, and its lists of kept rows are compared row by row.
Shares nothing with the program but the file of weights. Needs torch, transformers, gguf, numpy.
"""
import argparse, glob, json, math, os, subprocess, sys, tempfile
import torch
from safetensors import safe_open
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from check_logits import from_gguf

a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("--model", required=True); a.add_argument("--ids", required=True); a.add_argument("--window", type=int, default=4096)
a.add_argument("--score", type=int, default=1024); a.add_argument("--segment", type=int, default=512); a.add_argument("--limit", type=int, default=1)
a.add_argument("--sink", default=""); a.add_argument("--repeat", default="198 198 48010 260 2672 2468 3869 30"); a.add_argument("--method", nargs="*", default=[])
a.add_argument("--precis"); a.add_argument("--second-sink", type=int, default=4)
A = a.parse_args()
model = from_gguf(A.model)
C, W = model.config, {k: v.float() for k, v in model.state_dict().items()}
HEADS, KV, D, LAYERS = C.num_attention_heads, C.num_key_value_heads, C.head_dim, C.num_hidden_layers
GROUP = HEADS // KV
THETA = C.rope_parameters["rope_theta"]
SINK, REPEAT = [int(t) for t in A.sink.split()], [int(t) for t in A.repeat.split()]
S = len(SINK)


def norm(x, w): return w * x / torch.sqrt((x * x).mean(-1, keepdim=True) + C.rms_norm_eps)


def rope(x, pos):                                              # x [rows][heads][D]
    angle = torch.outer(pos.double(), THETA ** (-torch.arange(0, D, 2, dtype=torch.float64) / D))
    c, s, u, v = torch.cos(angle).float()[:, None], torch.sin(angle).float()[:, None], x[..., :D // 2], x[..., D // 2:]
    return torch.cat([u * c - v * s, v * c + u * s], -1)


def run(tokens, pos, past, see, look=None):
    """Rows behind `past` (per layer keys and values [rows][KV][D]); see(layer): [KV][past rows] which are visible. Returns x and per layer own (k, v, q unrotated).
    look(layer, probabilities [HEADS][rows][past + rows])."""
    x, pos, own, n = W["model.embed_tokens.weight"][torch.tensor(tokens)], torch.tensor(pos), [], len(tokens)
    causal = torch.ones(n, n).tril().bool()
    for layer in range(LAYERS):
        w = lambda name: W[f"model.layers.{layer}.{name}.weight"]
        h = norm(x, w("input_layernorm"))
        q0, k, v = ((h @ w(f"self_attn.{p}_proj").T).view(n, -1, D) for p in "qkv")
        q, k = rope(q0, pos), rope(k, pos)
        own.append((k, v, q0))
        pk, pv = past[layer] if past else (k[:0], v[:0])
        keys, values = torch.cat([pk, k]).repeat_interleave(GROUP, 1), torch.cat([pv, v]).repeat_interleave(GROUP, 1)
        logits = torch.einsum("qhd,chd->hqc", q, keys) / math.sqrt(D)
        visible = see(layer)[:, None, :].expand(KV, n, len(pk)).repeat_interleave(GROUP, 0)
        logits.masked_fill_(~torch.cat([visible, causal[None].expand(HEADS, n, n)], 2), -math.inf)
        p = torch.softmax(logits, -1)
        if look: look(layer, p)
        x = x + torch.einsum("hqc,chd->qhd", p, values).reshape(n, -1) @ w("self_attn.o_proj").T
        h = norm(x, w("post_attention_layernorm"))
        x = x + (torch.nn.functional.silu(h @ w("mlp.gate_proj").T) * (h @ w("mlp.up_proj").T)) @ w("mlp.down_proj").T
    return x, own


def all_of(n): return lambda layer: torch.ones(KV, n, dtype=torch.bool)


def join(*pasts): return [tuple(torch.cat([p[layer][i] for p in pasts]) for i in (0, 1)) for layer in range(LAYERS)]


def cut(past, begin, end): return [(k[begin:end], v[begin:end]) for k, v in past]


def by_group(p): return p.view(KV, GROUP, *p.shape[1:])


class Segment:
    def __init__(self, tokens, sink, reserve):
        self.tokens, self.n, self.sink, self.reserve = tokens, len(tokens), sink, reserve
        self.seen = {}
        n = self.n
        observed, snap = [], []
        def look(layer, p):
            g = by_group(p)[..., S:]
            observed.append(g.mean(1).sum(1) / (n - torch.arange(n)))
            last = g[:, :, -64:].mean((1, 2))
            snap.append(torch.nn.functional.avg_pool1d(last[:, None], 5, 1, 2)[:, 0])
        _, own = run(tokens, [int(S + i * reserve / n) for i in range(n)], sink, all_of(S), look)
        self.kv = [(k, v) for k, v, _ in own]
        self.q = [q for _, _, q in own]
        self.seen = {"observed": torch.stack(observed), "snapkv": torch.stack(snap), "knorm": torch.stack([-k.norm(dim=-1).T for k, _ in self.kv])}
        self.seen["snapkv"][..., -64:] = math.inf

    def score(self, name):
        if name == "reconstruct" and name not in self.seen:
            rows, best, n, few = REPEAT + self.tokens, [], self.n, min(S, A.second_sink)
            past = join(cut(self.sink, 0, few), self.kv)
            run(rows, [S + self.reserve + i for i in range(len(rows))], past, all_of(few + n), lambda layer, p: best.append(by_group(p)[..., few:few + n].amax((1, 2))))
            self.seen[name] = torch.stack(best)
        if name == "expected" and name not in self.seen: self.seen[name] = self.expected()
        out = self.seen[name].clone()
        if not S: out[..., :4] = math.inf
        return out

    def expected(self):
        """Queries of the segment, before rotation and without the first 4 rows, as a Gaussian for each query head; rotated by the mean rotation of the next 512 positions."""
        future = S + self.reserve + torch.arange(512)
        R = torch.stack([rope(torch.eye(D)[:, None], f.expand(D))[:, 0] for f in future]).mean(0).T     # R @ x = x, rotated
        out = []
        for layer in range(LAYERS):
            k, v = self.kv[layer]
            q = self.q[layer][4:]
            per = []
            for h in range(HEADS):
                x = q[:, h]
                mu, d = x.mean(0), x - x.mean(0)
                mu, sigma = R @ mu, R @ (d.T @ d / len(x)) @ R.T
                key = k[:, h // GROUP]
                per.append(torch.softmax(key @ mu / math.sqrt(D) + ((key @ sigma) * key).sum(-1) / (2 * D), -1))
            out.append(torch.stack(per).view(KV, GROUP, self.n).mean(1) * v.norm(dim=-1).T)
        return torch.stack(out)

    def keep(self, name, budget, ratio):
        m = max(1, self.n // ratio)
        s = self.score(name)
        if budget == "uniform": s = s.reshape(LAYERS * KV, self.n); m_all = m
        else: s = s.reshape(LAYERS, KV * self.n); m_all = m * KV
        order = torch.sort(s, dim=1, descending=True, stable=True).indices[:, :m_all]
        kept = torch.zeros_like(s, dtype=torch.bool)
        return kept.scatter_(1, order, True).view(LAYERS, KV, self.n)


def precis(*words): return subprocess.run([A.precis, *words], check=True, capture_output=True, text=True).stdout


def texts(rows):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        f.writelines(json.dumps({"id": str(i), "tokens": list(map(int, r))}) + "\n" for i, r in enumerate(rows))
        f.flush()
        return [json.loads(l)["text"] for l in precis("tokenize", "--decode", "--model", A.model, "--input", f.name).splitlines()]


def compare(method, segments, kept):
    """The rows that the program keeps. Where it differs, how far the scores of what it chose are below those of what it should have chosen."""
    name, budget, ratio = method.split("+")
    with tempfile.TemporaryDirectory() as work:
        docs, store = os.path.join(work, "d.jsonl"), os.path.join(work, "s")
        with open(docs, "w") as f: f.writelines(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(texts([s.tokens for s in segments])))
        sink = ["--sink", texts([SINK])[0]] if S else []
        precis("encode", "--quiet", "--model", A.model, "--dtype", "f32", "--kv-dtype", "f32", "--store", store, "--segment", str(A.segment), "--align", "even", "--layout",
               "blockselect", "--score", name, "--budget", budget, "--ratio", ratio, *sink, docs)
        found, same, rows, gap = 0, 0, 0, 0.0
        for data in glob.glob(os.path.join(store, "*.safetensors")):
            with safe_open(data, "pt") as f:
                for line in open(data.replace(".safetensors", ".index")):
                    line = json.loads(line)
                    if "kept" not in line: continue
                    tokens = f.get_tensor(line["address"] + ".tokens")[:line["tokens"]].tolist()
                    for s, k in zip(segments, kept):
                        if s.tokens != tokens: continue
                        found += 1
                        got = torch.zeros(LAYERS, KV * s.n, dtype=torch.bool).scatter_(1, f.get_tensor(line["address"] + ".kept")[:line["kept"]].view(LAYERS, -1).long(), True)
                        got, score = got.view(LAYERS, KV, s.n), s.score(name)
                        same += int((got & k).sum()); rows += int(k.sum())
                        group = (lambda t: t.view(LAYERS * KV, -1)) if budget == "uniform" else (lambda t: t.view(LAYERS, -1))
                        for w, g, x in zip(group(k), group(got), group(score)):
                            if (w != g).any(): gap = max(gap, float(1 - x[g & ~w].min() / x[w & ~g].max()) if name != "knorm" else float(x[w & ~g].max() - x[g & ~w].min()))
        print(f"  {method}: {found} of {len(segments)} segments found, {same} of {rows} kept rows the same; the scores of the others differ by {gap:.2e} at most", flush=True)


def window(ids, methods):
    n_context = A.window - A.score - 1
    tokens = [ids[b:min(b + A.segment, n_context)] for b in range(0, n_context, A.segment)]
    reserve = max(len(t) for t in tokens)
    sink = [(k, v) for k, v, _ in run(SINK, list(range(S)), None, all_of(0))[1]] if S else None
    segments = [Segment(t, sink, reserve) for t in tokens]
    context = join(*([sink] if S else []), *[s.kv for s in segments])
    query, first = ids[n_context:], S + reserve
    out = {}
    for m in methods:
        if m == "all": kept = [torch.ones(LAYERS, KV, s.n, dtype=torch.bool) for s in segments]
        elif m == "none": kept = [torch.zeros(LAYERS, KV, s.n, dtype=torch.bool) for s in segments]
        else:
            name, budget, ratio = m.split("+")
            kept = [s.keep(name, budget, int(ratio)) for s in segments]
            if A.precis: compare(m, segments, kept)
        visible = torch.cat([torch.ones(LAYERS, KV, S, dtype=torch.bool)] + kept, 2)
        x, _ = run(query, list(range(first, first + len(query))), context, lambda layer: visible[layer])
        logits = norm(x, W["model.norm.weight"])[:A.score] @ W.get("lm_head.weight", W["model.embed_tokens.weight"]).T
        out[m] = torch.nn.functional.cross_entropy(logits, torch.tensor(query[1:]), reduction="sum").item()
    return out


@torch.no_grad()
def main():
    total, n = {}, 0
    for number, line in enumerate(open(A.ids)):
        if number == A.limit: break
        ids = [int(t) for t in line.split()][:A.window]
        for m, nll in window(ids, A.method).items():
            total[m] = total.get(m, 0) + nll
            print(f"window {number} {m}: nll {nll:.3f} ppl {math.exp(nll / A.score):.4f}", flush=True)
        n += A.score
    for m, nll in total.items(): print(f"all {n} {m}: nll {nll:.3f} ppl {math.exp(nll / n):.4f}")


main()
