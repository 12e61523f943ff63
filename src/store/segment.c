/* Threads take pieces in turns: each brings its piece into the form that is stored, writes it, sums its blocks for the hash, and hands the
 * sums on in order (base/hash.h).
 *
 *     thread 0   [ piece 0: write, sum ] chain   [ piece 2 .. ]
 *     thread 1   [ piece 1: write, sum ]       chain  [ piece 3 .. ]
 */
#include "store/segment.h"

#include <string.h>

#include "base/mem.h"

enum { PIECE_BYTES = 256 << 10, PIECE_BLOCKS = PIECE_BYTES / HASH_BLOCK };
_Static_assert((int)STORE_ALIGN == (int)HASH_STRIPE, "parts of a segment begin with a stripe");

/* ---- what a segment is made of ------------------------------------------------------------------------------------ */

/* Tokens, list of kept rows, K or V. */
typedef struct {
    const void *data;
    int64_t at, bytes, padded; /* from its start; with padding */
    bool kv;
} part_t;
enum { N_PART = 4 };

static void parts_find(const segment_out_t *o, part_t part[N_PART]) {
    const store_item_t *it = o->item;
    int64_t start = o->at.tokens_offset, word = sizeof(int32_t), kv = o->size.kv, padded = kv + o->size.pad;
    part[0] = (part_t){.data = it->tokens, .bytes = it->n_token * word, .padded = o->size.token_rows * word};
    part[1] = (part_t){.data = it->kept, .at = o->at.kept_offset - start, .bytes = it->n_kept * word, .padded = o->size.kept_rows * word};
    part[2] = (part_t){.data = it->k, .at = o->at.k_offset - start, .bytes = kv, .padded = padded, .kv = true};
    part[3] = (part_t){.data = it->v, .at = o->at.v_offset - start, .bytes = kv, .padded = padded, .kv = true};
}

/* n bytes of K or V as they are stored, from byte `at`: where they lie, or converted into the buffer. */
static const char *stored(const segment_out_t *o, const void *data, int64_t at, int64_t n, char *buffer) {
    size_t to = dtype_bytes(o->type), first = (size_t)at / to;
    const char *from = (const char *)data + first * dtype_bytes(o->item->type);
    if (o->type == o->item->type) return from;
    dtype_convert(o->type, buffer, o->item->type, from, (size_t)n / to);
    return buffer;
}

/* The same of any part, with its padding: -1 behind numbers, zeros behind K/V. */
static const char *part_bytes(const segment_out_t *o, const part_t *p, int64_t at, int64_t n, char *buffer) {
    int64_t there = i64_max(0, i64_min(n, p->bytes - at));
    const char *from = p->kv ? stored(o, p->data, at, there, buffer) : (const char *)p->data + at;
    if (there == n) return from;
    if (there && from != buffer) memcpy(buffer, from, (size_t)there);
    memset(buffer + there, p->kv ? 0 : 0xff, (size_t)(n - there));
    return buffer;
}

/* ---- all of it ---------------------------------------------------------------------------------------------------- */

/* What is known of the end: all of a segment too short for sums, and the last stripe. */
typedef struct {
    char whole[HASH_SHORT], last[HASH_STRIPE];
} ends_t;

/* Bytes from .. upto-1 of the segment, a piece of it. */
static status_t piece_put(const segment_out_t *o, bool kv_is_there, int64_t from, int64_t upto, char *buffer, hash_sum_t *sums,
                          ends_t *ends) {
    part_t part[N_PART];
    status_t st = ST_OK;
    parts_find(o, part);
    for (int i = 0; i < N_PART && !st; i++) {
        int64_t a = i64_max(from, part[i].at), n = i64_min(upto, part[i].at + part[i].padded) - a;
        if (n <= 0) continue;
        const char *bytes = part_bytes(o, &part[i], a - part[i].at, n, buffer);
        bool last = a + n == o->size.total;
        hash_sum(sums, (size_t)(a - from), bytes, (size_t)(last ? n - HASH_STRIPE : n));
        if (last) memcpy(ends->last, bytes + n - HASH_STRIPE, HASH_STRIPE);
        if (o->size.total <= HASH_SHORT) memcpy(ends->whole + a, bytes, (size_t)n);
        if (!part[i].kv || !kv_is_there) st = disk_write_at(o->fd, o->path, o->at.tokens_offset + a, bytes, (size_t)n);
    }
    return st;
}

status_t segment_write(const segment_out_t *o, bool kv_is_there, hash_t *checksum) {
    int64_t total = o->size.total, n_piece = i64_ceil_div(total, PIECE_BYTES);
    int threads = (int)i64_min(o->n_thread, n_piece);
    status_first_t failed = {0};
    hash_chain_t chain;
    hash_chain_begin(&chain);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        char *buffer = NULL;
        ends_t ends = {{0}, {0}};
        status_t st = mem_alloc(&buffer, 1, PIECE_BYTES, "the store's write buffer");
#pragma omp for ordered schedule(static, 1)
        for (int64_t i = 0; i < n_piece; i++) {
            hash_sum_t sums[PIECE_BLOCKS] = {0};
            int64_t from = i * PIECE_BYTES, n = i64_min(PIECE_BYTES, total - from), blocks = (n - 1) / HASH_BLOCK;
            if (!st) st = piece_put(o, kv_is_there, from, from + n, buffer, sums, &ends);
#pragma omp ordered
            {
                hash_chain_add(&chain, sums, (size_t)(i + 1 < n_piece ? PIECE_BLOCKS : blocks));
                if (i + 1 == n_piece)
                    *checksum = total > HASH_SHORT ? hash_chain_end(&chain, &sums[blocks], ends.last, (size_t)total)
                                                   : hash_bytes(ends.whole, (size_t)total);
            }
        }
        status_first(&failed, st);
        mem_free(buffer);
    }
    return status_first_tell(&failed);
}

/* ---- parts -------------------------------------------------------------------------------------------------------- */

/* Bytes from .. from+n-1 of K or V. */
static status_t stretch_put(const segment_out_t *o, const void *data, int64_t offset, int64_t from, int64_t n, char *buffer) {
    status_t st = ST_OK;
    for (int64_t done = 0, now; done < n && !st; done += now) {
        now = i64_min(n - done, PIECE_BYTES);
        const char *bytes = stored(o, data, from + done, now, buffer);
        st = disk_write_at(o->fd, o->path, offset + from + done, bytes, (size_t)now);
    }
    return st;
}

status_t segment_part(const segment_out_t *o, store_part_t p) {
    int64_t row = o->d_head * (int64_t)dtype_bytes(o->type), n = p.n_layer * o->n_head;
    int threads = (int)i64_max(1, i64_min(o->n_thread, 2 * n * p.n_row * row / PIECE_BYTES));
    status_first_t failed = {0};
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        char *buffer = NULL;
        status_t st = mem_alloc(&buffer, 1, PIECE_BYTES, "the store's write buffer");
#pragma omp for schedule(static)
        for (int64_t i = 0; i < 2 * n; i++) {
            int64_t from = ((p.layer * o->n_head + i % n) * o->item->n_row + p.row) * row;
            bool k = i < n;
            if (!st) st = stretch_put(o, k ? o->item->k : o->item->v, k ? o->at.k_offset : o->at.v_offset, from, p.n_row * row, buffer);
        }
        status_first(&failed, st);
        mem_free(buffer);
    }
    return status_first_tell(&failed);
}
