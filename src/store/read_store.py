#!/usr/bin/env python3
"""Reads a store with nothing but `safetensors` (pip install safetensors torch) and prints its segments.

    python3 read_store.py DIR
"""
import glob, json, os, sys
from safetensors import safe_open


def lines(path):
    """Whole lines of a file of records; a torn one at the end is left out."""
    with open(path, 'rb') as f:
        for line in f:
            if line.endswith(b'\n'):
                yield json.loads(line)


def main(folder):
    store = next(lines(os.path.join(folder, 'store.json')))
    print(f"{store['model']}: layout {store['layout']}, segments of {store['segment']}, sink of {len(store['sink'])} tokens, {store['kv_type']}")
    for data in sorted(glob.glob(os.path.join(glob.escape(folder), 'rank*.safetensors'))):
        with safe_open(data, framework='pt') as f:
            for s in lines(data.replace('.safetensors', '.index')):
                if 'address' not in s:
                    continue  # the head of the index
                tokens = f.get_tensor(s['address'] + '.tokens')[:s['tokens']]
                k = f.get_tensor(s['address'] + '.k')  # [layer, K/V head, row, d_head]
                v = f.get_tensor(s['address'] + '.v')
                kept = f' kept {f.get_tensor(s["address"] + ".kept")[:s["kept"]].tolist()[:4]}..' if 'kept' in s else ''
                print(f"{os.path.basename(data)} {s['address']} position {s['pos']} tokens {tokens[:6].tolist()}.. ({len(tokens)}) "
                      f"K {list(k.shape)} {k.dtype} mean {k.float().mean():+.4f} V mean {v.float().mean():+.4f}{kept}")
    documents = os.path.join(folder, 'documents.jsonl')
    if os.path.exists(documents):
        for d in {d['id']: d for d in lines(documents)}.values():
            print(f"document {d['id']}: {d['tokens']} tokens in {len(d['segments'])} segments")


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
