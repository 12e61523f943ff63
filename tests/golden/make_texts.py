#!/usr/bin/env python3
"""Writes texts of all kinds for check_tokens.py, one record {"id","kind","text"} a line; the same ones for the same arguments.

    python3 tests/golden/make_texts.py --mb 12 --prose FILE... > texts.jsonl       FILE: .jsonl or .jsonl.zst with a field "text"

Kinds: prose (from FILE), code (Python sources of this interpreter), scripts (words of letters of 14 scripts), numbers, emoji and combining marks, blanks,
controls, unicode (any assigned characters), specials (added tokens of all families with text around them), invalid (bytes that are no UTF-8, written raw
into the line: both sides read them as U+FFFD by Python's rule), long (one piece without a break).
"""
import argparse, json, os, random, subprocess, sys, sysconfig, unicodedata

SCRIPTS = {'greek': (0x3b1, 0x3c9), 'cyrillic': (0x430, 0x44f), 'armenian': (0x561, 0x586), 'hebrew': (0x5d0, 0x5ea), 'arabic': (0x627, 0x64a), 'devanagari': (0x905, 0x939), 'bengali': (0x985, 0x9b9),
           'tamil': (0xb85, 0xbb9), 'thai': (0xe01, 0xe30), 'georgian': (0x10d0, 0x10f0), 'ethiopic': (0x1200, 0x1248), 'hiragana': (0x3041, 0x3096), 'han': (0x4e00, 0x5fff), 'hangul': (0xac00, 0xb800)}
SPECIAL = ['<s>', '</s>', '<unk>', '[INST]', '[/INST]', '[TOOL_CALLS]', '<|im_start|>', '<|im_end|>', '<|endoftext|>', '<|eot_id|>', '<|begin_of_text|>', '<|start_header_id|>', '<mask>', '<pad>', 'word',
           '<both>', '<b', 'caf\u00e9', 'cafe\u0301', '  ', '<tool_call>', '\u2581', '<0x0A>', '<|im_end', '<s', '[INST']
BETWEEN = ['', '', ' ', '  ', '\n', '\t', '\u00a0', 'a', ' a', 'a ', 'word', '_', '9', '\u00e9', '\u0301', '.', 'the', ' the ', '\r\n', '\u3000', '\u4e2d', '\U0001f600']

def assigned(): return [c for c in range(1, 0x30000) if unicodedata.category(chr(c)) not in ('Cn', 'Cs') and unicodedata.category(chr(c)) != 'Co']
def letters(lo, hi): return [chr(c) for c in range(lo, hi + 1) if unicodedata.category(chr(c))[0] == 'L']

def script(rng):
    lo, hi = SCRIPTS[rng.choice(sorted(SCRIPTS))]; set_ = letters(lo, hi)[:200]; few = [''.join(rng.choice(set_) for _ in range(rng.randrange(1, 9))) for _ in range(300)]
    gap = '' if lo in (0x4e00, 0x3041, 0xe01) else ' '
    return ''.join(rng.choice(few) + (rng.choice(['. ', ', ', '\u3002', '\n']) if rng.random() < .1 else gap) for _ in range(400))
def numbers(rng): return ''.join(rng.choice(['%d' % rng.randrange(10 ** rng.randrange(1, 20)), '%.6g' % rng.gauss(0, 1e4), '\u0663\u0664', '\u00bd', '1,000', '0x%x' % rng.randrange(1 << 40), '\u2167']) + rng.choice([' ', ', ', '\n', '', '-']) for _ in range(300))
def emoji(rng): return ''.join(rng.choice([chr(rng.randrange(0x1f300, 0x1f650)), '\u200d', '\ufe0f', '\U0001f3fd', 'e', 'a', chr(rng.randrange(0x300, 0x36f)), '\u0323\u0301', ' ', 'ok ', '\u1100\u1161\u11a8', '\u0344']) for _ in range(500))
def blanks(rng): return ''.join(rng.choice([' ', '\n', '\t', '\r\n', '\u00a0', '\u3000', '\u2028', '\x85']) * rng.choice([1, 1, 2, 3, 7, 40]) + rng.choice(['', 'a', 'the', '12', '.', '\u2581']) for _ in range(150))
def controls(rng): return ''.join(chr(rng.choice([rng.randrange(1, 32), rng.randrange(0x7f, 0xa0), 0xad, 0x200b, 0x200e, 0xfeff, 0x61, 0x20])) for _ in range(300))
def specials(rng): return ''.join(rng.choice(SPECIAL) + rng.choice(BETWEEN) + rng.choice(BETWEEN) for _ in range(rng.randrange(1, 30)))
def long(rng): return rng.choice(['a', ' ', '\n', 'ab', '=-', '\u00e9', '\u4e2d', '\U0001f600', '\u2581', 'the', '0']) * rng.randrange(100, 3000)
def invalid(rng):
    part = [b'\xff', b'\xe2\x82', b'\xf0\x9f\x98', b'\xed\xa0\x80', b'\xc0\xaf', b'\x80', b'\xf4\x90\x80\x80', b'\xe2\x96', b' ', b'a', b'the ', '\u00e9'.encode(), '\U0001f600'.encode(), b'\xf1\x80\x80']
    return b''.join(rng.choice(part) for _ in range(200))

def read(path):
    p = subprocess.Popen(['zstd', '-dc', path], stdout=subprocess.PIPE) if path.endswith('.zst') else None
    for line in p.stdout if p else open(path, 'rb'): yield json.loads(line)['text']

def prose(paths, limit):
    for path in paths:
        left = limit // len(paths)
        for s in read(path):
            for i in range(0, len(s), 50000):
                if left > 0: yield s[i:i + 50000]; left -= len(s[i:i + 50000].encode())
            if left <= 0: break

def code(limit):
    root = sysconfig.get_paths()['stdlib']
    for f in sorted(os.listdir(root)):
        if limit > 0 and f.endswith('.py'):
            s = open(os.path.join(root, f), encoding='utf-8', errors='replace').read()[:50000]; limit -= len(s.encode()); yield s

def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--mb', type=float, default=12); a.add_argument('--seed', type=int, default=1); a.add_argument('--prose', nargs='+', required=True)
    a = a.parse_args(); rng, out, all_ = random.Random(a.seed), sys.stdout.buffer, assigned()
    def unicode(rng): return ''.join(chr(rng.choice(all_)) if rng.random() < .7 else rng.choice([' ', 'a', '\n', '<s>']) for _ in range(rng.randrange(1, 300)))
    n = 0
    def put(kind, s):
        nonlocal n; n += 1
        text = json.dumps(s.decode('latin-1'), ensure_ascii=False).encode('latin-1') if isinstance(s, bytes) else json.dumps(s).encode()
        out.write(b'{"id":%d,"kind":"%s","text":%s}\n' % (n, kind.encode(), text)); return len(s if isinstance(s, bytes) else s.encode())
    budget = int(a.mb * 1e6)
    for s in prose(a.prose, budget * 30 // 100): put('prose', s)
    for s in code(budget * 15 // 100): put('code', s)
    for kind, share in ((script, 18), (numbers, 5), (emoji, 5), (blanks, 5), (controls, 3), (unicode, 9), (specials, 5), (invalid, 2), (long, 3)):
        left = budget * share // 100
        while left > 0: left -= put(kind.__name__, kind(rng))

main()
