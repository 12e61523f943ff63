#!/usr/bin/env python3
"""Logits of `precis logits` against HF transformers on a real model, both from the same (dequantised) weights, on the CPU in f32.

    python3 tests/golden/check_logits.py --model MODEL [--precis build/precis] [--dtype f32|bf16] [--rows 64,300] [--ids FILE]

MODEL is a GGUF file or an HF folder. The sequences are random ids of the given lengths, or those of FILE (white space between ids).
Prints a line per sequence and a verdict; exit 1 when the largest difference, over the largest |logit|, is above 1e-4 (f32) or 5e-2 (bf16:
what transformers itself differs by between bf16 and f32 on SmolLM2 is 3e-2 to 5e-2).
Needs torch, transformers, safetensors, gguf, numpy. Not part of `make test`: the model is not in the repository.
"""
import argparse, os, subprocess, sys, tempfile
import numpy as np, torch, gguf, transformers
from safetensors.torch import load_file
from make_llama import gguf_name, unpermute


def value(reader, key, fallback=None):
    f = reader.get_field(key)
    return fallback if f is None else f.contents()


def from_gguf(path):
    """The model of transformers with the file's weights, put together here: no part of the program under test, nor of the GGUF loader in transformers."""
    r = gguf.GGUFReader(path)
    arch = value(r, "general.architecture")
    key = lambda name, fallback=None: value(r, f"{arch}.{name}", fallback)
    tensors = {t.name: t for t in r.tensors}
    heads = key("attention.head_count"); width = key("embedding_length")
    rope = dict(rope_type="default", rope_theta=key("rope.freq_base", 10000.0))
    if key("rope.scaling.type") == "linear": rope.update(rope_type="linear", factor=key("rope.scaling.factor"))
    config = transformers.AutoConfig.for_model(
        arch, hidden_size=width, num_hidden_layers=key("block_count"), num_attention_heads=heads, num_key_value_heads=key("attention.head_count_kv", heads),
        head_dim=key("attention.key_length", width // heads), intermediate_size=key("feed_forward_length"),
        vocab_size=int(tensors["token_embd.weight"].shape[1]), max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"), tie_word_embeddings="output.weight" not in tensors, rope_parameters=rope)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    state = {}
    for hf in model.state_dict():
        if hf == "lm_head.weight" and config.tie_word_embeddings: continue
        t = tensors[gguf_name(hf)]
        x = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        n = {"q_proj": heads, "k_proj": config.num_key_value_heads}.get(hf.split(".")[-2])
        state[hf] = torch.from_numpy(np.ascontiguousarray(unpermute(x, n) if n and arch == "llama" else x))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    if "rope_freqs.weight" in tensors:
        rotary = model.model.rotary_emb
        rotary.inv_freq = rotary.inv_freq / torch.from_numpy(np.array(tensors["rope_freqs.weight"].data, dtype=np.float32))
    return model.eval()


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--model", required=True); a.add_argument("--precis", default="build/precis"); a.add_argument("--dtype", default="f32", choices=("f32", "bf16"))
    a.add_argument("--rows", default="1,64,300"); a.add_argument("--ids"); a.add_argument("--seed", type=int, default=1)
    a = a.parse_args()
    if os.path.isdir(a.model):
        model = transformers.AutoModelForCausalLM.from_pretrained(a.model, attn_implementation="eager", dtype=torch.float32).eval()
    else:
        model = from_gguf(a.model)
    rng = np.random.default_rng(a.seed)
    sequences = [list(map(int, open(a.ids).read().split()))] if a.ids else \
                [rng.integers(0, model.config.vocab_size, int(n)).tolist() for n in a.rows.split(",")]
    limit, worst = {"f32": 1e-4, "bf16": 5e-2}[a.dtype], 0.
    with tempfile.TemporaryDirectory() as d:
        for ids in sequences:
            tokens, out = os.path.join(d, "ids.txt"), os.path.join(d, "out.safetensors")
            with open(tokens, "w") as f: f.write(" ".join(map(str, ids)) + "\n")
            subprocess.run([a.precis, "logits", "--model", a.model, "--dtype", a.dtype, "--tokens", tokens, "--out", out], check=True,
                           stderr=subprocess.DEVNULL)
            got = load_file(out)["logits"]
            with torch.no_grad(): want = model(torch.tensor([ids])).logits[0].float()
            assert got.shape == want.shape, (got.shape, want.shape)
            error = ((got - want).abs().max() / want.abs().max()).item()
            logprob = (got.log_softmax(-1) - want.log_softmax(-1)).abs().max().item()
            same = (got.argmax(-1) == want.argmax(-1)).float().mean().item()
            print(f"{len(ids)} rows: largest error {error:.2e} of the largest logit, {logprob:.2e} in log-probability, best token equal in {same:.1%}")
            worst = max(worst, error) if error == error else float("inf")
    print(f"check_logits: {'PASSED' if worst <= limit else 'FAILED'} ({worst:.2e}, limit {limit:.0e}, {a.dtype})")
    return worst > limit


if __name__ == "__main__":
    sys.exit(main())
