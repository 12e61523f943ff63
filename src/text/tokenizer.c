/* Encoding, in the order the text goes:
 *
 *     bytes -> valid UTF-8 -> cut at added tokens -> normalised as the family wants it -> cut at normalised added tokens -> pieces -> ids
 *
 * Pieces of byte-level families are cut out by regular expressions (split.h). SentencePiece's families have a whole stretch as one piece;
 * it is cut before each run of U+2581 when no merge reaches over such a place, which gives the same ids and is quicker.
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
    status_t st = mem_room(&v->ids, v->n, &v->cap, sizeof *v->ids, "token ids");
    if (st) return st;
    v->ids[v->n++] = id;
    return ST_OK;
}

status_t ids_check(const ids_t *v, int64_t from, int64_t n_row, const char *what) {
    for (int64_t i = from; i < v->n; i++)
        if (v->ids[i] < 0 || v->ids[i] >= n_row)
            return status_fail(ST_INPUT, "%s: the tokenizer gave id %d, but the model has %lld rows; the tokenizer is another model's",
                               what, v->ids[i], (long long)n_row);
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
    const char *text; /* the whole */
    bool specials;
    const own_words_t *own;
    int n_own;
    split_work_t *split;
    bpe_work_t bpe;
    normal_work_t normal;
    utf8_t spaced;
    ids_t *out;
} encode_t;

static status_t encode_piece(void *ctx, const uint8_t *piece, size_t n) {
    encode_t *e = ctx;
    return bpe_encode(&e->t->vocabulary, e->t->ignore_merges, &e->bpe, piece, n, e->out);
}

static const char *blank_find(const char *s, const char *end) {
    return s < end ? memmem(s, (size_t)(end - s), VOCABULARY_BLANK, VOCABULARY_BLANK_N) : NULL;
}

/* each: every U+2581 begins a piece; else every run of them. */
static status_t encode_between_blanks(encode_t *e, const char *s, size_t n, bool each) {
    const char *end = s + n, *from = s, *blank = s;
    status_t st;
    while ((blank = blank_find(blank, end))) {
        if (blank > from) {
            if ((st = encode_piece(e, (const uint8_t *)from, (size_t)(blank - from)))) return st;
            from = blank;
        }
        blank += VOCABULARY_BLANK_N;
        while (!each && end - blank >= VOCABULARY_BLANK_N && !memcmp(blank, VOCABULARY_BLANK, VOCABULARY_BLANK_N))
            blank += VOCABULARY_BLANK_N;
    }
    return from < end ? encode_piece(e, (const uint8_t *)from, (size_t)(end - from)) : ST_OK;
}

/* Blanks become U+2581, with one before when the stretch wants it; s and n become the result. */
static status_t encode_spaced(encode_t *e, const char **s, size_t *n, bool first) {
    const tokenizer_t *t = e->t;
    size_t blanks = 0, k = 0, want;
    for (size_t i = 0; i < *n; i++) blanks += (*s)[i] == ' ';
    if (!size_mul(blanks + 1, VOCABULARY_BLANK_N - 1, &want) || !size_add(want, *n + 1, &want))
        return status_fail(ST_INPUT, "a text of %zu bytes is too long; cut the document", *n);
    if (want > e->spaced.cap) {
        status_t st = mem_grow(&e->spaced.s, want, 1, "text without blanks");
        if (st) return st;
        e->spaced.cap = want;
    }
    char *to = e->spaced.s;
    bool stands = **s == ' ' || (*n >= VOCABULARY_BLANK_N && !memcmp(*s, VOCABULARY_BLANK, VOCABULARY_BLANK_N));
    bool prefix = t->metaspace.prefix == PREFIX_ALWAYS || (t->metaspace.prefix == PREFIX_FIRST && first);
    if (prefix && !stands) memcpy(to, VOCABULARY_BLANK, VOCABULARY_BLANK_N), k += VOCABULARY_BLANK_N;
    for (size_t i = 0; i < *n; i++) {
        if ((*s)[i] == ' ')
            memcpy(to + k, VOCABULARY_BLANK, VOCABULARY_BLANK_N), k += VOCABULARY_BLANK_N;
        else
            to[k++] = (*s)[i];
    }
    *s = to;
    *n = k;
    return ST_OK;
}

typedef status_t (*stretch_fn)(encode_t *e, const char *s, size_t n, bool first);

static status_t encode_plain(encode_t *e, const char *s, size_t n, bool first) {
    const tokenizer_t *t = e->t;
    if (!t->vocabulary.textual) return split_run(&t->split, e->split, s, n, encode_piece, e);
    status_t st = t->metaspace.on ? encode_spaced(e, &s, &n, first) : ST_OK;
    if (st) return st;
    if ((t->metaspace.on && t->metaspace.split) || t->vocabulary.cuts)
        return encode_between_blanks(e, s, n, t->metaspace.on && t->metaspace.split);
    return encode_piece(e, (const uint8_t *)s, n);
}

/* Added tokens become their ids; the stretches between go to `between`. */
static status_t encode_around(encode_t *e, const added_t *added, added_walk_t w, bool first, stretch_fn between) {
    const added_token_t *a;
    size_t from, begin;
    status_t st;
    while ((a = added_next(added, &w, &from, &begin))) {
        if (begin > from && (st = between(e, w.text + from, begin - from, first && from == 0))) return st;
        if ((st = ids_push(e->out, a->id))) return st;
    }
    return from < w.n ? between(e, w.text + from, w.n - from, first && from == 0) : ST_OK;
}

/* Where people's own words of the stretch are once it is normalised: as far on as the text before is then long. */
static status_t own_normalised(encode_t *e, const char *s, size_t n, own_words_t own[OWN_WORDS_MAX], int *n_own) {
    size_t begin = (size_t)(s - e->text), edge[2];
    *n_own = 0;
    for (int i = 0; i < e->n_own; i++) {
        if (begin >= e->own[i].end || begin + n <= e->own[i].begin) continue;
        edge[0] = e->own[i].begin > begin ? e->own[i].begin - begin : 0;
        edge[1] = e->own[i].end - begin < n ? e->own[i].end - begin : n;
        for (int k = 0; k < 2; k++) {
            const char *head = s;
            status_t st = normal_run(&e->t->normal, &e->normal, &head, edge + k);
            if (st) return st;
        }
        own[(*n_own)++] = (own_words_t){edge[0], edge[1]};
    }
    return ST_OK;
}

static status_t encode_raw(encode_t *e, const char *s, size_t n, bool first) {
    own_words_t own[OWN_WORDS_MAX];
    added_walk_t w = {.specials = e->specials, .own = own};
    status_t st = e->t->added_normalized.n ? own_normalised(e, s, n, own, &w.n_own) : ST_OK;
    if (!st) st = normal_run(&e->t->normal, &e->normal, &s, &n);
    w.text = s;
    w.n = n;
    return st ? st : encode_around(e, &e->t->added_normalized, w, first, encode_plain);
}

static status_t encode_valid(encode_t *e, const char *s, size_t n) {
    int64_t had = e->out->n;
    added_walk_t w = {.text = s, .n = n, .specials = e->specials, .own = e->own, .n_own = e->n_own};
    e->text = s;
    status_t st = split_work_create(&e->split);
    if (!st) st = encode_around(e, &e->t->added_raw, w, true, encode_raw);
    if (st) e->out->n = had;
    split_work_free(e->split);
    bpe_work_free(&e->bpe);
    normal_work_free(&e->normal);
    mem_free(e->spaced.s);
    return st;
}

status_t tokenizer_encode(const tokenizer_t *t, const char *text, size_t n, bool parse_special, ids_t *out) {
    encode_t e = {.t = t, .specials = parse_special, .out = out};
    char *clean = NULL;
    size_t clean_n = 0;
    int64_t bad = 0;
    status_t st = utf8_valid_bytes(text, n) < n ? utf8_repair(text, n, &clean, &clean_n, &bad) : ST_OK;
    if (!st) st = encode_valid(&e, clean ? clean : text, clean ? clean_n : n);
    mem_free(clean);
    return st;
}

status_t tokenizer_encode_around(const tokenizer_t *t, const char *text, size_t n, const own_words_t *own, int n_own, ids_t *out) {
    encode_t e = {.t = t, .specials = true, .own = own, .n_own = n_own, .out = out};
    return encode_valid(&e, text, n);
}

const char *tokenizer_piece(const tokenizer_t *t, int32_t id, size_t *n) {
    *n = 0;
    if (id < 0 || id >= t->vocabulary.n) return "";
    const added_token_t *a = t->added_of[id];
    if (a && !(t->vocabulary.textual && a->normalized)) return *n = a->n, a->text;
    piece_t p = a ? t->vocabulary.key[id] : t->vocabulary.piece[id];
    return *n = p.n, p.n ? t->vocabulary.blob + p.at : "";
}

/* ---- what it is ---- */

bool tokenizer_is_special(const tokenizer_t *t, int32_t id) {
    return id >= 0 && id < t->vocabulary.n && t->added_of[id] && t->added_of[id]->special;
}

/* Textual: by its bytes with U+2581 for blanks, and a single byte as "<0xHH>". */
static int32_t find_shown(const vocabulary_t *v, const char *s, size_t n) {
    char key[ADDED_BYTES_MAX] = "";
    size_t k = 0;
    for (size_t i = 0; i < n && k + VOCABULARY_BLANK_N <= sizeof key; i++) {
        if (s[i] == ' ')
            memcpy(key + k, VOCABULARY_BLANK, VOCABULARY_BLANK_N), k += VOCABULARY_BLANK_N;
        else
            key[k++] = s[i];
    }
    int32_t id = vocabulary_find(v, key, k);
    return id < 0 && n == 1 ? v->spare_id[(uint8_t)*s] : id;
}

int32_t tokenizer_find(const tokenizer_t *t, const char *token) {
    const vocabulary_t *v = &t->vocabulary;
    size_t n = strlen(token);
    const added_token_t *a = added_find(&t->added_raw, token, n);
    if (a) return a->id;
    for (int64_t i = 0; i < t->added_normalized.n; i++) { /* they are kept in their normalised form */
        piece_t k = v->key[t->added_normalized.token[i].id];
        if (k.n == n && !memcmp(v->blob + k.at, token, n)) return t->added_normalized.token[i].id;
    }
    int32_t id = vocabulary_find(v, token, n);
    return id < 0 && v->textual ? find_shown(v, token, n) : id;
}

int tokenizer_eos(const tokenizer_t *t, const int32_t **ids) {
    *ids = t->eos;
    return t->n_eos;
}

int64_t tokenizer_n_vocab(const tokenizer_t *t) { return t->vocabulary.n; }
int32_t tokenizer_bos(const tokenizer_t *t) { return t->bos; }
bool tokenizer_adds_bos(const tokenizer_t *t) { return t->adds_bos; }
const char *tokenizer_family(const tokenizer_t *t) { return t->family; }
