/* Tables at most half full; both are sized before the first entry, so nothing moves while loading but the blob. */
#include "text/vocabulary.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "io/utf8.h"
#include "text/alphabet.h"

enum { SHOWN = 40 }; /* bytes of a token that a message quotes */

static int shown(size_t n) { return n > SHOWN ? SHOWN : (int)n; }

static uint64_t power_above(uint64_t n) {
    uint64_t p = 16;
    while (p < 2 * n) p *= 2;
    return p;
}

status_t vocabulary_reserve_merges(vocabulary_t *v, int64_t n) {
    if (n < 0 || n > VOCABULARY_MERGES_MAX)
        return status_fail(ST_INPUT, "%s: %lld merges; at most %d can be read: get the file again", v->name, (long long)n,
                           VOCABULARY_MERGES_MAX);
    uint64_t slots = power_above((uint64_t)n);
    mem_free(v->merge);
    v->merge = NULL;
    status_t st = mem_alloc(&v->merge, slots, sizeof *v->merge, "the table of merges");
    if (st) return st;
    v->merge_mask = slots - 1;
    for (uint64_t i = 0; i < slots; i++) v->merge[i] = (merge_slot_t){UINT64_MAX, 0, -1};
    return ST_OK;
}

status_t vocabulary_create(vocabulary_t *v, const vocabulary_t *like, int64_t n_id, int64_t n_merge, const char *name) {
    vocabulary_t made = {.name = name, .n = n_id, .unk = -1};
    if (like) made.textual = like->textual, made.shows_blank = like->shows_blank, made.shows_bytes = like->shows_bytes;
    *v = made;
    if (n_id < 1 || n_id > VOCABULARY_IDS_MAX)
        return status_fail(ST_INPUT, "%s: a vocabulary of %lld ids; from 1 to %d can be read: get the file again", name, (long long)n_id,
                           VOCABULARY_IDS_MAX);
    uint64_t tokens = power_above((uint64_t)n_id);
    v->token_mask = (uint32_t)(tokens - 1);
    status_t st;
    if ((st = mem_zalloc(&v->piece, (size_t)n_id, sizeof *v->piece, "the vocabulary"))) goto out;
    if ((st = mem_zalloc(&v->key, (size_t)n_id, sizeof *v->key, "the vocabulary"))) goto out;
    if ((st = mem_zalloc(&v->whole, (size_t)n_id, sizeof *v->whole, "the vocabulary"))) goto out;
    if ((st = mem_alloc(&v->token, tokens, sizeof *v->token, "the table of tokens"))) goto out;
    for (uint64_t i = 0; i < tokens; i++) v->token[i] = (token_slot_t){0, -1};
    memset(v->byte_id, 0xff, sizeof v->byte_id);
    memset(v->spare_id, 0xff, sizeof v->spare_id);
    st = vocabulary_reserve_merges(v, n_merge);
out:
    if (st) vocabulary_free(v);
    return st;
}

void vocabulary_free(vocabulary_t *v) {
    mem_free(v->key);
    mem_free(v->piece);
    mem_free(v->blob);
    mem_free(v->token);
    mem_free(v->merge);
    mem_free((void *)v->whole);
    memset(v, 0, sizeof *v);
}

static bool key_is(const vocabulary_t *v, int32_t id, const void *bytes, size_t n) {
    return v->key[id].n == n && !memcmp(v->blob + v->key[id].at, bytes, n);
}

/* The slot that holds these bytes, or the free one where they belong. */
static token_slot_t *slot_of(const vocabulary_t *v, const void *bytes, size_t n, uint32_t *tag) {
    uint64_t h = hash_bytes(bytes, n).lo;
    *tag = (uint32_t)(h >> 32);
    for (uint32_t i = (uint32_t)h & v->token_mask;; i = (i + 1) & v->token_mask) {
        token_slot_t *s = v->token + i;
        if (s->id < 0 || (s->tag == *tag && key_is(v, s->id, bytes, n))) return s;
    }
}

int32_t vocabulary_find(const vocabulary_t *v, const void *bytes, size_t n) {
    uint32_t tag;
    return n == 0 || n > v->longest ? -1 : slot_of(v, bytes, n, &tag)->id;
}

bool vocabulary_key(const vocabulary_t *v, const char *written, size_t n, char *out, size_t *out_n) {
    if (!v->textual && alphabet_decode(written, n, out, out_n)) return true;
    memcpy(out, written, *out_n = n);
    return v->textual;
}

static int digit(char c) { return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }

int vocabulary_byte_of(const char *s, size_t n) {
    if (n != 6 || memcmp(s, "<0x", 3) || s[5] != '>' || digit(s[4]) < 0) return -1;
    if (s[3] == '+') return digit(s[4]); /* HF reads the digits so */
    return digit(s[3]) < 0 ? -1 : digit(s[3]) * 16 + digit(s[4]);
}

/* What is shown for a key. Never longer than it. */
static size_t show(const vocabulary_t *v, const char *key, size_t n, char *out) {
    int byte = v->shows_bytes ? vocabulary_byte_of(key, n) : -1;
    size_t k = 0;
    if (byte >= 0) return out[0] = (char)byte, 1;
    for (size_t i = 0; i < n;) {
        bool blank = v->shows_blank && n - i >= VOCABULARY_BLANK_N && !memcmp(key + i, VOCABULARY_BLANK, VOCABULARY_BLANK_N);
        out[k++] = blank ? ' ' : key[i];
        i += blank ? VOCABULARY_BLANK_N : 1;
    }
    return k;
}

static status_t blob_reserve(vocabulary_t *v, size_t more) {
    if (v->blob_n + more > VOCABULARY_BYTES_MAX)
        return status_fail(ST_INPUT, "%s: the tokens are longer than %d bytes together; get the file again", v->name, VOCABULARY_BYTES_MAX);
    if (v->blob_n + more <= v->blob_cap) return ST_OK;
    size_t cap = 2 * v->blob_cap + more + 4096;
    status_t st = mem_grow(&v->blob, cap, 1, "the vocabulary's text");
    if (!st) v->blob_cap = cap;
    return st;
}

/* Of the key that ends the blob. */
static status_t index_token(vocabulary_t *v, int64_t id, const char *written, size_t n, size_t k) {
    uint32_t tag;
    token_slot_t *s = slot_of(v, v->blob + v->blob_n, k, &tag);
    if (s->id >= 0)
        return status_fail(ST_INPUT, "%s: token \"%.*s\" has two ids, %d and %lld; get the file again", v->name, shown(n), written, s->id,
                           (long long)id);
    *s = (token_slot_t){tag, (int32_t)id};
    if (k > v->longest) v->longest = k;
    return ST_OK;
}

status_t vocabulary_set(vocabulary_t *v, int64_t id, const char *written, size_t n, bool reachable) {
    if (id < 0 || id >= v->n)
        return status_fail(ST_INPUT, "%s: token \"%.*s\" has id %lld, outside 0 .. %lld; get the file again", v->name, shown(n), written,
                           (long long)id, (long long)v->n - 1);
    if (n == 0) return ST_OK; /* an id that stands for nothing */
    if (n > TOKEN_BYTES_MAX)
        return status_fail(ST_INPUT, "%s: token %lld is %zu bytes long, at most %d can be read; get the file again", v->name, (long long)id,
                           n, TOKEN_BYTES_MAX);
    if (v->key[id].n)
        return status_fail(ST_INPUT, "%s: id %lld is given to two tokens, the second is \"%.*s\"; get the file again", v->name,
                           (long long)id, shown(n), written);
    if (v->textual && utf8_valid_bytes(written, n) < n)
        return status_fail(ST_INPUT, "%s: token %lld is not UTF-8; get the file again", v->name, (long long)id);
    status_t st = blob_reserve(v, n);
    if (st) return st;
    char *key = v->blob + v->blob_n;
    size_t k = 0;
    /* HF's decoder shows byte-level tokens that are not of the alphabet as they are written; no text becomes one */
    bool of_text = vocabulary_key(v, written, n, key, &k);
    if (of_text && reachable && k && (st = index_token(v, id, written, n, k))) return st;
    v->piece[id] = v->key[id] = (piece_t){(uint32_t)v->blob_n, (uint32_t)k};
    v->blob_n += k;
    return v->textual ? vocabulary_show_as(v, (int32_t)id, written, n) : ST_OK;
}

status_t vocabulary_show_as(vocabulary_t *v, int32_t id, const char *written, size_t n) {
    status_t st = blob_reserve(v, n);
    size_t k = n;
    if (st) return st;
    if (v->textual)
        k = show(v, written, n, v->blob + v->blob_n);
    else
        vocabulary_key(v, written, n, v->blob + v->blob_n, &k);
    v->piece[id] = (piece_t){(uint32_t)v->blob_n, (uint32_t)k};
    v->blob_n += k;
    return ST_OK;
}

void vocabulary_index_bytes(vocabulary_t *v, bool fallback) {
    char name[8];
    for (int b = 0; b < 256; b++) {
        v->byte_id[b] = vocabulary_find(v, &(uint8_t){(uint8_t)b}, 1);
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        if (fallback) v->spare_id[b] = vocabulary_find(v, name, 6);
    }
}

void vocabulary_put_merge(vocabulary_t *v, int64_t rank, int32_t left, int32_t right, int32_t to) {
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right, h = pair * 0x9e3779b97f4a7c15u;
    uint64_t i = (h ^ h >> 32) & v->merge_mask;
    while (v->merge[i].pair != UINT64_MAX && v->merge[i].pair != pair) i = (i + 1) & v->merge_mask;
    v->merge[i] = (merge_slot_t){pair, (int32_t)rank, to};
}

/* Does the key have U+2581 after another character? Then it was made by a merge over such a place. */
static bool reaches_over(const char *s, size_t n) {
    bool blank = true;
    for (size_t i = 0; i < n;) {
        bool now = n - i >= VOCABULARY_BLANK_N && !memcmp(s + i, VOCABULARY_BLANK, VOCABULARY_BLANK_N);
        if (now && !blank) return true;
        blank = now;
        i += now ? VOCABULARY_BLANK_N : 1;
    }
    return false;
}

void vocabulary_find_cuts(vocabulary_t *v) {
    v->cuts = v->textual && vocabulary_find(v, VOCABULARY_BLANK, VOCABULARY_BLANK_N) >= 0; /* or a run of unk could reach over */
    for (uint64_t i = 0; i <= v->merge_mask && v->cuts; i++) {
        const merge_slot_t *m = v->merge + i;
        if (m->pair == UINT64_MAX) continue;
        v->cuts = !reaches_over(v->blob + v->key[m->id].at, v->key[m->id].n);
    }
}

status_t vocabulary_merge(vocabulary_t *v, int64_t rank, const char *left, size_t left_n, const char *right, size_t right_n) {
    char joined[2 * TOKEN_BYTES_MAX];
    size_t a = 0, b = 0;
    int32_t l = -1, r = -1, to = -1;
    if (left_n <= TOKEN_BYTES_MAX && right_n <= TOKEN_BYTES_MAX && vocabulary_key(v, left, left_n, joined, &a) &&
        vocabulary_key(v, right, right_n, joined + a, &b)) {
        l = vocabulary_find(v, joined, a);
        r = vocabulary_find(v, joined + a, b);
        to = vocabulary_find(v, joined, a + b);
    }
    if (l < 0 || r < 0 || to < 0)
        return status_fail(ST_INPUT, "%s: merge %lld (\"%.*s\" and \"%.*s\") needs a token that the vocabulary lacks; get the file again",
                           v->name, (long long)rank, shown(left_n), left, shown(right_n), right);
    vocabulary_put_merge(v, rank, l, r, to);
    return ST_OK;
}

status_t vocabulary_merge_line(vocabulary_t *v, int64_t rank, const char *line, size_t n) {
    const char *blank = n ? memchr(line, ' ', n) : NULL;
    if (!blank)
        return status_fail(ST_INPUT, "%s: merge %lld, \"%.*s\", is not two tokens with a blank between; get the file again", v->name,
                           (long long)rank, shown(n), line);
    size_t left = (size_t)(blank - line);
    return vocabulary_merge(v, rank, line, left, blank + 1, n - left - 1);
}
