/* Decoding, a token at a time, so that text can be shown while it is made; the whole is the same walk.
 *
 * Byte-level: a character may be spread over tokens, so bytes are held back until the character is whole or cannot become one; bad bytes
 * become U+FFFD as in Python. Textual: only tokens for single bytes make such characters. As in HF, a run of these is valid UTF-8 as a
 * whole or becomes one U+FFFD for each byte, so the run is held back until it ends.
 */
#include <string.h>

#include "base/mem.h"
#include "io/utf8.h"
#include "text/tokenizer_impl.h"

static const char UNKNOWN[] = "\xef\xbf\xbd";

static status_t append(char **s, size_t *n, size_t *cap, const char *more, size_t more_n) {
    if (more_n >= *cap - *n) { /* one byte stays free, for a NUL */
        size_t to = 2 * *cap + more_n + 64;
        status_t st = mem_grow(s, to, 1, "decoded text");
        if (st) return st;
        *cap = to;
    }
    if (more_n) memcpy(*s + *n, more, more_n);
    *n += more_n;
    return ST_OK;
}

static status_t show(tokenizer_stream_t *d, const char *s, size_t n) {
    for (; d->strip > 0 && n; s++, n--) {
        if (*s != ' ') break;
        d->strip--;
    }
    if (n) d->strip = 0;
    return append(&d->text, &d->text_n, &d->text_cap, s, n);
}

static status_t hold(tokenizer_stream_t *d, const char *s, size_t n) { return append(&d->held, &d->held_n, &d->held_cap, s, n); }

/* Shows what is held, repaired; end false: all but a character that may yet become whole. */
static status_t show_held(tokenizer_stream_t *d, bool end) {
    size_t at = 0;
    status_t st = ST_OK;
    while (at < d->held_n && !st) {
        size_t good = utf8_valid_bytes(d->held + at, d->held_n - at);
        if (good && (st = show(d, d->held + at, good))) break;
        if ((at += good) == d->held_n) break;
        uint8_t lead = (uint8_t)d->held[at];
        bool ok;
        size_t k = utf8_step(d->held + at, d->held_n - at, &ok);
        if (!end && at + k == d->held_n && lead >= 0xc2 && lead <= 0xf4) break;
        st = show(d, UNKNOWN, 3);
        at += k;
    }
    if (at) memmove(d->held, d->held + at, d->held_n - at);
    d->held_n -= at;
    return st;
}

static status_t show_run(tokenizer_stream_t *d) {
    size_t n = d->held_n;
    status_t st = ST_OK;
    d->held_n = 0;
    if (utf8_valid_bytes(d->held ? d->held : "", n) == n) return show(d, d->held ? d->held : "", n);
    for (size_t i = 0; i < n && !st; i++) st = show(d, UNKNOWN, 3);
    return st;
}

/* The first token without its U+2581. */
static status_t show_bare(tokenizer_stream_t *d, const char *key, size_t n) {
    status_t st = ST_OK;
    for (size_t i = 0; i < n && !st;) {
        const char *blank = memmem(key + i, n - i, VOCABULARY_BLANK, VOCABULARY_BLANK_N);
        size_t k = blank ? (size_t)(blank - key) - i : n - i;
        st = show(d, key + i, k);
        i += k + (blank ? VOCABULARY_BLANK_N : 0);
    }
    return st;
}

static status_t feed(tokenizer_stream_t *d, int32_t id) {
    const vocabulary_t *v = &d->tokenizer->vocabulary;
    status_t st;
    if (id < 0 || id >= v->n || !v->key[id].n || (!d->show_special && tokenizer_is_special(d->tokenizer, id))) return ST_OK;
    bool first = !d->begun;
    d->begun = true;
    piece_t p = v->piece[id], k = v->key[id];
    if (!v->textual) return (st = hold(d, v->blob + p.at, p.n)) ? st : show_held(d, false);
    if (v->shows_bytes && vocabulary_byte_of(v->blob + k.at, k.n) >= 0) return hold(d, v->blob + p.at, p.n);
    if ((st = show_run(d))) return st;
    if (!first || !d->tokenizer->decode.bare_first) return show(d, v->blob + p.at, p.n);
    const added_token_t *a = d->tokenizer->added_of[id];
    return a ? show_bare(d, a->text, a->n) : show_bare(d, v->blob + k.at, k.n);
}

static status_t finish(tokenizer_stream_t *d) {
    status_t st = d->tokenizer->vocabulary.textual ? show_run(d) : show_held(d, true);
    d->held_n = 0;
    d->begun = false;
    d->strip = d->tokenizer->decode.strip;
    return st;
}

void tokenizer_stream_begin(tokenizer_stream_t *d, const tokenizer_t *t, bool show_special) {
    *d = (tokenizer_stream_t){.tokenizer = t, .show_special = show_special, .strip = t->decode.strip};
}

static status_t result(tokenizer_stream_t *d, status_t st, const char **text, size_t *n) {
    if (!st) st = append(&d->text, &d->text_n, &d->text_cap, "", 0);
    *n = st ? 0 : d->text_n;
    *text = st ? "" : d->text;
    if (!st) d->text[d->text_n] = '\0';
    return st;
}

status_t tokenizer_stream_put(tokenizer_stream_t *d, int32_t id, const char **text, size_t *n) {
    d->text_n = 0;
    return result(d, feed(d, id), text, n);
}

status_t tokenizer_stream_end(tokenizer_stream_t *d, const char **text, size_t *n) {
    d->text_n = 0;
    return result(d, finish(d), text, n);
}

void tokenizer_stream_free(tokenizer_stream_t *d) {
    mem_free(d->text);
    mem_free(d->held);
    *d = (tokenizer_stream_t){0};
}

status_t tokenizer_decode(const tokenizer_t *t, const int32_t *ids, int64_t n, bool show_special, char **text, size_t *bytes) {
    tokenizer_stream_t d;
    const char *all;
    tokenizer_stream_begin(&d, t, show_special);
    status_t st = ST_OK;
    for (int64_t i = 0; i < n && !st; i++) st = feed(&d, ids[i]);
    if (!st) st = finish(&d);
    st = result(&d, st, &all, bytes);
    *text = st ? NULL : d.text;
    if (!st) d.text = NULL;
    tokenizer_stream_free(&d);
    return st;
}
