#!/usr/bin/env python3
"""Golden logits of a model with a sliding window under parallel context encoding: HF transformers' own Mistral (f32, eager attention, on the CPU) with
position ids and a dense mask that are written out row by row.

    python3 tests/golden/make_window.py           # writes tests/golden/tiny-window/; needs torch, transformers, safetensors

The rule: c <= q and (set(q) != set(c) or piece(q) == piece(c)), prefix, pieces and query being three sets; and, but for the prefix, position(q) -
position(c) < window. Kept are the logits of the query's rows. `plain` has no mask of ours: transformers' own window over one text.
tests/golden/test_window.c says again what each case means.
"""
import json, os
import torch, transformers
from safetensors.torch import save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tiny-window")
WINDOW, QUERY = 9, 14
CONFIG = dict(architectures=["MistralForCausalLM"], model_type="mistral", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
              intermediate_size=48, vocab_size=64, max_position_embeddings=128, rms_norm_eps=1e-5, hidden_act="silu", rope_theta=10000.0,
              sliding_window=WINDOW, tie_word_embeddings=True)
TOKENS = [(i * i * 5 + 11 * i + 3) % 64 for i in range(64)]
CASES = {  # sink rows, rows of the pieces, alignment
    "plain": (0, [30], "left"),
    "full": (0, [8, 8, 8, 6], "chain"),
    "full_sink": (3, [8, 8, 8, 6], "chain"),
    "pce": (3, [12, 12, 12, 7], "left"),
    "pce_short": (2, [5, 3, 5], "left"),
    "pce_right": (3, [12, 5, 12, 7], "right"),
    "pce_even": (3, [12, 7, 12, 5], "even"),
    "pce_far": (0, [20, 20, 4], "left"),
}


def rows_of(sink, pieces, align):
    """(set, piece, position) of every row, in order."""
    rows, longest, before = [(0, 0, i) for i in range(sink)], max(pieces), 0
    for p, n in enumerate(pieces):
        for i in range(n):
            at = {"left": i, "right": longest - n + i, "even": int(sink + i * longest / n) - sink, "chain": before + i}[align]
            rows.append((1, 0 if align == "chain" else p, sink + at))
        before += n
    start = sink + (before if align == "chain" else longest)
    return rows + [(2, 0, start + i) for i in range(QUERY)]


def mask_of(rows):
    far = torch.finfo(torch.float32).min
    mask = torch.full((len(rows), len(rows)), far)
    for q, (set_q, piece_q, pos_q) in enumerate(rows):
        for c, (set_c, piece_c, pos_c) in enumerate(rows):
            if c <= q and (set_q != set_c or piece_q == piece_c) and (set_c == 0 or pos_q - pos_c < WINDOW): mask[q, c] = 0
    return mask[None, None]


os.makedirs(HERE, exist_ok=True)
json.dump(CONFIG, open(os.path.join(HERE, "config.json"), "w"), indent=1)
g = torch.Generator().manual_seed(77)
weights = {}
for name, w in transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(HERE)).state_dict().items():
    if name == "lm_head.weight": continue
    r = torch.randn(w.shape, generator=g)
    weights[name] = (1 + .2 * r if name.endswith("norm.weight") else r if "embed" in name else r / w.shape[-1] ** .5).to(torch.bfloat16)
save_file(weights, os.path.join(HERE, "model.safetensors"), metadata={"format": "pt"})
model = transformers.AutoModelForCausalLM.from_pretrained(HERE, attn_implementation="eager", dtype=torch.float32).eval()
out = {"tokens": torch.tensor(TOKENS, dtype=torch.int32)}
for name, case in CASES.items():
    rows = rows_of(*case)
    ids, places = torch.tensor([TOKENS[:len(rows)]]), torch.tensor([[r[2] for r in rows]])
    with torch.no_grad():
        logits = model(ids) if name == "plain" else model(ids, position_ids=places, attention_mask=mask_of(rows))
    out[name] = logits.logits[0, -QUERY:].float().contiguous()
    if name in ("plain", "full"):
        with torch.no_grad(): other = model(ids, position_ids=places, attention_mask=mask_of(rows_of(0, [len(rows) - QUERY], "left")))
        assert (other.logits[0, -QUERY:] - out[name]).abs().max() < 1e-4, name  # the rule is transformers' own window
    print(name, len(rows), "rows, largest", float(out[name].abs().max()))
save_file(out, os.path.join(HERE, "golden.safetensors"))
