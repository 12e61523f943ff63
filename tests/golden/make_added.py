#!/usr/bin/env python3
"""Added tokens with every mixture of lstrip, rstrip, normalized, single_word and special, by HF `tokenizers`: random settings on top of the small tokenizers
of tests/golden/tokens, and random texts made of these tokens, white space, marks and letters.

    python3 tests/golden/make_added.py                       # writes tests/golden/tokens/added.jsonl; needs the package tokenizers
    python3 tests/golden/make_added.py --precis build/precis # compares many more settings and texts with `precis tokenize`; exit 1 when any differs

A line is {"family", "added": [..], "texts": [{"text", "ids"}..]}. Texts on which HF itself gives up are left out.
"""
import json, os, random, subprocess, sys, tempfile
from tokenizers import Tokenizer

TOKENS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokens")
FAMILIES = ["smollm", "gpt2", "llama3", "qwen2", "llama2", "llama2n", "mistral3", "metaspace", "gemma"]
CONTENTS = ["<a>", "ab", "foo", "[X]", " ", "é", "e\u0301", "İ", "word", "a", "\n\n", "<|s|>", "日本", "Å", "▁x", "the", "İx", "don't", "1", "  ", "\u00a0x", "x y"]
BETWEEN = [" ", "  ", "\t", "\n", "_", "-", ".", "Hello", "x9", "\u0301", "ﬁ", "Ａ", "\u2003", "\u3000", "\r\n", "ß", "a b"]


def setting(r, family):
    t = json.load(open(os.path.join(TOKENS, family + ".json")))
    there = {a["content"] for a in t["added_tokens"]}
    free = max([*t["model"]["vocab"].values(), *[a["id"] for a in t["added_tokens"]]]) + 1
    added = []
    for c in r.sample(CONTENTS, 7):
        if c in there: continue
        added.append(dict(id=t["model"]["vocab"].get(c, free), content=c, single_word=r.random() < .4, lstrip=r.random() < .4, rstrip=r.random() < .4,
                          normalized=r.random() < .5, special=r.random() < .5))
        free += added[-1]["id"] == free
    t["added_tokens"] = sorted(t["added_tokens"] + added, key=lambda a: a["id"])
    return t, added


def texts(r, t, n):
    pool = CONTENTS + 2 * [a["content"] for a in t["added_tokens"]] + BETWEEN
    return ["".join(r.choice(pool) for _ in range(r.randrange(1, 12))) for _ in range(n)]


def ids_of(hf, text):
    try: return hf.encode(text, add_special_tokens=False).ids
    except BaseException: return None  # HF panics on some overlaps of stripped white space


def compare(precis):
    r, total, bad = random.Random(5), 0, 0
    with tempfile.TemporaryDirectory() as d:
        for family in FAMILIES:
            for _ in range(12):
                t, _ = setting(r, family)
                json.dump(t, open(os.path.join(d, "tokenizer.json"), "w"))
                hf, lines = Tokenizer.from_file(os.path.join(d, "tokenizer.json")), texts(r, t, 400)
                text = "".join(json.dumps(dict(id=i, text=x)) + "\n" for i, x in enumerate(lines))
                out = subprocess.run([precis, "tokenize", "--model", d, "--input", "-"], input=text, capture_output=True, text=True, check=True).stdout
                for x, line in zip(lines, out.splitlines()):
                    want = ids_of(hf, x)
                    if want is None: continue
                    total += 1
                    if json.loads(line)["tokens"] != want: bad += 1; print(family, repr(x), json.loads(line)["tokens"], want)
    print(total, "texts,", bad, "differ")
    return bad


if __name__ == "__main__":
    if len(sys.argv) > 1: sys.exit(compare(sys.argv[2]) > 0)
    r = random.Random(9)
    with open(os.path.join(TOKENS, "added.jsonl"), "w") as f:
        for family in FAMILIES:
            for _ in range(3):
                t, added = setting(r, family)
                hf = Tokenizer.from_str(json.dumps(t))
                rows = [dict(text=x, ids=ids_of(hf, x)) for x in texts(r, t, 24)]
                f.write(json.dumps(dict(family=family, added=added, texts=[x for x in rows if x["ids"] is not None])) + "\n")
