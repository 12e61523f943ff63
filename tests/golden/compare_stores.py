#!/usr/bin/env python3
"""Two stores of the same text under the same settings, made by two backends: the same segments, the same rows kept, keys and values equal to rounding.

    compare_stores.py A B TOLERANCE        of the largest value of a segment's K or V; stores must be of --kv-dtype f32

Where rows are chosen by score (blockselect), a tie may fall the other way: of the rows kept, 1 in 100 may differ, and K/V are compared where the lists are equal.
"""
import array, glob, json, os, struct, sys


def segments(folder):
    """address -> {"tokens": .., "k": .., "v": .., "kept": ..} as arrays, "layers": their number."""
    found = {}
    for data in glob.glob(os.path.join(glob.escape(folder), "rank*.safetensors*")):
        with open(data, "rb") as f:
            n = struct.unpack("<Q", f.read(8))[0]
            header = json.loads(f.read(n))
            for name, t in header.items():
                address, _, part = name.partition(".")
                if part not in ("tokens", "k", "v", "kept"):
                    continue
                f.seek(8 + n + t["data_offsets"][0])
                raw = f.read(t["data_offsets"][1] - t["data_offsets"][0])
                if part == "k":
                    found.setdefault(address, {})["layers"] = t["shape"][0]
                found.setdefault(address, {})[part] = array.array("i" if part in ("tokens", "kept") else "f", raw)
    return found


def rows(segment):
    """(layer, head and row) of each kept row, those that pad the list left out."""
    kept, layers = [r for r in segment["kept"] if r >= 0], segment["layers"]
    return {(i * layers // len(kept), r) for i, r in enumerate(kept)}


def main(a, b, tolerance):
    a, b = segments(a), segments(b)
    worst, same, listed = 0.0, 0, 0
    if not a or a.keys() != b.keys():
        sys.exit(f"{len(a)} and {len(b)} segments, not the same ones")
    for address in a:
        x, y = a[address], b[address]
        if x["tokens"] != y["tokens"]:
            sys.exit(f"{address}: other tokens")
        if "kept" in x:
            listed += len(rows(x))
            same += len(rows(x) & rows(y))
            if x["kept"] != y["kept"]:
                continue
        for part in "kv":
            if len(x[part]) != len(y[part]):
                sys.exit(f"{address}: {len(x[part])} and {len(y[part])} elements of {part}")
            size = max(map(abs, x[part]), default=1) or 1
            difference = max((abs(p - q) for p, q in zip(x[part], y[part])), default=0.0) / size
            if not difference <= tolerance:  # takes NaN
                sys.exit(f"{address}: {part} differs by {difference:g} of its largest value")
            worst = max(worst, difference)
    if same < 0.99 * listed:
        sys.exit(f"{same} of {listed} kept rows are the same")
    print(f"{len(a)} segments, largest difference {worst:.2g}" + (f", {same} of {listed} kept rows the same" if listed else ""))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
