/* Encoding, in the order the text goes:
 *
 *     bytes -> valid UTF-8 -> cut at added tokens -> NFC where the family wants it -> cut at normalised added tokens -> pieces -> ids
 */
#include "text/tokenizer.h"

#include <string.h>

#include "base/mem.h"
#include "io/corpus.h"
#include "io/utf8.h"
#include "text/bpe.h"
#include "text/tokenizer_impl.h"
#include "text/unicode.h"

void ids_free(ids_t *v) {
    mem_free(v->ids);
    *v = (ids_t){0};
}

status_t ids_push(ids_t *v, int32_t id) {
    if (v->n == v->cap) {
        int64_t cap = v->cap ? 2 * v->cap : 64;
        status_t st = mem_grow(&v->ids, (size_t)cap, sizeof *v->ids, "token ids");
        if (st) return st;
        v->cap = cap;
    }
    v->ids[v->n++] = id;
    return ST_OK;
}

status_t tokenizer_create(tokenizer_t **out) {
    status_t st = mem_zalloc(out, 1, sizeof **out, "a tokenizer");
    if (!st) (*out)->bos = -1;
    return st;
}

void tokenizer_free(tokenizer_t *t) {
    if (!t) return;
    vocabulary_free(&t->vocabulary);
    split_free(&t->split);
    added_free(&t->added_raw);
    added_free(&t->added_normalized);
    mem_free(t->added_of);
    chat_free(&t->chat);
    mem_free(t);
}

void tokenizer_add_eos(tokenizer_t *t, int32_t id) {
    for (int i = 0; i < t->n_eos; i++)
        if (t->eos[i] == id) return;
    if (id >= 0 && t->n_eos < TOKENIZER_EOS_MAX) t->eos[t->n_eos++] = id;
}

void tokenizer_add_family_eos(tokenizer_t *t) {
    static const char *const ends[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        int32_t id = tokenizer_find(t, ends[i]);
        if (tokenizer_is_special(t, id)) tokenizer_add_eos(t, id);
    }
}

static status_t index_added(tokenizer_t *t, const added_t *a, const char *name) {
    for (int64_t i = 0; i < a->n; i++) {
        const added_token_t *x = a->token + i;
        if (x->id < 0 || x->id >= t->vocabulary.n)
            return status_fail(ST_INPUT, "%s: added token \"%.40s\" has id %d, outside 0 .. %lld; get the file again", name, x->text, x->id,
                               (long long)t->vocabulary.n - 1);
        if (t->added_of[x->id])
            return status_fail(ST_INPUT, "%s: id %d is given to two added tokens, \"%.40s\" and \"%.40s\"; get the file again", name, x->id,
                               t->added_of[x->id]->text, x->text);
        t->added_of[x->id] = x;
    }
    return ST_OK;
}

status_t tokenizer_ready(tokenizer_t *t, const char *name) {
    status_t st = mem_zalloc(&t->added_of, (size_t)t->vocabulary.n, sizeof *t->added_of, "the vocabulary");
    if (!st) st = added_ready(&t->added_raw, name);
    if (!st) st = added_ready(&t->added_normalized, name);
    if (!st) st = index_added(t, &t->added_raw, name);
    if (!st) st = index_added(t, &t->added_normalized, name);
    t->vocabulary.name = NULL; /* it was the loader's */
    return st;
}

/* ---- encode ---- */

typedef struct {
    const tokenizer_t *t;
    bool specials;
    split_work_t *split;
    bpe_work_t bpe;
    utf8_t normal;
    ids_t *out;
} encode_t;

static status_t encode_piece(void *ctx, const uint8_t *piece, size_t n) {
    encode_t *e = ctx;
    return bpe_encode(&e->t->vocabulary, e->t->ignore_merges, &e->bpe, piece, n, e->out);
}

typedef status_t (*stretch_fn)(encode_t *e, const char *s, size_t n);

static status_t encode_plain(encode_t *e, const char *s, size_t n) { return split_run(&e->t->split, e->split, s, n, encode_piece, e); }

/* Added tokens become their ids; the stretches between go to `between`. */
static status_t encode_around(encode_t *e, const added_t *added, const char *s, size_t n, stretch_fn between) {
    added_walk_t w = {.text = s, .n = n, .specials = e->specials};
    const added_token_t *a;
    size_t from, begin;
    status_t st;
    while ((a = added_next(added, &w, &from, &begin))) {
        if (begin > from && (st = between(e, s + from, begin - from))) return st;
        if ((st = ids_push(e->out, a->id))) return st;
    }
    return from < n ? between(e, s + from, n - from) : ST_OK;
}

static status_t encode_raw(encode_t *e, const char *s, size_t n) {
    if (e->t->nfc && unicode_may_change(s, n)) {
        e->normal.n = 0;
        status_t st = unicode_nfc(s, n, &e->normal);
        if (st) return st;
        s = e->normal.s;
        n = e->normal.n;
    }
    return encode_around(e, &e->t->added_normalized, s, n, encode_plain);
}

status_t tokenizer_encode(const tokenizer_t *t, const char *text, size_t n, bool parse_special, ids_t *out) {
    encode_t e = {.t = t, .specials = parse_special, .out = out};
    char *clean = NULL;
    size_t clean_n = 0;
    int64_t bad = 0, had = out->n;
    status_t st = split_work_create(&e.split);
    if (!st && utf8_valid_bytes(text, n) < n) st = utf8_repair(text, n, &clean, &clean_n, &bad);
    if (!st) st = encode_around(&e, &t->added_raw, clean ? clean : text, clean ? clean_n : n, encode_raw);
    if (st) out->n = had;
    split_work_free(e.split);
    bpe_work_free(&e.bpe);
    mem_free(e.normal.s);
    mem_free(clean);
    return st;
}

/* ---- decode ---- */

static status_t bytes_append(utf8_t *b, const char *s, size_t n) {
    if (b->n + n > b->cap) {
        size_t cap = 2 * b->cap + n + 64;
        status_t st = mem_grow(&b->s, cap, 1, "decoded text");
        if (st) return st;
        b->cap = cap;
    }
    if (n) memcpy(b->s + b->n, s, n);
    b->n += n;
    return ST_OK;
}

/* All tokens' bytes in a row, then made valid: a character may be spread over tokens. */
status_t tokenizer_decode(const tokenizer_t *t, const int32_t *ids, int64_t n, bool show_special, char **text, size_t *bytes) {
    utf8_t raw = {0};
    status_t st = ST_OK;
    int64_t bad;
    *text = NULL;
    *bytes = 0;
    for (int64_t i = 0; i < n && !st; i++) {
        if (ids[i] < 0 || ids[i] >= t->vocabulary.n || (!show_special && tokenizer_is_special(t, ids[i]))) continue;
        piece_t p = t->vocabulary.piece[ids[i]];
        st = bytes_append(&raw, t->vocabulary.blob + p.at, p.n);
    }
    if (!st) st = utf8_repair(raw.s ? raw.s : "", raw.n, text, bytes, &bad);
    mem_free(raw.s);
    return st;
}

const char *tokenizer_piece(const tokenizer_t *t, int32_t id, size_t *n) {
    *n = 0;
    if (id < 0 || id >= t->vocabulary.n) return "";
    if (t->added_of[id]) return *n = t->added_of[id]->n, t->added_of[id]->text;
    return *n = t->vocabulary.piece[id].n, *n ? t->vocabulary.blob + t->vocabulary.piece[id].at : "";
}

/* ---- what it is ---- */

bool tokenizer_is_special(const tokenizer_t *t, int32_t id) {
    return id >= 0 && id < t->vocabulary.n && t->added_of[id] && t->added_of[id]->special;
}

int32_t tokenizer_find(const tokenizer_t *t, const char *token) {
    size_t n = strlen(token);
    const added_token_t *a = added_find(&t->added_raw, token, n);
    if (!a) a = added_find(&t->added_normalized, token, n);
    return a ? a->id : vocabulary_find(&t->vocabulary, token, n);
}

int tokenizer_eos(const tokenizer_t *t, const int32_t **ids) {
    *ids = t->eos;
    return t->n_eos;
}

int64_t tokenizer_n_vocab(const tokenizer_t *t) { return t->vocabulary.n; }
int32_t tokenizer_bos(const tokenizer_t *t) { return t->bos; }
bool tokenizer_adds_bos(const tokenizer_t *t) { return t->adds_bos; }
const char *tokenizer_family(const tokenizer_t *t) { return t->family; }
