#!/usr/bin/env python3
"""Recall: 16 pass keys hidden in 8 segments of 1K tokens, asked for one by one; how many come back, and at what size of store.

    python3 tests/bench/recall.py --precis build/precis --model M.gguf --text DEV.jsonl[.zst] [--seeds 1] [--setting "NAME: encode options" ...] > recall.csv

Each setting is a store (`precis encode`, with --keep both where rows are selected) that is asked twice (`precis query`): through what it keeps, and with
`--select 2 --fetch raw` (the two segments that matter most, whole). CSV: share of digits that are right when those before them are given, keys that are right in full, K/V bytes of what is attended
without fetching, seconds. Without --setting: every score and budget at r = 1, 2, 4, 8. Everything goes through the command line; Python's standard library
and zstd are enough.
"""
import argparse, json, os, random, re, shutil, subprocess, sys, tempfile, time

NAMES = ["Alice Brown", "Robert Stone", "Charles Miller", "Diana Young", "Edward Baker", "Frank Clark", "Grace Evans", "Henry Field", "Isabel Green", "James Hill",
         "Kate King", "Laura Lane", "Martin Moss", "Nina North", "Oscar Owens", "Peter Pratt"]
SEGMENTS, TOKENS, DIGITS = 8, 1024, 5
SINK = "Given the following partial context, predicting the next sequence of words:\n\n"
NEEDLE, ASK = "\n\n{}: {}\n\n", "\n\n{}:"


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
            filler = filler[:spot] + NEEDLE.format(n, keys[n]) + filler[spot:].lstrip()
        texts.append(filler)
    for ids in tokens.ids(texts): assert len(ids) <= TOKENS, len(ids)
    return texts, keys


def settings(a):
    if a.setting: return [tuple(x.strip() for x in s.split(":", 1)) for s in a.setting]
    out = [("full (one text)", "--layout full"), ("pce", "--layout pce")]
    for r in (1, 2, 4, 8):
        for score in ("knorm", "snapkv", "observed", "expected", "reconstruct"):
            for budget in ("uniform", "head"):
                if r > 1 or (score, budget) == ("reconstruct", "head"):
                    out.append((f"{score}+{budget} r={r}", f"--layout blockselect --score {score} --budget {budget} --ratio {r} --keep both"))
    return out


def ask(a, store, questions, work, *more):
    path = os.path.join(work, "q.jsonl")
    def answers(prompts, n):
        with open(path, "w") as f:
            for key, text in prompts.items(): f.write(json.dumps({"id": key, "prompt": text}) + "\n")
        return {r["id"]: r["text"] for r in map(json.loads, run([a.precis, "query", "--quiet", "--model", a.model, "--store", store, "--prompts", path, "--max-tokens",
                                                               str(n), "--format", "jsonl", "--slots", "16", *a.extra, *more]).splitlines())}
    begin = time.time()
    free = answers({n: ASK.format(n) for n in questions}, DIGITS + 3)
    exact = sum((re.findall(r"\d+", free[n]) or [""])[0][:DIGITS] == key for n, key in questions.items())
    led = answers({f"{n} {i}": ASK.format(n) + " " + key[:i] for n, key in questions.items() for i in range(DIGITS)}, 1)
    right = sum(led[f"{n} {i}"].strip() == key[i] for n, key in questions.items() for i in range(DIGITS))
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
                    for i, t in enumerate(["\n\n".join(texts)] if "--layout full" in options else texts): f.write(json.dumps({"id": str(i), "text": t}) + "\n")
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
