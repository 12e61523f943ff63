#!/usr/bin/env python3
"""Recall: 16 pass keys hidden in 8 segments of 1K tokens, asked for one by one; how many come back, and at what size of store.

    python3 tests/bench/recall.py --precis build/precis --model M.gguf --text DEV.jsonl[.zst] [--seeds 1] [--setting "NAME: encode options" ...] > recall.csv

Each setting is a store (`precis encode`, with --keep both where rows are selected) that is asked twice (`precis query`): through what it keeps, and with
`--select 2 --fetch raw` (the two segments that matter most, whole). CSV: share of right digits, keys that are right in full, K/V bytes of what is attended
without fetching, seconds. Without --setting: every score and budget at r = 1, 2, 4, 8. Everything goes through the command line; Python's standard library
and zstd are enough.
"""
import argparse, json, os, random, re, shutil, subprocess, sys, tempfile, time

NAMES = ["garden", "tower", "library", "harbour", "kitchen", "chapel", "cellar", "stable", "bridge", "museum", "orchard", "theatre", "station", "bakery", "school", "lighthouse"]
SEGMENTS, TOKENS, DIGITS = 8, 1024, 5
SINK = "Given the following partial context, predicting the next sequence of words:\n\n"
NEEDLE = " The pass key of the {} is {}. Remember it: {} is the pass key of the {}. "
ASK = "\n\nWhat is the pass key of the {}? The pass key of the {} is"


def run(args, **kw):
    r = subprocess.run(args, capture_output=True, text=True, **kw)
    if r.returncode: sys.exit(f"{' '.join(args)}\n{r.stderr}")
    return r.stdout


class Tokens:
    def __init__(self, a, work): self.a, self.path = a, os.path.join(work, "t.jsonl")
    def call(self, rows, *more):
        with open(self.path, "w") as f:
            for r in rows: f.write(json.dumps(r) + "\n")
        return [json.loads(l) for l in run([self.a.precis, "tokenize", "--model", self.a.model, "--input", self.path, "--no-special", *more]).splitlines()]
    def ids(self, texts): return [r["tokens"] for r in self.call([{"id": i, "text": t} for i, t in enumerate(texts)])]
    def text(self, ids): return [r["text"] for r in self.call([{"id": i, "tokens": t} for i, t in enumerate(ids)], "--decode")]


def haystack(a, tokens, seed):
    """8 texts of at most 1K tokens with two keys each, and the keys: filler from the middle of the given documents, keys at sentence ends."""
    rng = random.Random(seed)
    lines = run(["zstdcat", a.text] if a.text.endswith(".zst") else ["cat", a.text]).splitlines()
    docs = [json.loads(l)["text"] for l in lines]
    keys = {n: "".join(rng.choice("0123456789") for _ in range(DIGITS)) for n in NAMES}
    names, texts = rng.sample(NAMES, len(NAMES)), []
    for s in range(SEGMENTS):
        d = docs[s % len(docs)]
        at = rng.randrange(len(d) // 4, 3 * len(d) // 4)
        filler = tokens.text([tokens.ids([d[at:at + 12000]])[0][:TOKENS - 76]])[0]
        ends = [m.end() for m in re.finditer(r"[.!?][\"'\u201d]?(?= )", filler)] or [len(filler) // 2]
        for k, where in ((1, 0.7), (0, 0.3)):                     # the later one first, so that places stay
            spot = min(ends, key=lambda e: abs(e - len(filler) * (where + rng.uniform(-0.15, 0.15))))
            n = names[2 * s + k]
            filler = filler[:spot] + NEEDLE.format(n, keys[n], keys[n], n).rstrip() + filler[spot:]
        texts.append(filler)
    for ids in tokens.ids(texts): assert len(ids) <= TOKENS, len(ids)
    return texts, keys


def settings(a):
    if a.setting: return [tuple(x.strip() for x in s.split(":", 1)) for s in a.setting]
    out = [("pce", "--layout pce")]
    for r in (1, 2, 4, 8):
        for score in ("knorm", "snapkv", "observed", "expected", "reconstruct"):
            for budget in ("uniform", "head"):
                if r > 1 or (score, budget) == ("reconstruct", "head"):
                    out.append((f"{score}+{budget} r={r}", f"--layout blockselect --score {score} --budget {budget} --ratio {r} --keep both"))
    return out


def ask(a, store, questions, work, *more):
    path = os.path.join(work, "q.jsonl")
    with open(path, "w") as f:
        for n in NAMES: f.write(json.dumps({"id": n, "prompt": ASK.format(n, n)}) + "\n")
    begin = time.time()
    got = {r["id"]: r["text"] for r in map(json.loads, run([a.precis, "query", "--quiet", "--model", a.model, "--store", store, "--prompts", path, "--max-tokens",
                                                          "8", "--format", "jsonl", "--slots", "16", *a.extra, *more]).splitlines())}
    right = exact = 0
    for n, key in questions.items():
        said = (re.findall(r"\d+", got[n]) or [""])[0][:DIGITS]
        right += sum(x == y for x, y in zip(said, key))
        exact += said == key
    return right, exact, time.time() - begin


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--precis", default="build/precis"); p.add_argument("--model", required=True); p.add_argument("--text", required=True)
    p.add_argument("--seeds", type=int, default=1); p.add_argument("--setting", action="append"); p.add_argument("--extra", default="")
    a = p.parse_args()
    a.extra = a.extra.split()
    work = tempfile.mkdtemp()
    tokens, store = Tokens(a, work), os.path.join(work, "store")
    commit = run(["git", "-C", os.path.dirname(os.path.abspath(__file__)), "rev-parse", "--short", "HEAD"]).strip()
    print(f"# precis recall: {os.path.basename(a.model)}, {a.seeds} x {len(NAMES)} keys of {DIGITS} digits in {SEGMENTS} segments of {TOKENS}; {commit}, {time.strftime('%Y-%m-%d')}")
    print("setting,fetch,digits,exact,keys,kv_bytes,encode_s,query_s", flush=True)
    try:
        stacks = [haystack(a, tokens, 1000 + s) for s in range(a.seeds)]
        for name, options in settings(a):
            sums, size, spent = {}, 0, 0
            for texts, keys in stacks:
                shutil.rmtree(store, ignore_errors=True)
                with open(os.path.join(work, "docs.jsonl"), "w") as f:
                    for i, t in enumerate(texts): f.write(json.dumps({"id": str(i), "text": t}) + "\n")
                begin = time.time()
                run([a.precis, "encode", "--quiet", "--model", a.model, "--store", store, "--segment", str(TOKENS), "--sink", SINK, *options.split(), *a.extra,
                     os.path.join(work, "docs.jsonl")])
                spent += time.time() - begin
                facts = json.loads(run([a.precis, "inspect", "--format", "json", store]))
                size = facts.get("summary_bytes", facts["kv_bytes"])
                for fetch, more in (("none", []), ("raw", ["--select", "2", "--fetch", "raw"])):
                    if fetch == "raw" and "--keep both" not in options: more = ["--select", "2"]
                    got, old = ask(a, store, keys, work, *more), sums.get(fetch, (0, 0, 0))
                    sums[fetch] = tuple(x + y for x, y in zip(got, old))
            n = a.seeds * len(NAMES)
            for fetch, (right, exact, s) in sums.items():
                print(f"{name},{fetch},{right / (n * DIGITS):.3f},{exact},{n},{size},{spent:.1f},{s:.1f}", flush=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
