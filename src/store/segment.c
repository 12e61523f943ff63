/* Threads take pieces as they come: each brings its piece into the form that is stored, writes it and sums its blocks for the hash; whoever
 * has the next sums in order hands them to the chain (base/hash.h).
 *
 *     thread 0   [ piece 0: write, sum ] chain 0, 1  [ piece 2 .. ]
 *     thread 1   [ piece 1: write, sum ][ piece 3 .. ]
 */
#include "store/segment.h"

#include <pthread.h>
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

/* K or V of one head of a part: the n-th of them. */
static status_t head_put(const segment_out_t *o, store_part_t p, int64_t n, char *buffer) {
    int64_t row = o->d_head * (int64_t)dtype_bytes(o->type), half = p.n_layer * o->n_head;
    int64_t from = ((p.layer * o->n_head + n % half) * o->item->n_row + p.row) * row;
    bool k = n < half;
    return stretch_put(o, k ? o->item->k : o->item->v, k ? o->at.k_offset : o->at.v_offset, from, p.n_row * row, buffer);
}

status_t segment_part(const segment_out_t *o, store_part_t p) {
    int64_t n = 2 * p.n_layer * o->n_head, bytes = n * p.n_row * o->d_head * (int64_t)dtype_bytes(o->type);
    int threads = (int)i64_max(1, i64_min(o->n_thread, bytes / PIECE_BYTES));
    status_first_t failed = {0};
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        char *buffer = NULL;
        status_t st = mem_alloc(&buffer, 1, PIECE_BYTES, "the store's write buffer");
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++)
            if (!st) st = head_put(o, p, i, buffer);
        status_first(&failed, st);
        mem_free(buffer);
    }
    return status_first_tell(&failed);
}

/* ---- all of it ---------------------------------------------------------------------------------------------------- */

/* Sums of pieces on their way to the chain, which takes them in order. */
enum { SLOTS_PER_THREAD = 8 };
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int64_t n_piece, taken, chained;  /* by threads; by the chain */
    int64_t n_slot;                   /* of pieces under way: piece i's is i % n_slot */
    hash_sum_t (*sums)[PIECE_BLOCKS]; /* [n_slot] */
    bool *done;                       /* [n_slot] */
    hash_chain_t chain;
    char whole[HASH_SHORT], last[HASH_STRIPE]; /* all of a segment too short for sums; the last stripe */
} relay_t;

static status_t relay_begin(relay_t *y, int64_t n_piece, int n_thread) {
    *y = (relay_t){.n_piece = n_piece, .n_slot = SLOTS_PER_THREAD * n_thread};
    pthread_mutex_init(&y->lock, NULL);
    pthread_cond_init(&y->moved, NULL);
    hash_chain_begin(&y->chain);
    status_t st = mem_alloc(&y->sums, (size_t)y->n_slot, sizeof *y->sums, "sums of a checksum");
    return st ? st : mem_zalloc(&y->done, (size_t)y->n_slot, sizeof *y->done, "sums of a checksum");
}

static void relay_free(relay_t *y) {
    mem_free(y->sums);
    mem_free(y->done);
    pthread_cond_destroy(&y->moved);
    pthread_mutex_destroy(&y->lock);
}

/* The next piece, or -1; what is taken must be given back. */
static int64_t piece_take(relay_t *y) {
    pthread_mutex_lock(&y->lock);
    while (y->taken < y->n_piece && y->taken - y->chained == y->n_slot) pthread_cond_wait(&y->moved, &y->lock);
    int64_t i = y->taken < y->n_piece ? y->taken++ : -1;
    pthread_mutex_unlock(&y->lock);
    if (i >= 0) memset(y->sums[i % y->n_slot], 0, sizeof *y->sums);
    return i;
}

/* Sums of the last piece wait for the end. */
static void piece_give(relay_t *y, int64_t i) {
    pthread_mutex_lock(&y->lock);
    y->done[i % y->n_slot] = true;
    while (y->chained + 1 < y->n_piece && y->done[y->chained % y->n_slot]) {
        int64_t at = y->chained++ % y->n_slot;
        y->done[at] = false;
        hash_chain_add(&y->chain, y->sums[at], PIECE_BLOCKS);
    }
    pthread_cond_broadcast(&y->moved);
    pthread_mutex_unlock(&y->lock);
}

static hash_t relay_end(relay_t *y, int64_t total) {
    int64_t last = y->n_piece - 1, blocks = (total - last * PIECE_BYTES - 1) / HASH_BLOCK;
    const hash_sum_t *sums = y->sums[last % y->n_slot];
    if (total <= HASH_SHORT) return hash_bytes(y->whole, (size_t)total);
    hash_chain_add(&y->chain, sums, (size_t)blocks);
    return hash_chain_end(&y->chain, &sums[blocks], y->last, (size_t)total);
}

/* Piece i: written, but for K/V where they are not wanted, and summed. */
static status_t piece_put(const segment_out_t *o, bool kv, int64_t i, char *buffer, relay_t *y) {
    part_t part[N_PART];
    status_t st = ST_OK;
    int64_t from = i * PIECE_BYTES, upto = i64_min(from + PIECE_BYTES, o->size.total);
    parts_find(o, part);
    for (int p = 0; p < N_PART && !st; p++) {
        int64_t a = i64_max(from, part[p].at), n = i64_min(upto, part[p].at + part[p].padded) - a;
        if (n <= 0) continue;
        const char *bytes = part_bytes(o, &part[p], a - part[p].at, n, buffer);
        bool last = a + n == o->size.total;
        hash_sum(y->sums[i % y->n_slot], (size_t)(a - from), bytes, (size_t)(last ? n - HASH_STRIPE : n));
        if (last) memcpy(y->last, bytes + n - HASH_STRIPE, HASH_STRIPE);
        if (o->size.total <= HASH_SHORT) memcpy(y->whole + a, bytes, (size_t)n);
        if (kv || !part[p].kv) st = disk_write_at(o->fd, o->path, o->at.tokens_offset + a, bytes, (size_t)n);
    }
    return st;
}

status_t segment_write(const segment_out_t *o, const store_part_t *parts, int n_part, hash_t *checksum) {
    int64_t n_piece = i64_ceil_div(o->size.total, PIECE_BYTES);
    int threads = (int)i64_min(o->n_thread, n_piece);
    status_first_t failed = {0};
    relay_t relay;
    status_t begun = relay_begin(&relay, n_piece, threads);
#pragma omp parallel num_threads(threads) if (threads > 1 && !begun)
    {
        char *buffer = NULL;
        status_t st = begun ? begun : mem_alloc(&buffer, 1, PIECE_BYTES, "the store's write buffer");
#pragma omp single nowait /* one: file systems let one write to a file at a time */
        for (int p = 0; parts && p < n_part; p++)
            for (int64_t i = 0; i < 2 * parts[p].n_layer * o->n_head && !st; i++) st = head_put(o, parts[p], i, buffer);
        for (int64_t i; !begun && (i = piece_take(&relay)) >= 0; piece_give(&relay, i)) /* also behind a failure: the others wait for it */
            if (!st) st = piece_put(o, !parts, i, buffer, &relay);
        status_first(&failed, st);
        mem_free(buffer);
    }
    status_t st = status_first_tell(&failed);
    if (!st) *checksum = relay_end(&relay, o->size.total);
    relay_free(&relay);
    return st;
}
