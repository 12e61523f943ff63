#!/usr/bin/env python3
"""Renews quants.gguf and quants.safetensors: random blocks of every encoding that Precis reads, and the f32 values that the
`gguf` Python package makes of them. tests/unit/test_tensor.c compares bit for bit.

    pip install gguf safetensors numpy && python3 tests/golden/make_quants.py
"""
import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
ROWS, COLS = 2, 256
# where the fp16 scales of a block stand; all other bytes may be anything
SCALES = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}


def f16(rng, n):
    """Finite ones of all sizes: ordinary, subnormal, largest, zeros of both signs."""
    v = (rng.standard_normal(n) * np.exp2(rng.integers(-20, 6, n))).astype(np.float16)
    special = np.array([0.0, -0.0, 6e-8, -3e-6, 65504, -65504], np.float16)
    return np.where(rng.random(n) < 0.2, special[rng.integers(0, len(special), n)], v)


def blocks(rng, t):
    values, size = gguf.GGML_QUANT_SIZES[t]
    n = ROWS * COLS // values
    b = rng.integers(0, 256, (n, size), np.uint8)
    for at in SCALES[t]:
        b[:, at:at + 2] = f16(rng, n).view(np.uint8).reshape(n, 2)
    return b.reshape(ROWS, -1)


def main():
    rng = np.random.default_rng(20240601)
    out = gguf.GGUFWriter(os.path.join(HERE, "quants.gguf"), "none")
    out.add_name("one tensor of each encoding")
    want = {}
    f32 = (rng.standard_normal((ROWS, COLS)) * np.exp2(rng.integers(-120, 120, (ROWS, COLS)))).astype(np.float32)
    plain = {T.F32: f32, T.F16: f16(rng, ROWS * COLS).reshape(ROWS, COLS), T.BF16: (f32.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)}
    for t in [*plain, *SCALES]:
        data = plain[t] if t in plain else blocks(rng, t)
        out.add_tensor(t.name, data, raw_dtype=t)
        want[t.name] = np.ascontiguousarray(gguf.dequantize(data, t)).reshape(ROWS, COLS)
        assert np.isfinite(want[t.name]).all()
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    save_file(want, os.path.join(HERE, "quants.safetensors"))


main()
