#!/usr/bin/env python3
"""Shows answers beside the right ones, with the evidence.   usage: show.py QUESTIONS.jsonl ANSWERS.jsonl ENCODE.json"""
import json
import re
import sys


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.startswith("{")]


def plain(text):
    return " ".join(text.split())


def key_words(text):
    """The words of a right answer that must be in the model's to call it right: a rough judge, so the reader sees both texts."""
    small = {"a", "an", "the", "he", "was", "on", "that", "in", "to", "of", "for"}
    return {w for w in re.findall(r"[a-z0-9]+", text.lower()) if w not in small}


questions, answers, encode = ({q["id"]: q for q in lines(sys.argv[1])}, lines(sys.argv[2]), lines(sys.argv[3])[0])
right = 0
for a in answers:
    q = questions[a["id"]]
    said = plain(a["text"])
    has = key_words(q["answer"]) <= key_words(said)
    right += has
    print(f"\n{q['prompt']}")
    print(f"  model:    {said}")
    print(f"  right:    {q['answer']}    {'(found in the model answer)' if has else '(NOT in the model answer)'}")
    for e in a.get("evidence", [])[:2]:
        print(f"  evidence: {100 * e['mass']:5.1f} %  segment {e['segment']}: \"{plain(e.get('text', ''))[:110]}...\"")
    t = a["timings"]
    print(f"  entropy {a['entropy']:.2f} nats, first token after {t['first_token_s']:.2f} s, {t['tokens_per_s']:.1f} tokens/s")

e = encode
print(f"\n# encoded {e['encoded']} segments ({e['tokens_encoded']} tokens) in {e['seconds']:.1f} s: {e['tokens_per_s']:.0f} tokens/s on {e['ranks']} x {e['threads']} threads, "
      f"{e['dtype']}, {e['backend']}; {e['reused']} segments were in the store already")
print(f"# memory of a rank at most {e['peak_rss_bytes'] / 1e6:.0f} MB; {e['bytes_written'] / 1e6:.0f} MB of K/V written to {e['store']}")
print(f"# {right} of {len(answers)} right answers found in what the model said")
