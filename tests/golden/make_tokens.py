#!/usr/bin/env python3
"""Renews tests/golden/tokens: a tiny tokenizer.json in each family's exact configuration, and texts with their ids, all by HF `tokenizers`.

    python3 tests/golden/make_tokens.py TEXT      TEXT: some English prose, 200 KB or more (ours: a public-domain novel); needs the packages tokenizers,
                                                  sentencepiece, gguf

    python3 tests/golden/make_tokens.py TEXT --out FOLDER --size 32000         vocabularies of real size, a folder for each family, for check_tokens.py

SentencePiece's families share one small model, trained with Llama 2's settings; each has its tokenizer.json put around it as the families' converters do.
spm.gguf has the same model as GGUF files have it, and its ids are SentencePiece's own.

texts.jsonl, a text a line:
    text or hex      the text, or its UTF-8 in hexadecimal digits where it has a NUL
    FAMILY           ids, special tokens recognised
    FAMILY_plain     ids with special tokens taken as ordinary text, where they differ
    FAMILY_text      what the ids decode to, where that is not the text; hexadecimal
    FAMILY_clean     what they decode to without special tokens, where that differs from the decoded text; hexadecimal
"""
import argparse, io, json, os, random, re
import gguf, sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'tokens')
SIZE = None  # of the vocabularies; the golden ones are small
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r'\p{N}{1,3}', r'\p{N}')
CHATML = ['<|endoftext|>', '<|im_start|>', '<|im_end|>']
LLAMA = ['<|begin_of_text|>', '<|end_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>']
FLAGS = [AddedToken('<mask>', lstrip=True, normalized=False, special=True), AddedToken('<pad>', rstrip=True, normalized=False, special=True),
         AddedToken('word', single_word=True, normalized=True), AddedToken('<both>', lstrip=True, rstrip=True), AddedToken('<b', normalized=False),
         AddedToken('caf\u00e9', normalized=True), AddedToken('  ', normalized=False)]

def byte_level(regex): return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
def split(pattern): return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), 'isolated'), byte_level(False)])

def train(text, pre, special, size, normalizer=None, lacking='', unmade='', **model):
    t = Tokenizer(models.BPE(**model))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    if normalizer: t.normalizer = normalizer
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if c not in lacking]
    t.train_from_iterator([text], trainers.BpeTrainer(vocab_size=SIZE or size, special_tokens=special, initial_alphabet=alphabet, show_progress=False))
    if unmade: # a token that no merge makes: ignore_merges finds it, others do not
        j = json.loads(t.to_str()); j['model']['vocab'][unmade] = len(j['model']['vocab']); t = Tokenizer.from_str(json.dumps(j))
    return t

def families(text):
    lacking = ''.join(chr(256 + b) for b in (0, 1, 2, 3, 4, 14, 15))  # characters of the bytes that smollm's vocabulary is to lack
    smollm = train(text, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]), CHATML, 900, lacking=lacking)
    gpt2 = train(text, byte_level(True), CHATML[:1], 800, unmade='Ġxyzzy')
    gpt2.add_tokens([t for t in FLAGS if not t.special]); gpt2.add_special_tokens([t for t in FLAGS if t.special])
    llama3 = train(text, split(LLAMA3), [], 800, unmade='Ġxyzzy', ignore_merges=True)
    llama3.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in LLAMA])
    bos = LLAMA[0]
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single=f'{bos} $A', pair=f'{bos} $A {bos}:1 $B:1', special_tokens=[(bos, llama3.token_to_id(bos))])])
    qwen2 = train(text, split(QWEN2), [], 800, normalizer=normalizers.NFC())
    qwen2.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in CHATML])
    qwen2.add_tokens([AddedToken('<tool_call>', normalized=False), AddedToken('caf\u00e9', normalized=True)])
    return {'smollm': smollm, 'gpt2': gpt2, 'llama3': llama3, 'qwen2': qwen2}

# ---- SentencePiece's families ----

BLANK = '\u2581'
INST = ['[INST]', '[/INST]', '[TOOL_CALLS]']

def spm_train(prose):
    scripts = [s for s in HAND if not s.isascii() and '\0' not in s] * 20
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(prose.split('\n') + scripts), model_writer=model, model_type='bpe', vocab_size=SIZE or 700, byte_fallback=True,
        normalization_rule_name='identity', add_dummy_prefix=True, remove_extra_whitespaces=False, split_digits=True, character_coverage=.9995,
        allow_whitespace_only_pieces=True, max_sentence_length=100000, minloglevel=2)
    if SIZE: open(os.path.join(OUT, 'spm.model'), 'wb').write(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())

def spm_merges(sp):
    """As transformers makes them of a model without merges: all ways to make a token of two, by score, then by the order of the parts."""
    vocab, out = {sp.id_to_piece(i): i for i in range(sp.vocab_size())}, []
    for piece, i in vocab.items():
        pairs = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in vocab and piece[k:] in vocab]
        out += [(a, b, sp.get_score(i)) for a, b in sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))]
    return [[a, b] for a, b, _ in sorted(out, key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)]

def added(t, i): return {'id': i, 'content': t.content, 'single_word': t.single_word, 'lstrip': t.lstrip, 'rstrip': t.rstrip, 'normalized': t.normalized, 'special': t.special}
def special(s, normalized=False): return AddedToken(s, special=True, normalized=normalized)
def replace(a, b): return {'type': 'Replace', 'pattern': {'String': a}, 'content': b}
def sequence(kind, *stages): return {'type': 'Sequence', kind: list(stages)}

def spm_json(sp, normalizer, pre, decoder, tokens, drop=(), **model):
    vocab = {s: i for i, s in enumerate(s for s in map(sp.id_to_piece, range(sp.vocab_size())) if s not in drop)}
    n, out = len(vocab), []
    for t in tokens:
        i = vocab.get(t.content, n); n += i == n; out.append(added(t, i))
    post = {'type': 'TemplateProcessing', 'single': [{'SpecialToken': {'id': '<s>', 'type_id': 0}}, {'Sequence': {'id': 'A', 'type_id': 0}}], 'pair': [{'Sequence': {'id': 'A', 'type_id': 0}},
        {'Sequence': {'id': 'B', 'type_id': 0}}], 'special_tokens': {'<s>': {'id': '<s>', 'ids': [1], 'tokens': ['<s>']}}}
    merges = [m for m in spm_merges(sp) if not {*m, ''.join(m)} & set(drop)]
    m = {'type': 'BPE', 'dropout': None, 'unk_token': '<unk>', 'continuing_subword_prefix': None, 'end_of_word_suffix': None, 'fuse_unk': True, 'byte_fallback': True, 'ignore_merges': False,
         'vocab': vocab, 'merges': merges}
    m.update(model)
    return Tokenizer.from_str(json.dumps({'version': '1.0', 'truncation': None, 'padding': None, 'added_tokens': out, 'normalizer': normalizer, 'pre_tokenizer': pre,
        'post_processor': post, 'decoder': decoder, 'model': m}))

def spm_families(sp):
    ends, ends_normalized = [special(s) for s in ('<unk>', '<s>', '</s>')], [special(s, True) for s in ('<unk>', '<s>', '</s>')]
    prepend, blank = {'type': 'Prepend', 'prepend': BLANK}, replace(' ', BLANK)
    shows = [replace(BLANK, ' '), {'type': 'ByteFallback'}, {'type': 'Fuse'}]
    strip = {'type': 'Strip', 'content': ' ', 'start': 1, 'stop': 0}
    legacy, full = sequence('normalizers', prepend, blank), sequence('decoders', *shows, strip)
    def metaspace(scheme, split): return {'type': 'Metaspace', 'replacement': BLANK, 'prepend_scheme': scheme, 'split': split}
    bare = {f'<0x{b:02X}>' for b in (0xf0, 0x9f, 7)} | {'q', 'z'}
    return {'llama2': spm_json(sp, legacy, None, full, ends),                                                  # as first published; Mistral 1 too
            'llama2n': spm_json(sp, legacy, None, full, ends_normalized + FLAGS),                              # special tokens of the kind that is normalised
            'mistral3': spm_json(sp, None, metaspace('first', False), full, ends + [special(s) for s in INST] + FLAGS),
            'metaspace': spm_json(sp, None, {'type': 'Metaspace', 'replacement': BLANK, 'add_prefix_space': True}, metaspace('always', True), ends + FLAGS, drop=bare, fuse_unk=True),
            'never': spm_json(sp, None, metaspace('never', True), sequence('decoders', *shows), ends, drop=bare, fuse_unk=False, ignore_merges=True),
            'gemma': spm_json(sp, blank, {'type': 'Split', 'pattern': {'String': ' '}, 'behavior': 'MergedWithPrevious', 'invert': False}, sequence('decoders', *shows), ends)}

def spm_gguf(sp):
    w, n = gguf.GGUFWriter(os.path.join(OUT, 'spm.gguf'), 'llama'), range(sp.vocab_size())
    w.add_tokenizer_model('llama'); w.add_tokenizer_pre('default')
    w.add_token_list([sp.id_to_piece(i) for i in n]); w.add_token_scores([sp.get_score(i) for i in n])
    w.add_token_types([2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in n])
    w.add_bos_token_id(sp.bos_id()); w.add_eos_token_id(sp.eos_id()); w.add_unk_token_id(sp.unk_id()); w.add_add_space_prefix(True)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.close()

def spm_ids(sp, s, specials):
    out = []
    for part in re.split('(<unk>|<s>|</s>)', s) if specials else [s]:
        if part in ('<unk>', '<s>', '</s>') and specials: out.append(sp.piece_to_id(part))
        elif part: out += sp.encode(part)
    return out

def finish(name, t):
    """Older files have merges as strings."""
    j = json.loads(t.to_str())
    if name in ('smollm', 'gpt2', 'llama2', 'never'): j['model']['merges'] = [' '.join(m) for m in j['model']['merges']]
    path = os.path.join(OUT, name, 'tokenizer.json') if SIZE else os.path.join(OUT, name + '.json')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as f: json.dump(j, f, ensure_ascii=False, separators=(',', ':')); f.write('\n')
    return Tokenizer.from_file(path)

HAND = ["", " ", "  ", "\n", "\r\n", " \n \n", "a", "Hello, world!", "I'm sure they'll say it's what we've had; you'd think he'S 'RE 'Ve 'LL'D don\u2019t", "it'\u017f so", "x  y   z    ", "tab\tand\t\ttabs",
        "1984 12345678 3.14159 1,000,000 \u0663\u0664\u0665 \u00bd\u00b2 \u2167\u2168 7th", "ab  1", "ab  12  cd", "a1b22c333d4444", "\u180e x\u180ey \u180e\u180e", "\u0085next\u2028line\u2029para\u00a0nbsp\u3000wide",
        "caf\u00e9 cafe\u0301 CAFE\u0301", "\u1100\u1161\u11a8 \uac00\uac01 \u1112\u1161\u11ab\u1100\u1173\u11af", "\u212b \u2126 \u0344 \u0958", "q\u0307\u0323 q\u0323\u0307 a\u0315\u0300\u05ae\u0062", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
        "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0928\u092e\u0938\u094d\u0924\u0947", "\U0001f600\U0001f469\u200d\U0001f680 \u2764\ufe0f", "\ufffd\ufffd", "\ufeffbom", "nul\0here\0\0", "\x01\x02\x03\x04\x0e\x0f\x1f\x7f",
        "ab\x00cd\x01ef", "the\x00 the", "def f(x):\n    return x ** 2  # two\n\n\nclass A:\n\tpass\n", "xyzzy xyzzy", "!!!???...---", "a" * 70, "a" * 500, " " * 100, "\n" * 40, "ab" * 200 + "c", "the" * 100, "0" * 33, "=-" * 60,
        "<|endoftext|>", "<|endoftext|><|endoftext|>", "a<|endoftext|>b", "a <|endoftext|> b", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|im_start|", "<|im_start|><|im_end", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>",
        "x <mask> y", "x \n\t <mask>  <mask>y", "<pad>   x <pad>\n\n<pad>", "word words sword word. word-word (word) _word 9word \u00e9word word\u0301", "word", "wordword word", " <both> x  <both>   <both>", "<b <bo <both <b>", "a   b     c", " \u00a0 <mask>",
        "caf\u00e9s cafe\u0301s xcafe\u0301", "<tool_call>{\"a\": 1}</tool_call>", "\u00e9\u00c9\u00fc\u00df\u0130\u0131", "\u24b6word \u24e9word \u2160word \u00aaword \u0300word", "<|end_of_text|> <|eot_id|>\n",
        "<s>a</s>", "<s> a</s> b", "a<s>", "<s>", "<s><s> </s>", "<s>\n</s>", "<unk>", "a <unk> b", "[INST] hi [/INST]", "<s>[INST] hi [/INST] there </s>", "\u2581", "\u2581a \u2581 b\u2581", " \u2581", "\u2581\u2581", "<0x0A>", "<0x41>a",
        "    four", "a    b", "  \n  a", "\U0001f600\U0001f601 \U0001f600", "zqz q", "\x07\x07a\x07 \U0001f600z\x07", "a\u0301\u0323 \u1e69", "<s>word</s>", "<mask>word", "<s> <mask> a", "the<s>the", "caf\u00e9<s>caf\u00e9", "  <s>  a",
        "quizzical zebra", "e.g. 12,345.67 per cent", "\u4e2d\u6587\u4e2d\u6587\u4e00\u4e8c"]
RANGES = [(32, 126)] * 5 + [(0, 31), (0x7f, 0xff), (0xa1, 0x24f), (0x250, 0x2af), (0x300, 0x36f), (0x370, 0x3ff), (0x400, 0x4ff), (0x5d0, 0x5ea), (0x620, 0x64a), (0x660, 0x669), (0x900, 0x97f), (0xe01, 0xe3a), (0x1100, 0x11ff),
          (0x1e00, 0x1eff), (0x2000, 0x206f), (0x2070, 0x209c), (0x20a0, 0x20bf), (0x2100, 0x218b), (0x2460, 0x24ff), (0x3000, 0x30ff), (0x4e00, 0x4fff), (0xac00, 0xad00), (0xf900, 0xf9ff), (0xfb00, 0xfb06), (0xfe00, 0xfe0f), (0x1d400, 0x1d454), (0x1f600, 0x1f64f)]
PARTS = [" ", "  ", "\n", "\t", "'s", "'LL", "12", "7", "the ", " of", "e\u0301", "<|im_end|>", "<|eot_id|>", "<mask>", "word", "\u00a0", "...", "\r\n", "<s>", "</s>", "<unk>", "[INST]", "<pad>", "<both>", "caf\u00e9", "\u2581", "   ", "<b"]

def texts(prose, n=480):
    rng, out = random.Random(20240229), list(HAND)
    for _ in range(60):
        i = rng.randrange(len(prose) - 200); out.append(prose[i:i + rng.randrange(10, 160)])
    while len(out) < n:
        s = ''
        for _ in range(rng.randrange(1, 7)):
            if rng.random() < .35: s += rng.choice(PARTS)
            else: lo, hi = rng.choice(RANGES); s += ''.join(chr(rng.randint(lo, hi)) for _ in range(rng.randrange(1, 5)))
        out.append(s)
    return out

def main():
    global OUT, SIZE
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('text'); a.add_argument('--out', default=OUT); a.add_argument('--size', type=int)
    a = a.parse_args(); OUT, SIZE = a.out, a.size
    prose = open(a.text, encoding='utf-8').read()
    if not SIZE: prose = prose[:600000]
    os.makedirs(OUT, exist_ok=True)
    sp = spm_train(prose); spm_gguf(sp)
    toks = {k: finish(k, t) for k, t in {**families(prose), **spm_families(sp)}.items()}
    # tokenizers 0.23 does not skip special tokens whose normalised form differs; earlier ones did, and so do we
    drop = {k: {i for i, a in t.get_added_tokens_decoder().items() if a.special} for k, t in toks.items()}
    if SIZE: return
    with open(os.path.join(OUT, 'texts.jsonl'), 'w') as f:
        for s in texts(prose):
            r = {'hex': s.encode().hex()} if '\0' in s else {'text': s}
            for k, t in toks.items():
                t.encode_special_tokens = False; ids = t.encode(s, add_special_tokens=False).ids
                t.encode_special_tokens = True; plain = t.encode(s, add_special_tokens=False).ids
                text, clean = t.decode(ids, skip_special_tokens=False), t.decode([i for i in ids if i not in drop[k]], skip_special_tokens=True)
                r[k] = ids
                if plain != ids: r[k + '_plain'] = plain
                if text != s: r[k + '_text'] = text.encode().hex()
                if clean != text: r[k + '_clean'] = clean.encode().hex()
            r['spm'], plain = spm_ids(sp, s, True), spm_ids(sp, s, False)
            if plain != r['spm']: r['spm_plain'] = plain
            f.write(json.dumps(r, separators=(',', ':')) + '\n')

main()
