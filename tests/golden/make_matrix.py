#!/usr/bin/env python3
"""Every architecture x rope scaling x head size: tiny models, and the logits that HF transformers gets from them (f32, eager attention, on the CPU).

    python3 tests/golden/make_matrix.py          # writes tests/golden/matrix.{jsonl,safetensors}; needs torch, transformers, safetensors, numpy

Weights are a formula (below, and in test_matrix.c), so that 200 models take no room: a model is a line of matrix.jsonl - its config.json as users
have it, in the older or the newer form - and a tensor of matrix.safetensors: the logits of a few rows. Heads (plain, grouped, one for all), tied or
own output rows, F32 or BF16 weights, head_dim given or derived, and sliding windows shorter than the text take turns along the table.
"""
import json, os, sys, tempfile
import numpy as np, torch, transformers
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
N_TOKEN, N_VOCAB, OUT_ROWS = 40, 32, [0, 1, 5, 14, 17, 26, 38, 39]
HEADS = [64, 80, 96, 128, 256]
ARCHS = ["llama", "mistral", "qwen2", "qwen3"]


def stretches(d):
    """name: (parameters, max_position_embeddings, rope_length, further keys of the config)"""
    half = d // 2
    short, long = [1 + .01 * i for i in range(half)], [1.5 + 6 * i / half for i in range(half)]
    return {
        "none": (None, 64, 0, {}),
        "linear": (dict(rope_type="linear", factor=2.5), 64, 0, {}),
        "llama3": (dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32), 128, 0, {}),
        "yarn": (dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16), 64, 0, {}),
        "yarn-mscale": (dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=16, mscale=1.2, mscale_all_dim=.7, beta_fast=4, beta_slow=.5,
                             truncate=False), 128, 0, {}),
        "yarn-attention": (dict(rope_type="yarn", factor=2.0, attention_factor=1.25), 64, 0, dict(original_max_position_embeddings=32)),
        "dynamic": (dict(rope_type="dynamic", factor=4.0), 64, 0, {}),
        "dynamic-far": (dict(rope_type="dynamic", factor=4.0), 16, N_TOKEN, {}),
        "longrope": (dict(rope_type="longrope", short_factor=short, long_factor=long, original_max_position_embeddings=48), 192, 0, {}),
        "longrope-far": (dict(rope_type="longrope", short_factor=short, long_factor=long, factor=6.0, original_max_position_embeddings=16), 64, N_TOKEN, {}),
    }


def models():
    turn = 0
    for arch in ARCHS:
        for d in HEADS:
            for name, (rope, n_ctx, length, more) in stretches(d).items():
                turn += 1
                n_head, n_kv = [(2, 2), (4, 2), (2, 1), (3, 1)][turn % 4]
                given = arch == "qwen3" or turn % 3 != 0
                c = dict(model_type=arch, vocab_size=N_VOCAB, num_hidden_layers=2, num_attention_heads=n_head, num_key_value_heads=n_kv,
                         hidden_size=48 if given else n_head * d, intermediate_size=48, max_position_embeddings=n_ctx, rms_norm_eps=1e-5, hidden_act="silu",
                         tie_word_embeddings=turn // 2 % 2 == 0, **more)
                if given: c["head_dim"] = d
                theta = 1000000.0 if arch.startswith("qwen") else 10000.0
                if turn % 2:
                    c["rope_parameters"] = dict(rope or dict(rope_type="default"), rope_theta=theta)
                else:
                    c.update(rope_theta=theta, rope_scaling=rope and {"type" if k == "rope_type" and turn % 4 else k: v for k, v in rope.items()})
                if arch == "mistral": c["sliding_window"] = 16 if turn % 5 else None
                if arch.startswith("qwen"): c.update(use_sliding_window=turn % 3 == 1, sliding_window=12, max_window_layers=0)
                yield f"{arch}-{name}-{d}", c, length, "F32" if turn % 3 == 0 else "BF16"


def fnv(text):
    h = 0xcbf29ce484222325
    for b in text.encode(): h = (h ^ b) * 0x100000001b3 % 2 ** 64
    return h


def draws(seed, n):
    """splitmix64"""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xbf58476d1ce4e5b9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94d049bb133111eb)
        return z ^ z >> np.uint64(31)


def weight(model, name, shape):
    """Odd sixteenths times a power of two: exact in bf16. Larger than a training start's, so that attention is far from uniform."""
    odd = (draws(fnv(f"{model}/{name}"), int(np.prod(shape))) >> np.uint64(60)).astype(np.float64) * 2 - 15
    if name.endswith("norm.weight"): return torch.tensor(1 + odd / 64, dtype=torch.float32).reshape(shape)
    if len(shape) == 1: return torch.tensor(odd / 32, dtype=torch.float32).reshape(shape)
    scale = 1 if "embed" in name else 2.0 ** np.floor(np.log2(1.6 / shape[1] ** .5))
    return torch.tensor(odd / 16 * scale, dtype=torch.float32).reshape(shape)


def logits_of(name, config, dtype):
    with tempfile.TemporaryDirectory() as path:
        json.dump(config, open(os.path.join(path, "config.json"), "w"))
        made = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(path))
        shapes = {k: tuple(v.shape) for k, v in made.state_dict().items()}
        if config["tie_word_embeddings"]: shapes.pop("lm_head.weight", None)
        save_file({k: weight(name, k, s).to(torch.bfloat16 if dtype == "BF16" else torch.float32) for k, s in shapes.items()},
                  os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
        model = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
    tokens = (draws(fnv(name), N_TOKEN) % np.uint64(N_VOCAB)).astype(np.int64)
    with torch.no_grad(): return model(torch.tensor(tokens)[None]).logits[0, OUT_ROWS].float().contiguous()


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    lines, logits = [], {}
    for name, config, length, dtype in models():
        logits[name] = logits_of(name, config, dtype)
        lines.append(json.dumps(dict(name=name, dtype=dtype, rope_length=length, config=config), separators=(",", ":")))
    open(os.path.join(HERE, "matrix.jsonl"), "w").write("\n".join(lines) + "\n")
    save_file(logits, os.path.join(HERE, "matrix.safetensors"), metadata={"tokens": str(N_TOKEN), "rows": " ".join(map(str, OUT_ROWS))})
    print(len(lines), "models")
