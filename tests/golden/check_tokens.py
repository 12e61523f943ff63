#!/usr/bin/env python3
"""Compares `precis tokenize` with HF `tokenizers`, or with SentencePiece itself, on as much text as you like: ids, and what they decode to.

    python3 tests/golden/make_texts.py --mb 12 --prose FILE... > texts.jsonl
    python3 tests/golden/check_tokens.py --precis build/precis --model MODEL texts.jsonl
    python3 tests/golden/check_tokens.py --precis build/precis --model MODEL.gguf --spm tokenizer.model texts.jsonl

--precis build/tests/bench/bench_tokenizer does for a MODEL that has a tokenizer only. MODEL may be an HF folder, whose tokenizer.json HF reads itself; for a GGUF file the HF tokenizer is built from the file's own vocabulary and the family's
pre-tokeniser, or --spm names the SentencePiece model that it was made from. Lines are {"text"} with, maybe, "kind"; bytes that are no UTF-8 are read by
Python's rule. Needs the packages tokenizers and gguf (and sentencepiece). Prints the number of texts, ids and differences; exit 1 when there are any.
"""
import argparse, collections, json, os, re, subprocess, sys, tempfile, time
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

class Spm:
    """Text between control tokens is encoded by itself, with the blank before it."""
    def __init__(self, path):
        import sentencepiece
        self.sp = sentencepiece.SentencePieceProcessor(model_file=path)
        self.marks = {self.sp.id_to_piece(i): i for i in range(self.sp.vocab_size()) if self.sp.is_control(i) or self.sp.is_unknown(i)}
        self.split = re.compile('(' + '|'.join(map(re.escape, self.marks)) + ')')
    def ids(self, s): return [i for part in self.split.split(s) if part for i in ([self.marks[part]] if part in self.marks else self.sp.encode(part))]

def precis(a, mode, lines):
    """bench_tokenizer takes a tokenizer without a model."""
    with tempfile.TemporaryDirectory() as d:
        src = os.path.join(d, 'in.jsonl')
        with open(src, 'wb') as f: f.write(lines)
        if os.path.basename(a.precis) == 'bench_tokenizer': cmd = [a.precis, mode, os.path.join(a.model, 'tokenizer.json') if os.path.isdir(a.model) else a.model, src]
        else: cmd = [a.precis, 'tokenize', '--model', a.model, '--input', src] + {'--ids': [], '--plain': ['--no-special'], '--text': ['--decode']}[mode]
        t0 = time.time(); out = subprocess.run(cmd, stdout=subprocess.PIPE, check=True).stdout
        return [json.loads(l) for l in out.splitlines()], time.time() - t0

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--precis', required=True); a.add_argument('--model', required=True); a.add_argument('--spm'); a.add_argument('--plain', action='store_true', help='special tokens are ordinary text')
    a.add_argument('files', nargs='+')
    a = a.parse_args()
    lines = b''.join(open(f, 'rb').read() for f in a.files)
    records = [json.loads(l.decode('utf-8', 'replace')) for l in lines.splitlines()]
    texts = [r['text'] for r in records]
    got, ours = precis(a, '--plain' if a.plain else '--ids', lines)
    got = [r['tokens'] for r in got]
    t0 = time.time()
    if a.spm:
        sp = Spm(a.spm); want = [sp.sp.encode(s) if a.plain else sp.ids(s) for s in texts]
    else:
        hf = hf_tokenizer(a.model); hf.encode_special_tokens = a.plain; want = [hf.encode(s, add_special_tokens=False).ids for s in texts]
    theirs, mb = time.time() - t0, sum(len(s.encode()) for s in texts) / 1e6
    bad = [i for i in range(len(texts)) if i >= len(got) or got[i] != want[i]]
    print(f'{a.model}: {len(texts)} texts, {mb:.1f} MB, {sum(map(len, want))} ids, {len(bad)} texts differ; precis {mb / ours:.1f} MB/s (with start and JSON), the other {mb / theirs:.1f} MB/s')
    if bad:
        i = bad[0]; k = next((k for k, (x, y) in enumerate(zip(got[i] if i < len(got) else [], want[i])) if x != y), 0)
        print('kinds:', dict(collections.Counter(records[i].get('kind') for i in bad)))
        print(f'first: text {i} {ascii(texts[i][:60])}, id {k}: {got[i][max(0, k - 3):k + 6]} for {want[i][max(0, k - 3):k + 6]}')
    unlike = []
    if not a.spm:
        shown, _ = precis(a, '--text', b''.join(json.dumps({'id': i, 'tokens': w}).encode() + b'\n' for i, w in enumerate(want)))
        unlike = [i for i, w in enumerate(want) if shown[i]['text'] != hf.decode(w, skip_special_tokens=False)]
        print(f'decoded: {len(unlike)} texts differ' + (f'; first: text {unlike[0]} {ascii(texts[unlike[0]][:60])}' if unlike else ''))
    return bool(bad or unlike)

sys.exit(main())
