/* One document over all ranks, measured three times: all of it, without the messages, and the messages alone; what is not hidden behind the
 * computing is the first less the second. Beside it, messages of a known size as exchanges and as an all-gather.
 */
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/mem.h"
#include "bench/bench.h"
#include "bench/subject.h"
#include "encode/sharded.h"
#include "encode/wire.h"

enum { MAX_REPEATS = 64 };

typedef struct {
    const bench_shard_t *spec;
    const model_config_t *config;
    backend_t *be;
    comm_t *comm;
    subject_t subject;
    encoder_t *encoder;
    int64_t *segment, n_segment; /* [n_segment + 1] */
    kv_pool_t *raw, *gists;      /* [n_segment] what this rank keeps */
    shard_t plan;
} sharding_t;

static void close_all(sharding_t *r) {
    encoder_free(r->encoder);
    for (int64_t s = 0; r->raw && r->gists && s < r->n_segment; s++) {
        kv_free(r->be, &r->raw[s]);
        kv_free(r->be, &r->gists[s]);
    }
    shard_free(&r->plan);
    subject_close(&r->subject);
    mem_free(r->segment);
    mem_free(r->raw);
    mem_free(r->gists);
}

static status_t segments_make(sharding_t *r) {
    const bench_shard_t *b = r->spec;
    int64_t L = b->gist.ratio ? b->tokens : i64_min(b->segment, b->tokens);
    r->n_segment = i64_ceil_div(b->tokens, L);
    status_t st = mem_alloc(&r->segment, (size_t)r->n_segment + 1, sizeof *r->segment, "segments");
    if (!st) st = mem_zalloc(&r->raw, (size_t)r->n_segment, sizeof *r->raw, "segments");
    if (!st) st = mem_zalloc(&r->gists, (size_t)r->n_segment, sizeof *r->gists, "segments");
    for (int64_t s = 0; s <= r->n_segment && !st; s++) r->segment[s] = i64_min(s * L, b->tokens);
    return st;
}

/* Memory for what this rank writes: slices whole, of UniGist gists and the last rows. */
static status_t pools_make(sharding_t *r) {
    const gist_spec_t *g = &r->spec->gist;
    status_t st = ST_OK;
    for (int64_t s = 0; s < r->n_segment && !st; s++) {
        int64_t n = r->segment[s + 1] - r->segment[s];
        if (shard_writer(&r->plan, s) != r->comm->rank) continue;
        st = kv_alloc(r->be, r->config, r->be->act, g->ratio ? encoder_tail(g, n) : n, "K/V that stay", &r->raw[s]);
        if (!st && g->ratio) st = kv_alloc(r->be, r->config, r->be->act, gist_count(g, n), "K/V that stay", &r->gists[s]);
    }
    return st;
}

static status_t open_all(sharding_t *r) {
    const bench_shard_t *b = r->spec;
    status_t st = comm_agree(r->comm, segments_make(r));
    if (!st) st = subject_open(r->config, r->be, r->comm, b->tokens, b->n_sink, &r->subject);
    if (st) return st;
    encoder_spec_t e = {.sink = r->subject.sink,
                        .n_sink = b->n_sink,
                        .align = ALIGN_SEQUENTIAL,
                        .max_row = i64_max(b->max_row, b->gist.ratio + 1),
                        .gist = b->gist,
                        .gist_init = GIST_TOKEN,
                        .evict = b->gist.ratio > 0,
                        .sharded = true};
    if ((st = encoder_create(r->subject.model, r->comm, &e, &r->encoder))) return st;
    st = encoder_shard(r->encoder, r->segment, r->n_segment, !b->gist.ratio, r->comm->size, &r->plan);
    if (!st) st = pools_make(r);
    return comm_agree(r->comm, st);
}

static status_t run_alone(sharding_t *r) {
    status_t st = ST_OK;
    for (int64_t s = 0; s < r->n_segment && !st; s++) {
        piece_t p = {.tokens = r->subject.tokens + r->segment[s],
                     .n = r->segment[s + 1] - r->segment[s],
                     .before = r->segment[s],
                     .chain = r->raw,
                     .n_chain = r->spec->gist.ratio ? 0 : (int)s,
                     .pool = r->raw[s],
                     .gist_pool = r->gists[s]};
        st = encoder_run(r->encoder, &p, 1);
    }
    return st ? st : r->be->ops->sync(r->be);
}

/* How long the ranks' devices stood still for messages: the least and the most of them. */
static status_t stalls(sharding_t *r, double *least, double *most) {
    comm_device_t *d = r->comm->device;
    double seconds = 0;
    status_t st = ST_OK;
    if (!d || !d->timed) return ST_OK;
    st = comm_agree(r->comm, d->ops->stalled(d, &seconds));
    int64_t ns[2] = {(int64_t)(seconds * 1e9), -(int64_t)(seconds * 1e9)};
    if (!st) st = r->comm->ops->max_i64(r->comm, ns, 2);
    *most = (double)ns[0] * 1e-9;
    *least = (double)-ns[1] * 1e-9;
    return st;
}

/* Seconds of the slowest rank. */
static status_t run_timed(sharding_t *r, shard_part_t part, double *seconds, int64_t *sent) {
    sharded_t d = {.part = part, .tokens = r->subject.tokens, .raw = r->raw, .gists = r->gists};
    status_t st = r->comm->ops->barrier(r->comm);
    double begin = clock_s();
    if (!st) st = r->comm->size == 1 ? run_alone(r) : encoder_run_sharded(r->encoder, r->comm, &r->plan, &d);
    int64_t ns = (int64_t)((clock_s() - begin) * 1e9);
    if ((st = comm_agree(r->comm, st))) return st;
    st = r->comm->ops->max_i64(r->comm, &ns, 1);
    *seconds = (double)ns * 1e-9;
    *sent = d.sent;
    return st;
}

/* ---- the digest --------------------------------------------------------------------------------------------------------- */
static status_t pool_hash(sharding_t *r, const kv_pool_t *p, hash_t *out) {
    size_t bytes = kv_bytes(r->config, p->type, p->n_row);
    char *host = NULL;
    status_t st = mem_alloc(&host, 2 * bytes, 1, "K/V to compare");
    if (!st) st = r->be->ops->copy_out(r->be, host, p->k, bytes);
    if (!st) st = r->be->ops->copy_out(r->be, host + bytes, p->v, bytes);
    if (!st) *out = hash_bytes(host, 2 * bytes);
    mem_free(host);
    return st;
}

/* Each segment's by its writer; zeros are added by the others. */
static status_t digest(sharding_t *r, char *out) {
    hash_t *each = NULL;
    status_t st = mem_zalloc(&each, 2 * (size_t)r->n_segment, sizeof *each, "digests");
    for (int64_t s = 0; s < r->n_segment && !st; s++) {
        if (r->raw[s].n_row) st = pool_hash(r, &r->raw[s], &each[2 * s]);
        if (!st && r->gists[s].n_row) st = pool_hash(r, &r->gists[s], &each[2 * s + 1]);
    }
    st = comm_agree(r->comm, st);
    _Static_assert(sizeof(hash_t) == 2 * sizeof(int64_t), "a hash is two numbers");
    if (!st) st = r->comm->ops->sum_i64(r->comm, (int64_t *)(void *)each, 4 * r->n_segment);
    if (!st) hash_hex(hash_bytes(each, 2 * (size_t)r->n_segment * sizeof *each), out);
    mem_free(each);
    return st;
}

/* All three in turns: a card that slows as it warms slows each alike. */
static status_t run_parts(sharding_t *r, bench_sharded_t *out) {
    double least[MAX_REPEATS], most[MAX_REPEATS], seconds[3][MAX_REPEATS], *median[3] = {&out->seconds, &out->compute_s, &out->wire_s};
    static const shard_part_t part[3] = {SHARD_ALL, SHARD_COMPUTE, SHARD_WIRE};
    int n = r->spec->repeats < MAX_REPEATS ? r->spec->repeats : MAX_REPEATS, n_part = r->comm->size > 1 ? 3 : 1;
    status_t st = ST_OK;
    int64_t none;
    for (int i = 0; i < n && !st; i++)
        for (int p = 0; p < n_part && !st; p++) {
            if (r->comm->device) r->comm->device->timed = part[p] == SHARD_ALL;
            st = run_timed(r, part[p], &seconds[p][i], p ? &none : &out->sent);
            if (!st) st = stalls(r, &least[i], &most[i]);
        }
    for (int p = 0; p < n_part && !st; p++) *median[p] = bench_median(seconds[p], n);
    if (r->comm->device && !st) {
        out->stalled_least_s = bench_median(least, n);
        out->stalled_s = bench_median(most, n);
    }
    return st;
}

/* ---- messages ------------------------------------------------------------------------------------------------------------ */
/* Every rank's `each` bytes to all ranks: bytes received per rank and second. by_exchange: else as an all-gather. */
static status_t gather_timed(sharding_t *r, char *memory, int64_t each, bool by_exchange, double *rate) {
    enum { WARM = 2, TIMES = 9 };
    comm_t *c = r->comm;
    comm_part_t parts[2 * 64];
    wire_t w = {0};
    double seconds[TIMES] = {0};
    int n = 0;
    status_t st = ST_OK;
    for (int p = 0; p < c->size && c->size <= 64; p++)
        if (p != c->rank) parts[n++] = (comm_part_t){.peer = p, .p = memory + c->rank * each, .bytes = each, .stride = each, .count = 1};
    for (int p = 0, i = n; p < c->size && c->size <= 64; p++)
        if (p != c->rank) parts[i++] = (comm_part_t){.peer = p, .p = memory + p * each, .bytes = each, .stride = each, .count = 1};
    for (int i = -WARM; i < TIMES && !st; i++) {
        if ((st = c->ops->barrier(c))) break;
        double begin = clock_s();
        if (by_exchange) st = wire_start(&w, r->be, c, parts, n, parts + n, n);
        if (by_exchange && !st) st = wire_wait(&w, r->be, c);
        if (!by_exchange) st = c->device->ops->all_gather(c->device, memory + c->rank * each, memory, each);
        if (!st) st = r->be->ops->sync(r->be);
        int64_t ns = (int64_t)((clock_s() - begin) * 1e9);
        if (!st) st = c->ops->max_i64(c, &ns, 1);
        if (i >= 0) seconds[i] = (double)ns * 1e-9;
    }
    wire_free(&w, r->be);
    if (!st) *rate = (double)each * (c->size - 1) / bench_median(seconds, TIMES);
    return st;
}

static status_t messages(sharding_t *r, bench_sharded_t *out) {
    static const int64_t size[SHARD_SIZES] = {16 << 20, 64 << 20, 256 << 20}; /* of the whole result, as nccl-tests counts */
    status_t st = ST_OK;
    if (r->comm->size == 1 || r->comm->size > 64) return ST_OK;
    for (int i = 0; i < SHARD_SIZES && !st; i++) {
        int64_t each = size[i] / r->comm->size / 256 * 256;
        char *memory = NULL;
        st = comm_agree(r->comm, r->be->ops->alloc(r->be, (size_t)(each * r->comm->size), "messages", &memory));
        if (!st) st = gather_timed(r, memory, each, true, &out->exchange_bytes_s[i]);
        if (!st && r->comm->device) st = gather_timed(r, memory, each, false, &out->gather_bytes_s[i]);
        r->be->ops->free(r->be, memory);
    }
    return st;
}

status_t bench_shard(const model_config_t *c, backend_t *be, comm_t *comm, const bench_shard_t *b, bench_sharded_t *out) {
    sharding_t r = {.spec = b, .config = c, .be = be, .comm = comm};
    *out = (bench_sharded_t){.stalled_s = -1};
    status_t st = open_all(&r);
    if (!st) st = run_timed(&r, SHARD_ALL, &out->seconds, &out->sent); /* the first run chooses kernels and makes its work lists */
    if (!st) st = digest(&r, out->digest);
    if (!st) st = run_parts(&r, out);
    if (!st) st = messages(&r, out);
    out->most = out->sent;
    if (!st) st = comm->ops->max_i64(comm, &out->most, 1);
    if (!st) st = comm->ops->sum_i64(comm, &out->sent, 1);
    for (int k = 0; k < comm->size && !st; k++) {
        out->planned += encoder_shard_bytes(r.encoder, &r.plan, k);
        out->ring += (int64_t)(2 * kv_bytes(c, be->act, shard_ring_rows(&r.plan, k)));
    }
    close_all(&r);
    return st;
}
