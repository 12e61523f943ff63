/* Decoding measured end to end: one token per prompt and step, over pools of made-up K/V; greedy. The check decodes a few tokens on two
 * layers of the same shape and compares their logits with those of the CPU in f32. */
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "bench/bench.h"
#include "bench/subject.h"
#include "query/attend.h"

enum { CHECK_STEPS = 4, CHECK_VOCAB = 512, CHECK_CONTEXT = 1500 };

typedef struct {
    const bench_query_t *spec;
    const model_config_t *config;
    backend_t *be;
    comm_t *comm;
    subject_t subject; /* its ids: the token that each slot decodes next */
    context_kv_t context;
    attend_t *attend;
    forward_ws_t *ws;
    kv_pool_t *own; /* [slots] */
    attend_query_t *queries;
    double *positions;
    int64_t *out_rows;
    float *logits; /* [slots][n_vocab] */
    int64_t at;    /* tokens decoded so far */
} decoding_t;

static void decoding_close(decoding_t *r) {
    attend_free(r->attend);
    forward_ws_free(r->ws);
    context_free(&r->context);
    for (int64_t s = 0; r->own && s < r->spec->slots; s++) kv_free(r->be, &r->own[s]);
    subject_close(&r->subject);
    mem_free(r->own);
    mem_free(r->queries);
    mem_free(r->positions);
    mem_free(r->out_rows);
    mem_free(r->logits);
}

static status_t pool_random(decoding_t *r, int64_t i, kv_pool_t *out) {
    backend_t *be = r->be;
    status_t st = context_alloc(&r->context, r->config, i, out);
    size_t n = kv_bytes(r->config, be->act, out->n_row) / dtype_bytes(be->act);
    uint64_t seed = 2 * (uint64_t)(i + 1);
    if (!st) st = be->ops->fill(be, seed, 0, 1, n, out->k);
    return st ? st : be->ops->fill(be, seed + 1, 0, 1, n, out->v);
}

static status_t context_make(decoding_t *r) {
    const bench_query_t *b = r->spec;
    int64_t n = i64_ceil_div(b->context, b->segment), *rows = NULL;
    status_t st = mem_alloc(&rows, (size_t)n, sizeof *rows, "segment sizes");
    for (int64_t i = 0; i < n && !st; i++) rows[i] = i64_min(b->segment, b->context - i * b->segment);
    if (!st) st = context_deal(r->be, r->comm, rows, n, &r->context);
    if (!st) r->context.owns_pools = true;
    if (!st) context_plan_memory(&r->context, r->config);
    for (int64_t i = 0; i < n && !st; i++) st = pool_random(r, i, &r->context.pools[i]);
    r->context.query_position = b->context;
    mem_free(rows);
    return st;
}

static status_t decoding_open(decoding_t *r) {
    const bench_query_t *b = r->spec;
    size_t slots = (size_t)b->slots;
    attend_spec_t spec = {.select = 0};
    status_t st = subject_open(r->config, r->be, r->comm, b->slots, 0, &r->subject);
    if (!st) st = context_make(r);
    if (!st) st = forward_ws_create(r->subject.model, b->slots, &r->ws);
    if (!st) st = attend_create(r->subject.model, r->comm, &r->context, &spec, b->slots, (int)b->slots, &r->attend);
    if (!st) st = mem_zalloc(&r->own, slots, sizeof *r->own, "slots");
    if (!st) st = mem_zalloc(&r->queries, slots, sizeof *r->queries, "slots");
    if (!st) st = mem_alloc(&r->positions, slots, sizeof *r->positions, "slots");
    if (!st) st = mem_alloc(&r->out_rows, slots, sizeof *r->out_rows, "slots");
    if (!st) st = mem_alloc(&r->logits, slots, (size_t)r->config->n_vocab * sizeof *r->logits, "logits");
    for (int64_t s = 0; s < b->slots && !st; s++) {
        r->out_rows[s] = s;
        st = kv_alloc(r->be, r->config, r->be->act, b->steps, "K/V of a prompt", &r->own[s]);
    }
    return st;
}

static status_t decode_step(decoding_t *r) {
    const bench_query_t *b = r->spec;
    int64_t n_vocab = r->config->n_vocab;
    for (int64_t s = 0; s < b->slots; s++) {
        r->queries[s] = (attend_query_t){.row = s, .n = 1, .own = r->own[s], .index = r->at};
        r->positions[s] = (double)(b->context + r->at);
    }
    status_t st =
        attend_forward(r->attend, r->ws, r->queries, (int)b->slots, r->subject.tokens, r->positions, b->slots, r->out_rows, r->logits);
    for (int64_t s = 0; s < b->slots && !st; s++) {
        const float *l = r->logits + s * n_vocab;
        int32_t best = 0;
        for (int32_t i = 1; i < n_vocab; i++)
            if (l[i] > l[best]) best = i;
        r->subject.tokens[s] = best;
    }
    r->at++;
    return st;
}

/* ---- the check ------------------------------------------------------------------------------------------------------------- */
static status_t check_run(const model_config_t *c, backend_t *be, comm_t *comm, const bench_query_t *b, float **logits) {
    decoding_t r = {.spec = b, .config = c, .be = be, .comm = comm};
    size_t n = (size_t)(b->slots * c->n_vocab);
    *logits = NULL;
    status_t st = decoding_open(&r);
    if (!st) st = mem_alloc(logits, n * CHECK_STEPS, sizeof **logits, "logits to compare");
    for (int i = 0; i < CHECK_STEPS && !st; i++) {
        for (int64_t s = 0; s < b->slots; s++) r.subject.tokens[s] = (int32_t)((7 + 13 * s + 101 * i) % c->n_vocab); /* whatever came out */
        st = decode_step(&r);
        if (!st) memcpy(*logits + (size_t)i * n, r.logits, n * sizeof **logits);
    }
    decoding_close(&r);
    return st;
}

static status_t check(const model_config_t *config, backend_t *be, comm_t *comm, const bench_query_t *b, double *error) {
    model_config_t c = *config;
    bench_query_t small = *b;
    backend_t *plain = NULL;
    float *got = NULL, *want = NULL;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    c.n_layer = i64_min(c.n_layer, 2);
    c.n_vocab = i64_min(c.n_vocab, CHECK_VOCAB);
    small.context = i64_min(b->context, CHECK_CONTEXT);
    small.segment = i64_min(b->segment, CHECK_CONTEXT / 3);
    small.steps = CHECK_STEPS;
    status_t st = backend_create_cpu(DT_F32, be->host_memory ? be->n_threads : (int)i64_max(1, cpus), &plain);
    if (!st) st = check_run(&c, be, comm, &small, &got);
    if (!st) st = check_run(&c, plain, comm, &small, &want);
    if (!st) *error = bench_distance(DT_F32, got, DT_F32, want, (size_t)(b->slots * c.n_vocab * CHECK_STEPS));
    mem_free(got);
    mem_free(want);
    if (plain) plain->ops->destroy(plain);
    return st;
}

/* Bytes of weights that a step reads: all but the table of inputs, of which it reads a row. */
static double weights_read(const model_config_t *c, dtype_t act) {
    double linear = model_flops_row(c) / 2, head = model_flops_logits(c) / 2;
    return (linear + head) * (double)dtype_bytes(act);
}

status_t bench_query(const model_config_t *c, backend_t *be, comm_t *comm, const bench_query_t *b, bench_queried_t *out) {
    bench_query_t spec = *b;
    decoding_t r = {.spec = &spec, .config = c, .be = be, .comm = comm};
    int64_t warm = 2, total = b->steps * b->repeats, profiled = b->profile ? 4 : 0;
    double *seconds = NULL;
    *out = (bench_queried_t){.limit = bench_limit(be->act), .weight_bytes = weights_read(c, be->act)};
    out->kv_bytes = 2 * (double)kv_bytes(c, be->act, b->context);
    spec.steps = warm + total + profiled; /* rows of its own that a prompt may take */
    status_t st = be->ops->ceilings(be, &out->ceiling.flops, &out->ceiling.bytes);
    if (!st) st = check(c, be, comm, b, &out->error);
    if (!st) st = mem_alloc(&seconds, (size_t)total, sizeof *seconds, "times");
    if (!st) st = decoding_open(&r);
    for (int64_t i = 0; i < warm && !st; i++) st = decode_step(&r);
    for (int64_t i = 0; i < total && !st; i++) {
        double t = clock_s();
        st = decode_step(&r);
        seconds[i] = clock_s() - t;
    }
    if (!st && profiled) {
        bench_profile_begin(be);
        double t = clock_s();
        for (int64_t i = 0; i < profiled && !st; i++) st = decode_step(&r);
        out->profiled_s = clock_s() - t;
        out->n_line = bench_profile_end(be, out->lines);
    }
    decoding_close(&r);
    if (!st) {
        out->step_s = bench_median(seconds, (int)total);
        out->best_s = seconds[0];
        out->valid = out->error <= out->limit;
    }
    mem_free(seconds);
    return st;
}
