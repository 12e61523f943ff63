#!/usr/bin/env python3
"""Makes the tiny random models of tests/golden and the logits that HF transformers gets from them (f32, eager attention, on the CPU).

    python3 tests/golden/make_llama.py            # writes tests/golden/tiny-*/ ; needs torch, transformers, safetensors, gguf, numpy

Each folder is a model as users have it (config.json in the older or the newer form, one file or shards, F32, F16 or BF16) and, for some, the same
weights as a GGUF file (rows of q and k permuted as its converter does for architecture llama; several quantisations).  golden.safetensors holds
`tokens` and the `logits` of every row; golden-gguf.safetensors those of the GGUF's own dequantised weights.
The fixtures are committed: run this only to renew or widen them.
"""
import json, os, sys
import numpy as np, torch, gguf, transformers
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
N_TOKEN = 40
BASE = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96, vocab_size=160,
            max_position_embeddings=128, rms_norm_eps=1e-5, hidden_act="silu")
SMALL = dict(BASE, hidden_size=32, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32, vocab_size=64)
LLAMA3 = dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

MODELS = {
    # GQA, tied, older form of the config, one F32 file; GGUF all Q8_0
    "tiny-llama": dict(config=dict(BASE, model_type="llama", tie_word_embeddings=True, rope_theta=10000.0, rope_scaling=None), dtype=torch.float32,
                       gguf=dict(default="Q8_0")),
    # untied, llama3 scaling in the newer form, BF16 in two shards; GGUF with a type for each kind of tensor
    "tiny-llama31": dict(config=dict(BASE, model_type="llama", head_dim=16, tie_word_embeddings=False, rope_parameters=dict(LLAMA3, rope_theta=10000.0)),
                         dtype=torch.bfloat16, shards=2,
                         gguf=dict(default="Q8_0", token_embd="F16", attn_q="Q4_1", attn_k="F32", attn_v="BF16", attn_output="Q5_0", ffn_gate="Q4_0",
                                   ffn_up="Q5_1")),
    # linear scaling in the older form with "type", F16, one K/V head, no head_dim
    "tiny-linear": dict(config=dict(BASE, model_type="llama", num_key_value_heads=1, num_hidden_layers=1, tie_word_embeddings=True, rope_theta=10000.0,
                                    rope_scaling=dict(type="linear", factor=2.5)), dtype=torch.float16),
    # bias on q, k, v
    "tiny-qwen2": dict(config=dict(BASE, model_type="qwen2", tie_word_embeddings=True, rope_theta=1000000.0, use_sliding_window=False, sliding_window=32,
                                   max_window_layers=1), dtype=torch.bfloat16, gguf=dict(default="Q8_0")),
    # norms of q and k, heads wider than hidden_size / heads
    "tiny-qwen3": dict(config=dict(BASE, model_type="qwen3", head_dim=32, num_hidden_layers=1, tie_word_embeddings=False,
                                   rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), dtype=torch.bfloat16, gguf=dict(default="Q8_0")),
    # yarn as Qwen2.5's cards have it; GGUF with rope.scaling.* keys
    "tiny-yarn": dict(config=dict(SMALL, model_type="qwen2", tie_word_embeddings=True, rope_theta=10000.0,
                                  rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=16)), dtype=torch.bfloat16,
                      gguf=dict(default="Q8_0")),
    # longrope; GGUF with the two tensors of factors
    "tiny-longrope": dict(config=dict(SMALL, model_type="llama", tie_word_embeddings=False, rope_parameters=dict(
                              rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=64, short_factor=[1 + .1 * i for i in range(8)],
                              long_factor=[2 + .5 * i for i in range(8)])), dtype=torch.bfloat16, gguf=dict(default="Q8_0")),
}
CLASS = dict(llama="LlamaForCausalLM", qwen2="Qwen2ForCausalLM", qwen3="Qwen3ForCausalLM")


def random_weights(shapes, seed):
    """Larger than a training start's, so that attention is far from uniform and every part shows in the logits."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        w = torch.randn(shape, generator=g)
        if name.endswith("norm.weight"): w = 1 + .2 * w
        elif name.endswith(".bias"): w = .5 * w
        elif "embed_tokens" not in name: w = w * 0.8 / shape[-1] ** .5
        out[name] = w
    return out


def write_folder(path, spec, weights):
    os.makedirs(path, exist_ok=True)
    config = dict(spec["config"], architectures=[CLASS[spec["config"]["model_type"]]])
    json.dump(config, open(os.path.join(path, "config.json"), "w"), indent=1)
    names, n = list(weights), spec.get("shards", 1)
    if n == 1:
        save_file(weights, os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
        return
    where = {}
    for i in range(n):
        file = f"model-{i + 1:05}-of-{n:05}.safetensors"
        part = {k: weights[k] for k in names[i::n]}
        save_file(part, os.path.join(path, file), metadata={"format": "pt"})
        where.update({k: file for k in part})
    total = sum(w.numel() * w.element_size() for w in weights.values())
    json.dump({"metadata": {"total_size": total}, "weight_map": where}, open(os.path.join(path, "model.safetensors.index.json"), "w"), indent=1)


def golden(model, path, tokens):
    with torch.no_grad(): logits = model(torch.tensor([tokens])).logits[0].float().contiguous()
    save_file({"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": logits}, path)


def gguf_name(hf):
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if hf in fixed: return fixed[hf]
    _, _, layer, rest = hf.split(".", 3)
    for a, b in (("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
                 ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"),
                 ("mlp.down_proj", "ffn_down"), ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")):
        if rest.startswith(a): return f"blk.{layer}.{rest.replace(a, b)}"
    raise KeyError(hf)


def permute(w, heads):
    """The GGUF converter's order of the rows of q and k for architecture llama."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def llama3_factors(c):
    """What a converter writes as rope_freqs.weight."""
    p, d = c["rope_parameters"], c["head_dim"]
    freqs = p["rope_theta"] ** -(np.arange(0, d, 2, dtype=np.float64) / d)
    waves, old = 2 * np.pi / freqs, p["original_max_position_embeddings"]
    keep = (old / waves - p["low_freq_factor"]) / (p["high_freq_factor"] - p["low_freq_factor"])
    return (1 / ((1 - np.clip(keep, 0, 1)) / p["factor"] + np.clip(keep, 0, 1))).astype(np.float32)


def stretch(w, c):
    """Yarn and longrope as the GGUF converter writes them."""
    p = c.get("rope_scaling") or c.get("rope_parameters") or {}
    kind = p.get("rope_type", p.get("type"))
    if kind == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN); w.add_rope_scaling_factor(p["factor"])
        w.add_rope_scaling_orig_ctx_len(p["original_max_position_embeddings"])
    if kind == "longrope":
        old = p["original_max_position_embeddings"]
        w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE); w.add_rope_scaling_orig_ctx_len(old)
        w.add_rope_scaling_attn_factors(float((1 + np.log(c["max_position_embeddings"] / old) / np.log(old)) ** .5))
        for end in "long", "short": w.add_tensor(f"rope_factors_{end}.weight", np.array(p[f"{end}_factor"], dtype=np.float32))


def write_gguf(path, spec, weights):
    """Returns the weights as a reader gets them back."""
    c = spec["config"]; arch = c["model_type"]; types = spec["gguf"]; back = {}
    w = gguf.GGUFWriter(path, arch)
    w.add_name("tiny random model"); w.add_context_length(c["max_position_embeddings"]); w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"]); w.add_feed_forward_length(c["intermediate_size"]); w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"]); w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_rope_freq_base(c.get("rope_theta") or c["rope_parameters"]["rope_theta"])
    if "head_dim" in c: w.add_key_length(c["head_dim"]); w.add_value_length(c["head_dim"])
    if (c.get("rope_parameters") or {}).get("rope_type") == "llama3": w.add_tensor("rope_freqs.weight", llama3_factors(c))
    if arch == "llama" and "head_dim" not in c: w.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    stretch(w, c)
    for hf, t in weights.items():
        x, name = t.float().numpy(), gguf_name(hf)
        heads = {"q_proj": c["num_attention_heads"], "k_proj": c["num_key_value_heads"]}.get(hf.split(".")[-2]) if arch == "llama" else None
        if heads: x = permute(x, heads)
        kind = "F32" if x.ndim == 1 else types.get(name.split(".")[-2], types["default"])
        q = getattr(gguf.GGMLQuantizationType, kind)
        data = x if kind == "F32" else gguf.quants.quantize(x, q)
        w.add_tensor(name, np.ascontiguousarray(data), raw_dtype=None if kind in ("F32", "F16") else q)
        y = x if kind == "F32" else gguf.quants.dequantize(data, q)
        back[hf] = torch.from_numpy(np.ascontiguousarray(unpermute(y, heads) if heads else y).astype(np.float32))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    return back


def make(name, spec, seed):
    path = os.path.join(HERE, name)
    config = transformers.AutoConfig.for_model(**spec["config"])
    shapes = {k: tuple(v.shape) for k, v in transformers.AutoModelForCausalLM.from_config(config).state_dict().items()}
    if spec["config"]["tie_word_embeddings"]: shapes.pop("lm_head.weight", None)
    weights = {k: v.to(spec["dtype"]) for k, v in random_weights(shapes, seed).items()}
    write_folder(path, spec, weights)
    tokens = np.random.default_rng(seed).integers(0, spec["config"]["vocab_size"], N_TOKEN).tolist()
    model = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager", dtype=torch.float32).eval()
    golden(model, os.path.join(path, "golden.safetensors"), tokens)
    if "gguf" in spec:
        back = write_gguf(os.path.join(path, "model.gguf"), spec, weights)
        missing, unexpected = model.load_state_dict(back, strict=False)
        assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
        golden(model, os.path.join(path, "golden-gguf.safetensors"), tokens)
    print(name, f"{sum(w.numel() for w in weights.values())} weights, rope {model.config.rope_parameters}")


if __name__ == "__main__":
    for i, (name, spec) in enumerate(MODELS.items()):
        if len(sys.argv) < 2 or name in sys.argv[1:]: make(name, spec, 1000 + i)
