/* Encoding measured end to end, from token ids to K/V rows, with the encoder that the job uses; and checked on two layers of the same shape
 * against the CPU in f32. Passes go one after the other into two buffers; K/V of one leave for the host while the next is encoded. */
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/bench.h"
#include "bench/subject.h"
#include "encode/encoder.h"

enum { MAX_REPEATS = 64, CHECK_SEGMENTS = 3, CHECK_ROWS = 240, CHECK_VOCAB = 512, SINK_CHECK = 16 };

typedef struct {
    const bench_encode_t *spec;
    const model_config_t *config;
    backend_t *be;
    comm_t *comm;
    subject_t subject;
    encoder_t *encoder;
    int64_t n_token, per_pass; /* pieces in a pass */
    kv_pool_t buffer[2], gists, raw;
    char *host[2];
    int64_t ticket[2];
    piece_t *pieces;
    size_t buffer_bytes; /* K, or V */
} encoding_t;

static bool whole(const bench_encode_t *b) { return b->layout != LAYOUT_PCE; }

static void run_close(encoding_t *r) {
    encoder_free(r->encoder);
    for (int i = 0; i < 2; i++) {
        kv_free(r->be, &r->buffer[i]);
        r->be->ops->host_free(r->be, r->host[i]);
    }
    kv_free(r->be, &r->gists);
    kv_free(r->be, &r->raw);
    subject_close(&r->subject);
    mem_free(r->pieces);
}

static status_t pools_make(encoding_t *r) {
    const bench_encode_t *b = r->spec;
    backend_t *be = r->be;
    int64_t gists = gist_count(&b->gist, r->n_token), tail = encoder_tail(&b->gist, r->n_token);
    if (b->layout == LAYOUT_UNIGIST) {
        status_t st = kv_alloc(be, r->config, be->act, gists, "K/V of gists", &r->gists);
        return st ? st : kv_alloc(be, r->config, be->act, i64_max(tail, 1), "K/V of the window", &r->raw);
    }
    if (b->layout == LAYOUT_FULL) return kv_alloc(be, r->config, be->act, r->n_token, "K/V of a document", &r->raw);
    r->per_pass = i64_max(1, i64_min(b->n_segment, b->max_row / b->segment));
    r->buffer_bytes = kv_bytes(r->config, be->act, r->per_pass * b->segment);
    status_t st = mem_alloc(&r->pieces, (size_t)r->per_pass, sizeof *r->pieces, "a batch of segments");
    for (int i = 0; i < 2 && !st; i++) {
        st = kv_alloc(be, r->config, be->act, r->per_pass * b->segment, "K/V of a pass", &r->buffer[i]);
        if (!st && b->to_host) st = be->ops->host_alloc(be, 2 * r->buffer_bytes, "K/V of a pass", &r->host[i]);
    }
    return st;
}

static status_t run_open(encoding_t *r) {
    const bench_encode_t *b = r->spec;
    encoder_spec_t e = {.n_sink = b->n_sink,
                        .align = ALIGN_LEFT,
                        .reserve = whole(b) ? r->n_token : b->segment,
                        .max_row = i64_max(b->max_row, b->gist.ratio + 1),
                        .gist = b->gist,
                        .gist_init = GIST_TOKEN,
                        .evict = b->layout == LAYOUT_UNIGIST};
    status_t st = subject_open(r->config, r->be, r->comm, r->n_token, b->n_sink, &r->subject);
    e.sink = r->subject.sink;
    if (!st) st = encoder_create(r->subject.model, r->comm, &e, &r->encoder);
    return st ? st : pools_make(r);
}

static status_t run_document(encoding_t *r) {
    piece_t p = {.tokens = r->subject.tokens, .n = r->n_token, .pool = r->raw, .gist_pool = r->gists};
    return encoder_run(r->encoder, &p, 1);
}

/* Segments first .. first+n-1 into buffer `at`. */
static status_t run_pass(encoding_t *r, int64_t first, int64_t n, int at) {
    const bench_encode_t *b = r->spec;
    status_t st = r->be->ops->copy_out_wait(r->be, r->ticket[at]);
    for (int64_t i = 0; i < n; i++) {
        size_t skip = kv_bytes(r->config, r->be->act, i * b->segment);
        char *k = (char *)r->buffer[at].k + skip, *v = (char *)r->buffer[at].v + skip;
        r->pieces[i] = (piece_t){.tokens = r->subject.tokens + (first + i) * b->segment,
                                 .n = b->segment,
                                 .before = (first + i) * b->segment,
                                 .pool = kv_view(r->config, r->be->act, b->segment, k, v)};
    }
    if (!st) st = encoder_run(r->encoder, r->pieces, (int)n);
    if (st || !b->to_host) return st;
    size_t bytes = kv_bytes(r->config, r->be->act, n * b->segment);
    st = r->be->ops->copy_out_start(r->be, r->host[at], r->buffer[at].k, bytes, &r->ticket[at]);
    return st ? st : r->be->ops->copy_out_start(r->be, r->host[at] + r->buffer_bytes, r->buffer[at].v, bytes, &r->ticket[at]);
}

static status_t run_all(encoding_t *r) {
    status_t st = ST_OK;
    if (whole(r->spec)) {
        st = run_document(r);
    } else {
        int at = 0;
        for (int64_t i = 0; i < r->spec->n_segment && !st; i += r->per_pass, at ^= 1)
            st = run_pass(r, i, i64_min(r->per_pass, r->spec->n_segment - i), at);
        for (int i = 0; i < 2 && !st; i++) st = r->be->ops->copy_out_wait(r->be, r->ticket[i]);
    }
    return st ? st : r->be->ops->sync(r->be);
}

/* ---- the check ------------------------------------------------------------------------------------------------------------- */
/* K and V of all rows that stay, from a small run of the same shape, as host memory. */
static status_t check_run(const model_config_t *c, backend_t *be, comm_t *comm, const bench_encode_t *b, char **kv, size_t *n) {
    encoding_t r = {.spec = b, .config = c, .be = be, .comm = comm, .n_token = b->segment * b->n_segment};
    *kv = NULL;
    status_t st = run_open(&r);
    if (!st) st = run_all(&r);
    const kv_pool_t *from = b->layout == LAYOUT_UNIGIST ? &r.gists : b->layout == LAYOUT_FULL ? &r.raw : &r.buffer[0];
    size_t bytes = st ? 0 : kv_bytes(c, be->act, from->n_row);
    if (!st) st = mem_alloc(kv, 2 * bytes, 1, "K/V to compare");
    if (!st) st = be->ops->copy_out(be, *kv, from->k, bytes);
    if (!st) st = be->ops->copy_out(be, *kv + bytes, from->v, bytes);
    *n = 2 * bytes / dtype_bytes(be->act);
    run_close(&r);
    return st;
}

/* A device's backend has one thread; the reference takes what there is. */
static int threads_of(const backend_t *be) {
    long n = be->host_memory ? be->n_threads : sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : (int)n;
}

static status_t check(const model_config_t *config, backend_t *be, comm_t *comm, const bench_encode_t *b, double *error) {
    model_config_t c = *config;
    bench_encode_t small = *b;
    backend_t *plain = NULL;
    char *got = NULL, *want = NULL;
    size_t n, m;
    c.n_layer = i64_min(c.n_layer, 2);
    c.n_vocab = i64_min(c.n_vocab, CHECK_VOCAB);
    small.n_segment = CHECK_SEGMENTS;
    small.segment = i64_min(b->segment, CHECK_ROWS);
    small.n_sink = i64_min(b->n_sink, SINK_CHECK);
    small.max_row = CHECK_SEGMENTS * CHECK_ROWS;
    small.to_host = false;
    if (b->gist.window > 0) small.gist.window = i64_max(1, i64_min(b->gist.window, CHECK_ROWS / 2) / b->gist.ratio) * b->gist.ratio;
    status_t st = backend_create_cpu(DT_F32, threads_of(be), &plain);
    if (!st) st = check_run(&c, be, comm, &small, &got, &n);
    if (!st) st = check_run(&c, plain, comm, &small, &want, &m);
    if (!st) *error = bench_distance(be->act, got, DT_F32, want, n);
    mem_free(got);
    mem_free(want);
    if (plain) plain->ops->destroy(plain);
    return st;
}

/* ---- what it costs ---------------------------------------------------------------------------------------------------------- */
/* Keys that the rows of a document of n tokens (or of a segment) see in all. */
static double keys_seen(const bench_encode_t *b, int64_t n) {
    const gist_spec_t *g = &b->gist;
    double keys = 0;
    if (!g->ratio) return (double)n * ((double)b->n_sink + (double)(n + 1) / 2);
    for (int64_t i = 0; i < n; i++) keys += (double)(b->n_sink + i / g->ratio + i + 1 - gist_oldest(g, i));
    for (int64_t u = 0; u < gist_count(g, n); u++) keys += (double)(b->n_sink + u + 1 + (u + 1) * g->ratio - gist_oldest(g, u * g->ratio));
    return keys;
}

/* The last layer of rows that are only encoded ends with their K/V. */
static void costs(const model_config_t *c, const bench_encode_t *b, bench_encoded_t *out) {
    double d = (double)c->d_model, last = 2 * (double)(c->n_head * c->d_head) * d + 6 * (double)c->d_ff * d;
    int64_t n = whole(b) ? out->tokens : b->segment, times = whole(b) ? 1 : b->n_segment;
    out->rows = (n + gist_count(&b->gist, n)) * times;
    out->linear = (double)out->rows * (model_flops_row(c) - last);
    out->attention = (double)times * keys_seen(b, n) * 4 * (double)(c->n_head * c->d_head) * (double)(c->n_layer - 1);
}

/* Told before anything is allocated, with what to change. */
static status_t fits(const model_config_t *c, const bench_encode_t *b, backend_t *be, bench_encoded_t *out) {
    model_file_t *f = NULL;
    int64_t gists = gist_count(&b->gist, out->tokens);
    int64_t stay = b->layout == LAYOUT_FULL      ? out->tokens
                   : b->layout == LAYOUT_UNIGIST ? gists + b->gist.window + b->max_row
                                                 : 2 * i64_max(1, i64_min(b->n_segment, b->max_row / b->segment)) * b->segment;
    status_t st = model_file_random(c, &f);
    if (st) return st;
    be->ops->memory_left(be, &out->left, &out->total);
    out->weights = model_file_packed_bytes(f, be);
    out->work = forward_ws_bytes(c, be->act, b->max_row);
    out->pools = 2 * kv_bytes(c, be->act, stay + b->n_sink);
    out->kv_bytes = 2 * (double)kv_bytes(c, be->act, b->layout == LAYOUT_UNIGIST ? gists : out->tokens);
    model_file_close(f);
    size_t need = out->weights + out->work + out->pools;
    if (need > out->left)
        return status_fail(ST_FAIL,
                           "does not fit: weights %.2f + work space %.2f + K/V %.2f = %.2f GiB, %.2f of %.2f GiB are free; use a smaller "
                           "--batch (rows of a pass), a smaller --segment or a smaller --shape",
                           (double)out->weights / 0x1p30, (double)out->work / 0x1p30, (double)out->pools / 0x1p30, (double)need / 0x1p30,
                           (double)out->left / 0x1p30, (double)out->total / 0x1p30);
    return ST_OK;
}

status_t bench_encode(const model_config_t *c, backend_t *be, comm_t *comm, const bench_encode_t *b, bench_encoded_t *out) {
    encoding_t r = {.spec = b, .config = c, .be = be, .comm = comm, .n_token = b->segment * b->n_segment};
    double seconds[MAX_REPEATS];
    int n = b->repeats < MAX_REPEATS ? b->repeats : MAX_REPEATS;
    *out = (bench_encoded_t){.tokens = r.n_token, .limit = bench_limit(be->act)};
    status_t st = fits(c, b, be, out);
    if (!st) st = be->ops->ceilings(be, &out->ceiling.flops, &out->ceiling.bytes);
    if (!st) st = check(c, be, comm, b, &out->error);
    if (!st) st = run_open(&r);
    if (!st) st = run_all(&r); /* the first one chooses kernels and makes its work lists */
    for (int i = 0; i < n && !st; i++) {
        double t = clock_s();
        st = run_all(&r);
        seconds[i] = clock_s() - t;
    }
    if (!st && b->profile) {
        bench_profile_begin(be);
        double t = clock_s();
        st = run_all(&r);
        out->profiled_s = clock_s() - t;
        out->n_line = bench_profile_end(be, out->lines);
    }
    run_close(&r);
    if (st) return st;
    costs(c, b, out);
    out->median_s = bench_median(seconds, n);
    out->best_s = seconds[0];
    out->valid = out->error <= out->limit;
    return ST_OK;
}
