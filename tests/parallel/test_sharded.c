/* One sequence over all ranks: the logits and the kept K/V are one rank's, bit for bit; what goes over the wire is what the plan says; a
 * rank that cannot begin keeps nobody waiting. */
#include "golden/tiny.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/rng.h"
#include "encode/kept.h"
#include "encode/sequence.h"
#include "encode/sharded.h"
#include "parallel.h"
#include "scratch.h"

enum { N = 700, N_VOCAB = 160, ALL = -1, MAX_OUT = N * 2 + 16 };
static const char *const model = "tests/golden/tiny-llama";

typedef struct {
    layout_method_t layout;
    int64_t n, segment, ratio, window, n_blank, max_row;
    gist_init_t init;
} case_t;

static const case_t cases[] = {
    {LAYOUT_FULL, N, N, 0, ALL, 0, 64, GIST_MEAN},
    {LAYOUT_FULL, N, 96, 0, ALL, 3, 40, GIST_MEAN},
    {LAYOUT_FULL, 3, 96, 0, ALL, 0, 40, GIST_MEAN}, /* fewer rows than ranks */
    {LAYOUT_FINE_KV, N, 60, 4, ALL, 2, 33, GIST_UNIT},
    {LAYOUT_FINE_KV, N, 300, 8, 16, 0, 100, GIST_MEAN}, /* a chunk is less than a segment */
    {LAYOUT_FINE_KV, 200, 5, 8, ALL, 1, 64, GIST_MEAN}, /* no gists at all */
    {LAYOUT_COARSE_KV, N, 100, 4, ALL, 4, 64, GIST_MEAN},
    {LAYOUT_COARSE_KV, N, 350, 4, ALL, 0, 30, GIST_UNIT}, /* gists need passes of their own */
    {LAYOUT_UNIGIST, N, 0, 4, 16, 4, 64, GIST_MEAN},
    {LAYOUT_UNIGIST, N, 0, 3, 0, 0, 31, GIST_UNIT},
    {LAYOUT_UNIGIST, N, 0, 8, 304, 2, 64, GIST_MEAN}, /* the window is wider than a chunk and a page */
    {LAYOUT_UNIGIST, 6, 0, 8, 8, 1, 64, GIST_MEAN},   /* no unit */
};
enum { N_CASE = sizeof cases / sizeof *cases };

static tiny_t tiny;
static int32_t tokens[N];

static void open_model(dtype_t act) {
    rng_t rnd = {3};
    for (int i = 0; i < N; i++) tokens[i] = (int32_t)rng_below(&rnd, N_VOCAB);
    CU_ASSERT_EQUAL(tiny_open_on(&tiny, comm, model, backend_tested, act, 1, 8), ST_OK);
}

static gist_spec_t gist_of(const case_t *c) {
    return (gist_spec_t){.ratio = c->ratio, .window = c->ratio ? c->window : ALL, .at_end = layout_info(c->layout)->gists_at_end};
}

/* ---- logits ----------------------------------------------------------------------------------------------------- */
static void logits_of(comm_t *on, const sequence_spec_t *s, int64_t n, tiny_rows_t *r) {
    *r = (tiny_rows_t){.to = r->to, .room = sequence_rows(s, n), .width = N_VOCAB};
    CU_ASSERT(r->room <= MAX_OUT);
    CU_ASSERT_EQUAL(sequence_logits(tiny.model, on, s, tokens, n, tiny_rows_take, r), ST_OK);
    CU_ASSERT(tiny_rows_came(r, r->room, on->rank == 0));
}

static void test_logits(void) {
    static tiny_rows_t shared, alone;
    comm_t *self = NULL;
    CU_ASSERT_EQUAL(comm_self_create(&self), ST_OK);
    CU_ASSERT_EQUAL(mem_alloc(&shared.to, MAX_OUT * N_VOCAB, sizeof(float), "test"), ST_OK);
    CU_ASSERT_EQUAL(mem_alloc(&alone.to, MAX_OUT * N_VOCAB, sizeof(float), "test"), ST_OK);
    for (int bf16 = 0; bf16 < 2; bf16++) {
        open_model(bf16 ? DT_BF16 : DT_F32);
        for (int i = 0; i < N_CASE; i++) {
            const case_t *c = &cases[i];
            sequence_spec_t s = {.layout = c->layout, .segment = c->segment, .max_row = c->max_row, .all_rows = i % 2 == 0};
            s.kept = (kept_t){.gist = gist_of(c), .init = c->init, .n_blank = c->n_blank};
            logits_of(comm, &s, c->n, &shared);
            s.max_row = 128;
            if (comm->rank == 0) logits_of(self, &s, c->n, &alone);
            bool same = comm->rank || !memcmp(shared.to, alone.to, (size_t)(alone.room * N_VOCAB) * sizeof(float));
            if (!same) fprintf(stderr, "case %d, %s: sharded logits are not one rank's\n", i, bf16 ? "bf16" : "f32");
            CU_ASSERT(same);
        }
        tiny_close(&tiny);
    }
    mem_free(shared.to);
    mem_free(alone.to);
    self->ops->close(self);
}

/* ---- kept K/V and the wire -------------------------------------------------------------------------------------- */
static int64_t segments_of(const case_t *c, int64_t *segment) {
    int64_t L = layout_info(c->layout)->whole ? c->n : c->segment, n = 0;
    for (segment[0] = 0; segment[n] < c->n; n++) segment[n + 1] = i64_min(segment[n] + L, c->n);
    return n;
}

static status_t encoder_of(const case_t *c, comm_t *on, encoder_t **out) {
    encoder_spec_t e = {.n_blank = c->n_blank,
                        .align = ALIGN_SEQUENTIAL,
                        .max_row = c->max_row,
                        .gist = gist_of(c),
                        .gist_init = c->init,
                        .evict = layout_info(c->layout)->whole,
                        .sharded = true};
    return encoder_create(tiny.model, on, &e, out);
}

/* Pools for a segment's kept rows, all raw rows or the tail, on the device or the host; filled with what no result may be. */
static void pools_of(const case_t *c, int64_t n, bool host, kv_pool_t *raw, kv_pool_t *gists) {
    gist_spec_t g = gist_of(c);
    status_t (*alloc)(backend_t *, const model_config_t *, dtype_t, int64_t, const char *, kv_pool_t *) = host ? kv_alloc_host : kv_alloc;
    kv_pool_t *both[2] = {raw, gists};
    int64_t rows[2] = {layout_info(c->layout)->whole ? encoder_tail(&g, n) : n, gist_count(&g, n)};
    for (int i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL(alloc(tiny.be, model_config(tiny.model), tiny.be->act, rows[i], "test", both[i]), ST_OK);
        size_t bytes = kv_bytes(model_config(tiny.model), tiny.be->act, rows[i]);
        CU_ASSERT_EQUAL(memory_poison(tiny.be, both[i]->k, bytes), ST_OK);
        CU_ASSERT_EQUAL(memory_poison(tiny.be, both[i]->v, bytes), ST_OK);
    }
}

static bool pools_equal(const kv_pool_t *a, const kv_pool_t *b) {
    size_t bytes = kv_bytes(model_config(tiny.model), tiny.be->act, a->n_row);
    return a->n_row == b->n_row && memory_equal(tiny.be, a->k, tiny.be, b->k, bytes) && memory_equal(tiny.be, a->v, tiny.be, b->v, bytes);
}

/* ---- stopped between two layers ---------------------------------------------------------------------------------- */
static bool stop_last(void *ctx) { /* the last rank alone, the second time it is asked */
    int *asked = ctx;
    return ++*asked == 2 && comm->rank == comm->size - 1;
}

/* One run that is stopped, and one that goes on in other memory; what they kept is in the pools of d. `spoilt`: the last rank's file is
 * damaged, so that all begin anew. */
static void run_twice(encoder_t *e, const shard_t *plan, sharded_t *d, bool spoilt) {
    char path[SCRATCH_PATH + 32];
    int asked = 0, damage = spoilt && comm->rank == comm->size - 1;
    static char dir[SCRATCH_PATH];
    if (!*dir) scratch_dir(dir, SCRATCH_DISK);
    snprintf(path, sizeof path, "%s/rank%04d.under-way", dir, comm->rank);
    for (int again = 0; again < 2; again++) {
        under_way_t u = {.path = path, .key = {7, (uint64_t)comm->rank}, .n_layer = (int)model_config(tiny.model)->n_layer};
        for (int64_t s = 0; s < plan->spec.n_segment; s++)
            for (int i = 0; i < 2; i++) {
                const kv_pool_t *p = i ? &d->gists[s] : &d->raw[s];
                size_t bytes = kv_bytes(model_config(tiny.model), tiny.be->act, p->n_row);
                if (!bytes) continue;
                CU_ASSERT_EQUAL(under_way_add(&u, p->k, bytes, true), ST_OK);
                CU_ASSERT_EQUAL(under_way_add(&u, p->v, bytes, true), ST_OK);
                if (again) CU_ASSERT_EQUAL(memory_poison(tiny.be, p->k, bytes), ST_OK);
                if (again) CU_ASSERT_EQUAL(memory_poison(tiny.be, p->v, bytes), ST_OK);
            }
        d->stop = again ? NULL : stop_last;
        d->stop_ctx = &asked;
        d->under_way = &u;
        d->from = d->stopped = 0;
        CU_ASSERT_EQUAL(encoder_run_sharded(e, comm, plan, d), ST_OK);
        CU_ASSERT_EQUAL(d->stopped, !again);
        CU_ASSERT_EQUAL(d->from, again && !spoilt);
        under_way_free(&u);
        if (damage && !again) CU_ASSERT_EQUAL(truncate(path, 100), 0);
    }
    CU_ASSERT_EQUAL(unlink(path), 0);
}

typedef enum { STRAIGHT, STOPPED, SPOILT } how_t;

/* host: even ranks keep what they keep in host memory, and odd ones on the device; else the other way round. */
static void kept_case(const case_t *c, comm_t *self, how_t how, bool host) {
    static int64_t segment[N + 1];
    static kv_pool_t raw[N], gists[N], raw1[N], gists1[N];
    int64_t n = segments_of(c, segment), mine = 0;
    bool chain_raw = !c->ratio, whole = layout_info(c->layout)->whole, spilled = host == !(comm->rank % 2);
    encoder_t *e = NULL, *alone = NULL;
    shard_t plan;
    CU_ASSERT_EQUAL(encoder_of(c, comm, &e), ST_OK);
    CU_ASSERT_EQUAL(encoder_of(c, self, &alone), ST_OK);
    CU_ASSERT_EQUAL(encoder_shard(e, segment, n, !layout_info(c->layout)->whole, comm->size, &plan), ST_OK);
    for (int64_t s = 0; s < n; s++) {
        raw[s] = gists[s] = (kv_pool_t){0};
        pools_of(c, segment[s + 1] - segment[s], false, &raw1[s], &gists1[s]);
        if (shard_writer(&plan, s) == comm->rank) pools_of(c, segment[s + 1] - segment[s], spilled, &raw[s], &gists[s]);
    }
    sharded_t d = {.tokens = tokens, .raw = raw, .gists = gists, .spilled = spilled};
    int64_t before = comm->sent_bytes, agreed = comm->size > 1 ? (int64_t)sizeof(int64_t) : 0; /* one agreement before the layers */
    if (how == STRAIGHT) {
        CU_ASSERT_EQUAL(encoder_run_sharded(e, comm, &plan, &d), ST_OK);
        CU_ASSERT_EQUAL(comm->sent_bytes - before - agreed, encoder_shard_bytes(e, &plan, comm->rank));
        CU_ASSERT_EQUAL(d.sent, encoder_shard_bytes(e, &plan, comm->rank));
    } else {
        run_twice(e, &plan, &d, how == SPOILT);
    }
    for (int64_t s = 0; s < n; s++) {
        piece_t p = {.tokens = tokens + segment[s],
                     .n = segment[s + 1] - segment[s],
                     .before = segment[s],
                     .chain = chain_raw ? raw1 : gists1,
                     .n_chain = whole ? 0 : (int)s,
                     .pool = raw1[s],
                     .gist_pool = gists1[s]};
        CU_ASSERT_EQUAL(encoder_run(alone, &p, 1), ST_OK);
        if (shard_writer(&plan, s) == comm->rank) {
            mine++;
            bool same = pools_equal(&raw[s], &raw1[s]) && pools_equal(&gists[s], &gists1[s]);
            if (!same) fprintf(stderr, "case %d, segment %lld: kept K/V are not one rank's\n", (int)(c - cases), (long long)s);
            CU_ASSERT(same);
        }
    }
    for (int64_t s = 0; s < n; s++)
        (spilled ? kv_free_host : kv_free)(tiny.be, &raw[s]), (spilled ? kv_free_host : kv_free)(tiny.be, &gists[s]);
    for (int64_t s = 0; s < n; s++) kv_free(tiny.be, &raw1[s]), kv_free(tiny.be, &gists1[s]);
    CU_ASSERT_EQUAL(comm->ops->sum_i64(comm, &mine, 1), ST_OK);
    CU_ASSERT_EQUAL(mine, n); /* every segment has one writer */
    shard_free(&plan);
    encoder_free(e);
    encoder_free(alone);
}

static void test_kept(void) {
    comm_t *self = NULL;
    CU_ASSERT_EQUAL(comm_self_create(&self), ST_OK);
    open_model(DT_BF16);
    for (int i = 0; i < 2 * N_CASE; i++) kept_case(&cases[i / 2], self, STRAIGHT, i % 2);
    tiny_close(&tiny);
    self->ops->close(self);
}

static void test_stopped(void) {
    comm_t *self = NULL;
    CU_ASSERT_EQUAL(comm_self_create(&self), ST_OK);
    open_model(DT_BF16);
    for (int i = 0; i < N_CASE; i++) kept_case(&cases[i], self, i % 4 == 3 ? SPOILT : STOPPED, i % 2);
    tiny_close(&tiny);
    self->ops->close(self);
}

/* The n-th allocation of the last rank fails before the layers begin: all ranks hear of it. */
static void test_one_rank_fails(void) {
    static int64_t segment[N + 1];
    const case_t *c = &cases[3];
    int64_t n = segments_of(c, segment);
    encoder_t *e = NULL;
    shard_t plan;
    int failed = 0;
    open_model(DT_F32);
    CU_ASSERT_EQUAL(encoder_of(c, comm, &e), ST_OK);
    CU_ASSERT_EQUAL(encoder_shard(e, segment, n, !layout_info(c->layout)->whole, comm->size, &plan), ST_OK);
    for (int at = 1; at < 6; at++) {
        sharded_t d = {.tokens = tokens};
        if (comm->rank == comm->size - 1) mem_fail_at(at);
        status_t st = encoder_run_sharded(e, comm, &plan, &d);
        mem_fail_at(0);
        int64_t worst[2] = {(int64_t)st, -(int64_t)st};
        CU_ASSERT_EQUAL(comm->ops->max_i64(comm, worst, 2), ST_OK);
        CU_ASSERT_EQUAL(worst[0], -worst[1]);
        failed += st != ST_OK;
    }
    CU_ASSERT_EQUAL(failed, 5);
    shard_free(&plan);
    encoder_free(e);
    tiny_close(&tiny);
}

PARALLEL_MAIN("sharded", {"logits", test_logits}, {"kept", test_kept}, {"stopped", test_stopped}, {"one_rank_fails", test_one_rank_fails})
