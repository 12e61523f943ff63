#!/usr/bin/env python3
"""Compares `precis tokenize` with HF `tokenizers` on as much text as you like.

    python3 tests/golden/check_tokens.py --precis build/precis --model MODEL.gguf --mb 10 FILE...

FILE: .jsonl or .jsonl.zst with a field "text". MODEL may be an HF folder, whose tokenizer.json HF reads itself; for a GGUF file the HF tokenizer is built from
the file's own vocabulary and the family's pre-tokeniser. Needs the packages
tokenizers and gguf, and the program zstd. Prints the number of texts, ids and differences; exit 1 when there are any.
"""
import argparse, json, os, subprocess, sys, tempfile, time
from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLIT = {'llama-bpe': LLAMA3, 'qwen2': LLAMA3.replace(r'\p{N}{1,3}', r'\p{N}')}
CONTROL, USER = 3, 4

def byte_level(regex): return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)

def hf_tokenizer(path):
    if os.path.isdir(path): return Tokenizer.from_file(os.path.join(path, 'tokenizer.json'))
    fields = GGUFReader(path).fields
    def strings(key): f = fields[key]; return [bytes(f.parts[i]).decode() for i in f.data]
    def text(key): return bytes(fields[key].parts[-1]).decode()
    tokens, pre = strings('tokenizer.ggml.tokens'), text('tokenizer.ggml.pre')
    f = fields['tokenizer.ggml.token_type']; types = [int(f.parts[i][0]) for i in f.data]
    merges = [tuple(m.split(' ', 1)) for m in strings('tokenizer.ggml.merges')]
    t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=merges, ignore_merges=pre == 'llama-bpe'))
    if pre == 'smollm': t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)])
    elif pre == 'gpt-2': t.pre_tokenizer = byte_level(True)
    else: t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT[pre]), 'isolated'), byte_level(False)])
    if pre == 'qwen2': t.normalizer = normalizers.NFC()
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s, k in zip(tokens, types) if k == CONTROL])
    t.add_tokens([AddedToken(s, normalized=False) for s, k in zip(tokens, types) if k == USER])
    return t

def read_texts(paths, limit):
    """Documents in pieces of at most 100,000 characters, until there are `limit` bytes; the files take turns."""
    per_file = limit // len(paths) + 1
    for path in paths:
        p = subprocess.Popen(['zstd', '-dc', path], stdout=subprocess.PIPE) if path.endswith('.zst') else None
        left = per_file
        for line in p.stdout if p else open(path, 'rb'):
            s = json.loads(line)['text']
            for i in range(0, len(s), 100000):
                if left <= 0: break
                yield s[i:i + 100000]; left -= len(s[i:i + 100000].encode())
            if left <= 0: break
        if p: p.stdout.close(); p.wait()

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--precis', required=True); a.add_argument('--model', required=True); a.add_argument('--mb', type=float, default=10); a.add_argument('files', nargs='+')
    a = a.parse_args()
    hf, texts = hf_tokenizer(a.model), list(read_texts(a.files, int(a.mb * 1e6)))
    with tempfile.TemporaryDirectory() as d:
        src = os.path.join(d, 'in.jsonl')
        with open(src, 'w') as f:
            for i, s in enumerate(texts): f.write(json.dumps({'id': i, 'text': s}) + '\n')
        t0 = time.time(); out = subprocess.run([a.precis, 'tokenize', '--model', a.model, '--input', src], stdout=subprocess.PIPE, check=True).stdout; ours = time.time() - t0
    got = [json.loads(l)['tokens'] for l in out.splitlines()]
    t0 = time.time(); want = [hf.encode(s, add_special_tokens=False).ids for s in texts]; theirs = time.time() - t0
    bad = [i for i in range(len(texts)) if i >= len(got) or got[i] != want[i]]
    mb = sum(len(s.encode()) for s in texts) / 1e6
    print(f'{len(texts)} texts, {mb:.1f} MB, {sum(map(len, want))} ids, {len(bad)} texts differ; precis {mb / ours:.1f} MB/s (with start and JSON), tokenizers {mb / theirs:.1f} MB/s')
    if bad:
        i = bad[0]; k = next((k for k, (x, y) in enumerate(zip(got[i] if i < len(got) else [], want[i])) if x != y), 0)
        print(f'first: text {i}, id {k}: {hf.decode(want[i][max(0, k - 5):k + 10])!r}')
    return bool(bad)

sys.exit(main())
