#!/usr/bin/env python3
"""Logits of two runs, as `precis logits` writes them: equal to rounding?    compare_logits.py A B TOLERANCE        of the largest one"""
import array, json, struct, sys


def load(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    begin, end = json.loads(data[8:8 + n])["logits"]["data_offsets"]
    return array.array("f", data[8 + n + begin:8 + n + end])


a, b, tolerance = load(sys.argv[1]), load(sys.argv[2]), float(sys.argv[3])
size = max(map(abs, b))
worst = max(abs(x - y) for x, y in zip(a, b)) / size
if len(a) != len(b) or not worst <= tolerance or any(x != x for x in a):
    sys.exit(f"{len(a)} and {len(b)} logits, largest difference {worst:g} of {size:g}")
print(f"largest difference {worst:.2g}")
