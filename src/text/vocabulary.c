/* Tables at most half full; both are sized before the first entry, so nothing moves while loading but the blob. */
#include "text/vocabulary.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "text/alphabet.h"

enum { SHOWN = 40 }; /* bytes of a token that a message quotes */

static int shown(size_t n) { return n > SHOWN ? SHOWN : (int)n; }

static uint64_t power_above(uint64_t n) {
    uint64_t p = 16;
    while (p < 2 * n) p *= 2;
    return p;
}

status_t vocabulary_create(vocabulary_t *v, int64_t n_id, int64_t n_merge, const char *name) {
    memset(v, 0, sizeof *v);
    if (n_id < 1 || n_id > VOCABULARY_IDS_MAX)
        return status_fail(ST_INPUT, "%s: a vocabulary of %lld ids; from 1 to %d can be read: get the file again", name, (long long)n_id,
                           VOCABULARY_IDS_MAX);
    if (n_merge < 0 || n_merge > VOCABULARY_MERGES_MAX)
        return status_fail(ST_INPUT, "%s: %lld merges; at most %d can be read: get the file again", name, (long long)n_merge,
                           VOCABULARY_MERGES_MAX);
    v->name = name;
    v->n = n_id;
    v->unk = -1;
    uint64_t tokens = power_above((uint64_t)n_id), merges = power_above((uint64_t)n_merge);
    v->token_mask = (uint32_t)(tokens - 1);
    v->merge_mask = merges - 1;
    status_t st;
    if ((st = mem_zalloc(&v->piece, (size_t)n_id, sizeof *v->piece, "the vocabulary"))) goto out;
    if ((st = mem_zalloc(&v->whole, (size_t)n_id, sizeof *v->whole, "the vocabulary"))) goto out;
    if ((st = mem_alloc(&v->token, tokens, sizeof *v->token, "the table of tokens"))) goto out;
    if ((st = mem_alloc(&v->merge, merges, sizeof *v->merge, "the table of merges"))) goto out;
    for (uint64_t i = 0; i < tokens; i++) v->token[i] = (token_slot_t){0, -1};
    for (uint64_t i = 0; i < merges; i++) v->merge[i] = (merge_slot_t){UINT64_MAX, 0, -1};
    memset(v->byte_id, 0xff, sizeof v->byte_id);
out:
    if (st) vocabulary_free(v);
    return st;
}

void vocabulary_free(vocabulary_t *v) {
    mem_free(v->piece);
    mem_free(v->blob);
    mem_free(v->token);
    mem_free(v->merge);
    mem_free((void *)v->whole);
    memset(v, 0, sizeof *v);
}

static bool piece_is(const vocabulary_t *v, int32_t id, const void *bytes, size_t n) {
    return v->piece[id].n == n && !memcmp(v->blob + v->piece[id].at, bytes, n);
}

/* The slot that holds these bytes, or the free one where they belong. */
static token_slot_t *slot_of(const vocabulary_t *v, const void *bytes, size_t n, uint32_t *tag) {
    uint64_t h = hash_bytes(bytes, n).lo;
    *tag = (uint32_t)(h >> 32);
    for (uint32_t i = (uint32_t)h & v->token_mask;; i = (i + 1) & v->token_mask) {
        token_slot_t *s = v->token + i;
        if (s->id < 0 || (s->tag == *tag && piece_is(v, s->id, bytes, n))) return s;
    }
}

int32_t vocabulary_find(const vocabulary_t *v, const void *bytes, size_t n) {
    uint32_t tag;
    return n == 0 || n > v->longest ? -1 : slot_of(v, bytes, n, &tag)->id;
}

status_t vocabulary_set(vocabulary_t *v, int64_t id, const char *written, size_t n, bool reachable) {
    if (id < 0 || id >= v->n)
        return status_fail(ST_INPUT, "%s: token \"%.*s\" has id %lld, outside 0 .. %lld; get the file again", v->name, shown(n), written,
                           (long long)id, (long long)v->n - 1);
    if (n == 0) return ST_OK; /* an id that stands for nothing */
    if (n > TOKEN_BYTES_MAX)
        return status_fail(ST_INPUT, "%s: token %lld is %zu bytes long, at most %d can be read; get the file again", v->name, (long long)id,
                           n, TOKEN_BYTES_MAX);
    if (v->piece[id].n)
        return status_fail(ST_INPUT, "%s: id %lld is given to two tokens, the second is \"%.*s\"; get the file again", v->name,
                           (long long)id, shown(n), written);
    if (v->blob_n + n > VOCABULARY_BYTES_MAX)
        return status_fail(ST_INPUT, "%s: the tokens are longer than %d bytes together; get the file again", v->name, VOCABULARY_BYTES_MAX);
    if (v->blob_n + n > v->blob_cap) {
        size_t cap = 2 * v->blob_cap + n + 4096;
        status_t st = mem_grow(&v->blob, cap, 1, "the vocabulary's text");
        if (st) return st;
        v->blob_cap = cap;
    }
    char *bytes = v->blob + v->blob_n;
    size_t k = 0;
    bool of_alphabet = alphabet_decode(written, n, bytes, &k);
    if (!of_alphabet) memcpy(bytes, written, k = n); /* HF's decoder shows such tokens as they are written; no text becomes one */
    if (of_alphabet && reachable && k) {
        uint32_t tag;
        token_slot_t *s = slot_of(v, bytes, k, &tag);
        if (s->id >= 0)
            return status_fail(ST_INPUT, "%s: token \"%.*s\" has two ids, %d and %lld; get the file again", v->name, shown(n), written,
                               s->id, (long long)id);
        *s = (token_slot_t){tag, (int32_t)id};
        if (k > v->longest) v->longest = k;
    }
    v->piece[id] = (piece_t){(uint32_t)v->blob_n, (uint32_t)k};
    v->blob_n += k;
    return ST_OK;
}

void vocabulary_index_bytes(vocabulary_t *v) {
    for (int b = 0; b < 256; b++) v->byte_id[b] = vocabulary_find(v, &(uint8_t){(uint8_t)b}, 1);
}

status_t vocabulary_merge(vocabulary_t *v, int64_t rank, const char *left, size_t left_n, const char *right, size_t right_n) {
    char joined[2 * TOKEN_BYTES_MAX];
    size_t a = 0, b = 0;
    int32_t l = -1, r = -1, to = -1;
    if (left_n <= TOKEN_BYTES_MAX && right_n <= TOKEN_BYTES_MAX && alphabet_decode(left, left_n, joined, &a) &&
        alphabet_decode(right, right_n, joined + a, &b)) {
        l = vocabulary_find(v, joined, a);
        r = vocabulary_find(v, joined + a, b);
        to = vocabulary_find(v, joined, a + b);
    }
    if (l < 0 || r < 0 || to < 0)
        return status_fail(ST_INPUT, "%s: merge %lld (\"%.*s\" and \"%.*s\") needs a token that the vocabulary lacks; get the file again",
                           v->name, (long long)rank, shown(left_n), left, shown(right_n), right);
    uint64_t pair = (uint64_t)(uint32_t)l << 32 | (uint32_t)r, h = pair * 0x9e3779b97f4a7c15u;
    uint64_t i = (h ^ h >> 32) & v->merge_mask;
    while (v->merge[i].pair != UINT64_MAX && v->merge[i].pair != pair) i = (i + 1) & v->merge_mask;
    v->merge[i] = (merge_slot_t){pair, (int32_t)rank, to}; /* a pair given twice has its last rank, as in HF */
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
