/* Three ways to the same ids, from quick to general:
 *   1. A piece that is itself a token which the merges do produce: one look-up. Most words of a text are such; whether a token is, is found
 * out once.
 *   2. Short pieces: arrays, and a search for the lowest rank before each merge.
 *   3. Long pieces (a base64 blob, a megabyte of one letter): a linked list and a heap of candidates, O(n log n). Entries are not taken out
 * when their pair is gone; they are checked when they come up.
 */
#include "text/bpe.h"

#include <string.h>

#include "base/mem.h"

enum { SHORT = 64, BIG = 1 << 20 }; /* symbols; buffers grow with some room up to BIG, then without */

void bpe_work_free(bpe_work_t *w) {
    mem_free(w->ids);
    mem_free(w->symbol);
    mem_free(w->heap);
    memset(w, 0, sizeof *w);
}

/* The ids of single bytes; those that the vocabulary lacks are dropped, so that their neighbours meet, or become unk. Returns how many. */
static size_t bytes_to_ids(const vocabulary_t *v, const uint8_t *p, size_t n, int32_t *ids) {
    size_t k = 0;
    bool lacking = false;
    for (size_t i = 0; i < n; i++) {
        int32_t id = v->byte_id[p[i]];
        if (id >= 0)
            ids[k++] = id;
        else if (v->unk >= 0 && !(lacking && v->fuse_unk))
            ids[k++] = v->unk;
        lacking = id < 0;
    }
    return k;
}

/* The ids of the bytes of a character that is no token; false when one of them has none. */
static bool spare_bytes(const vocabulary_t *v, const uint8_t *p, size_t n, int32_t *ids, size_t *k) {
    for (size_t i = 0; i < n; i++)
        if (v->spare_id[p[i]] < 0) return false;
    for (size_t i = 0; i < n; i++) ids[(*k)++] = v->spare_id[p[i]];
    return true;
}

/* The ids of single characters, else of their bytes, else unk. As in HF, an unk goes in only before the next character that is a token:
 * characters written as bytes go before it, and do not part a run of unk. */
static size_t chars_to_ids(const vocabulary_t *v, const uint8_t *p, size_t n, int32_t *ids) {
    size_t k = 0, len;
    bool waiting = false;
    for (size_t i = 0; i < n; i += len) {
        len = p[i] < 0x80 ? 1 : p[i] < 0xe0 ? 2 : p[i] < 0xf0 ? 3 : 4;
        int32_t id = len == 1 ? v->byte_id[p[i]] : vocabulary_find(v, p + i, len);
        if (id >= 0) {
            if (waiting) ids[k++] = v->unk;
            waiting = false;
            ids[k++] = id;
        } else if (!spare_bytes(v, p + i, len, ids, &k) && v->unk >= 0) {
            if (waiting && !v->fuse_unk) ids[k++] = v->unk;
            waiting = true;
        }
    }
    if (waiting) ids[k++] = v->unk;
    return k;
}

static size_t merge_short(const vocabulary_t *v, int32_t *ids, size_t n) {
    const merge_slot_t *with[SHORT]; /* what symbol i and its right neighbour become */
    for (size_t i = 0; i + 1 < n; i++) with[i] = vocabulary_pair(v, ids[i], ids[i + 1]);
    for (;;) {
        size_t best = SIZE_MAX;
        int32_t rank = INT32_MAX;
        for (size_t i = 0; i + 1 < n; i++)
            if (with[i] && with[i]->rank < rank) rank = with[best = i]->rank;
        if (best == SIZE_MAX) return n;
        ids[best] = with[best]->id;
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        memmove(with + best, with + best + 1, (n - best - 1) * sizeof *with);
        if (best + 1 < n) with[best] = vocabulary_pair(v, ids[best], ids[best + 1]);
        if (best > 0) with[best - 1] = vocabulary_pair(v, ids[best - 1], ids[best]);
    }
}

static void heap_sink(candidate_t *h, size_t n, size_t i) {
    candidate_t x = h[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && h[child + 1].order < h[child].order) child++;
        if (h[child].order >= x.order) break;
        h[i] = h[child];
    }
    h[i] = x;
}

static candidate_t heap_pop(bpe_work_t *w) {
    candidate_t top = w->heap[0];
    w->heap[0] = w->heap[--w->heap_n];
    heap_sink(w->heap, w->heap_n, 0);
    return top;
}

static void heap_push(bpe_work_t *w, candidate_t x) { /* there is room: each merge takes one out and puts at most two in */
    size_t i = w->heap_n++;
    for (; i && x.order < w->heap[(i - 1) / 2].order; i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = x;
}

static bool candidate_of(const vocabulary_t *v, const symbol_t *s, int32_t left, candidate_t *out) {
    const merge_slot_t *m = vocabulary_pair(v, s[left].id, s[s[left].next].id);
    if (m) *out = (candidate_t){(uint64_t)m->rank << 32 | (uint32_t)left, m->id};
    return m;
}

static status_t reserve(void *pp, size_t *cap, size_t want, size_t size) {
    if (want <= *cap) return ST_OK;
    size_t to = want < BIG ? want + want / 2 : want;
    status_t st = mem_grow(pp, to, size, "merging a long piece of text");
    if (!st) *cap = to;
    return st;
}

static status_t merge_long(const vocabulary_t *v, bpe_work_t *w, size_t *count) {
    size_t n = *count;
    if (n > INT32_MAX / 2)
        return status_fail(ST_INPUT, "a run of %zu bytes without a break in the text, at most %d can be merged; cut the document", n,
                           INT32_MAX / 2);
    status_t st = reserve(&w->symbol, &w->symbol_cap, n, sizeof *w->symbol);
    if (!st) st = reserve(&w->heap, &w->heap_cap, 2 * n, sizeof *w->heap);
    if (st) return st;
    symbol_t *s = w->symbol;
    for (size_t i = 0; i < n; i++) s[i] = (symbol_t){w->ids[i], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
    w->heap_n = 0;
    for (size_t i = 0; i + 1 < n; i++) w->heap_n += candidate_of(v, s, (int32_t)i, w->heap + w->heap_n);
    for (size_t i = w->heap_n / 2; i-- > 0;) heap_sink(w->heap, w->heap_n, i);
    while (w->heap_n) {
        candidate_t top = heap_pop(w), now;
        int32_t left = (int32_t)(uint32_t)top.order;
        if (s[left].id < 0 || s[left].next < 0 || !candidate_of(v, s, left, &now) || now.id != top.id) continue;
        int32_t right = s[left].next, after = s[right].next;
        s[left].id = top.id;
        s[left].next = after;
        s[right].id = -1;
        if (after >= 0) s[after].prev = left;
        if (after >= 0 && candidate_of(v, s, left, &now)) heap_push(w, now);
        if (s[left].prev >= 0 && candidate_of(v, s, s[left].prev, &now)) heap_push(w, now);
    }
    size_t k = 0;
    for (int32_t i = 0; i >= 0; i = s[i].next) w->ids[k++] = s[i].id;
    *count = k;
    return ST_OK;
}

/* Leaves the piece's ids in w->ids. */
static status_t merge(const vocabulary_t *v, bpe_work_t *w, const uint8_t *piece, size_t n, size_t *count) {
    status_t st = reserve(&w->ids, &w->ids_cap, n, sizeof *w->ids);
    if (st) return st;
    *count = v->textual ? chars_to_ids(v, piece, n, w->ids) : bytes_to_ids(v, piece, n, w->ids);
    if (*count > SHORT) return merge_long(v, w, count);
    *count = merge_short(v, w->ids, *count);
    return ST_OK;
}

status_t bpe_encode(const vocabulary_t *v, bool ignore_merges, bpe_work_t *w, const uint8_t *piece, size_t n, ids_t *out) {
    int32_t id = vocabulary_find(v, piece, n);
    uint8_t whole = id < 0 ? 2 : ignore_merges ? 1 : atomic_load_explicit(v->whole + id, memory_order_relaxed);
    if (whole == 1) return ids_push(out, id);
    size_t count;
    status_t st = merge(v, w, piece, n, &count);
    if (st) return st;
    if (whole == 0) atomic_store_explicit(v->whole + id, count == 1 && w->ids[0] == id ? 1 : 2, memory_order_relaxed);
    for (size_t i = 0; i < count && !st; i++) st = ids_push(out, w->ids[i]);
    return st;
}
