/* A sliding window under parallel context encoding: a query over pieces, as transformers' Mistral gives it with a dense mask
 * (make_window.py), and as one text. Through the real encoder, context and attention hook, in passes of any size and with several queries
 * side by side. */
#include "golden/tiny.h"

#include <math.h>

#include "encode/encoder.h"
#include "query/attend.h"
#include "unit.h"

enum { QUERY = 14, MAX_PIECE = 4, MAX_ROW = 64, N_VOCAB = 64 };
static const char *const folder = "tests/golden/tiny-window";

typedef struct {
    const char *name;
    int64_t n_sink, n_piece, length[MAX_PIECE];
    align_t align;
    bool chain; /* each piece continues those before it */
} case_t;
static const case_t cases[] = {
    {"plain", 0, 1, {30}, ALIGN_LEFT, false},
    {"full", 0, 4, {8, 8, 8, 6}, ALIGN_SEQUENTIAL, true},
    {"full_sink", 3, 4, {8, 8, 8, 6}, ALIGN_SEQUENTIAL, true},
    {"pce", 3, 4, {12, 12, 12, 7}, ALIGN_LEFT, false},
    {"pce_short", 2, 3, {5, 3, 5}, ALIGN_LEFT, false},
    {"pce_right", 3, 4, {12, 5, 12, 7}, ALIGN_RIGHT, false},
    {"pce_even", 3, 4, {12, 7, 12, 5}, ALIGN_EVEN, false},
    {"pce_far", 0, 3, {20, 20, 4}, ALIGN_LEFT, false},
};
enum { N_CASE = sizeof cases / sizeof *cases };

static safetensors_t *ref;
static tiny_t tiny;

typedef struct {
    encoder_t *encoder;
    context_kv_t ctx;
    int64_t n; /* tokens in front of the query */
} context_t;

static status_t context_make(const case_t *c, const int32_t *tokens, int64_t max_row, bool by_rule, context_t *out) {
    const model_config_t *m = model_config(tiny.model);
    int64_t total = 0, at = c->n_sink, reserve = layout_reserve(RESERVE_MAX, c->length, c->n_piece);
    kv_pool_t chain[MAX_PIECE];
    place_t places[MAX_PIECE];
    encoder_spec_t e = {.sink = tokens, .n_sink = c->n_sink, .align = c->align, .reserve = reserve, .max_row = max_row, .by_rule = by_rule};
    *out = (context_t){0};
    status_t st = encoder_create(tiny.model, tiny.own, &e, &out->encoder);
    if (!st) st = context_deal(tiny.be, tiny.own, c->length, c->n_piece, &out->ctx);
    out->ctx.owns_pools = true;
    for (int64_t p = 0; p < c->n_piece && !st; p++) {
        st = kv_alloc(tiny.be, m, tiny.be->act, c->length[p], "a piece", &out->ctx.pools[p]);
        piece_t piece = {.tokens = tokens + at, .n = c->length[p], .before = total, .pool = out->ctx.pools[p]};
        if (c->chain) piece.chain = chain, piece.n_chain = (int)p;
        if (!st) st = encoder_run(out->encoder, &piece, 1);
        chain[p] = out->ctx.pools[p];
        places[p] = (place_t){c->align, c->n_sink, c->length[p], reserve, total};
        total += c->length[p];
        at += c->length[p];
    }
    if (!st) st = context_places(&out->ctx, places);
    if (out->encoder) out->ctx.sink = *encoder_sink(out->encoder);
    out->ctx.query_position = c->n_sink + (c->chain ? total : reserve);
    out->n = at;
    return st;
}

/* Logits [QUERY][N_VOCAB]. copies > 1: the same query as often in every pass; the last one's logits. */
static status_t query_run(const context_t *k, const int32_t *tokens, const attend_spec_t *spec, int64_t max_row, int copies,
                          float *logits) {
    const model_config_t *m = model_config(tiny.model);
    attend_t *a = NULL;
    kv_pool_t own[3] = {{0}};
    int32_t ids[MAX_ROW];
    double positions[MAX_ROW];
    int64_t out_rows[MAX_ROW];
    status_t st = attend_create(tiny.model, tiny.own, &k->ctx, spec, max_row, copies, &a);
    for (int i = 0; i < copies && !st; i++) st = kv_alloc(tiny.be, m, tiny.be->act, QUERY, "the query", &own[i]);
    for (int64_t at = 0, n; at < QUERY && !st; at += n) {
        attend_query_t q[3];
        n = i64_min(max_row / copies, QUERY - at);
        for (int64_t r = 0; r < copies * n; r++) {
            ids[r] = tokens[k->n + at + r % n];
            positions[r] = (double)(k->ctx.query_position + at + r % n);
        }
        for (int64_t r = 0; r < n; r++) out_rows[r] = (copies - 1) * n + r;
        for (int i = 0; i < copies; i++) q[i] = (attend_query_t){.n = n, .own = own[i], .index = at};
        st = attend_forward(a, encoder_workspace(k->encoder), q, copies, ids, positions, n, out_rows, logits + at * N_VOCAB);
    }
    attend_free(a);
    for (int i = 0; i < copies; i++) kv_free(tiny.be, &own[i]);
    return st;
}

static status_t case_run(const case_t *c, const attend_spec_t *spec, int64_t max_row, int copies, float *logits) {
    const int32_t *tokens = (const void *)safetensors_find(ref, "tokens")->data;
    context_t k;
    status_t st = context_make(c, tokens, max_row, spec->by_rule, &k);
    if (!st) st = query_run(&k, tokens, spec, max_row, copies, logits);
    if (st) fprintf(stderr, "%s: %s\n", c->name, status_message());
    context_free(&k.ctx);
    encoder_free(k.encoder);
    return st;
}

/* Largest difference over the largest |logit|. */
static double error_of(const case_t *c, const float *got) {
    const tensor_t *t = safetensors_find(ref, c->name);
    return t && t->dims[0] == QUERY && t->dims[1] == N_VOCAB ? tiny_error(t, 0, QUERY, got, N_VOCAB) : INFINITY;
}

static void open_all(backend_create_t create, dtype_t act) {
    CU_ASSERT_EQUAL_FATAL(safetensors_open("tests/golden/tiny-window/golden.safetensors", &ref), ST_OK);
    CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, folder, create, act, 2, MAX_ROW), ST_OK);
}
static void close_all(void) {
    tiny_close(&tiny);
    safetensors_close(ref);
}

static void compare(backend_create_t create, dtype_t act, double tolerance) {
    static float got[QUERY * N_VOCAB];
    open_all(create, act);
    for (int i = 0; i < N_CASE; i++) {
        attend_spec_t spec = {.want_entropy = true, .want_mass = true};
        for (int rule = 0; rule < 2; rule++) {
            spec.by_rule = rule;
            CU_ASSERT_EQUAL(case_run(&cases[i], &spec, MAX_ROW, 1, got), ST_OK);
            double e = error_of(&cases[i], got);
            if (getenv("VERBOSE") || !(e < tolerance)) fprintf(stderr, "%s on %s: %g\n", cases[i].name, tiny.be->ops->name, e);
            CU_ASSERT(e < tolerance);
        }
    }
    close_all();
}

static void test_against_dense(void) {
    const backend_create_t *create = backends_tested();
    for (int b = 0; create[b]; b++) compare(create[b], DT_F32, 1e-4);
    compare(backend_tested, DT_BF16, 1e-2);
}

/* Passes of any size, and other queries beside it, change no bit; nor does a selection that keeps all. */
static void test_bits(void) {
    static float one[QUERY * N_VOCAB], two[QUERY * N_VOCAB];
    open_all(backend_tested, DT_F32);
    for (int i = 0; i < N_CASE; i++) {
        attend_spec_t spec = {.want_entropy = true};
        CU_ASSERT_EQUAL(case_run(&cases[i], &spec, MAX_ROW, 1, one), ST_OK);
        for (int64_t rows = 1; rows < 20; rows += 6)
            for (int copies = 1; copies <= 3 && copies <= rows; copies++) {
                CU_ASSERT_EQUAL(case_run(&cases[i], &spec, rows, copies, two), ST_OK);
                CU_ASSERT_EQUAL(memcmp(one, two, sizeof one), 0);
            }
        spec.select = cases[i].n_piece;
        CU_ASSERT_EQUAL(case_run(&cases[i], &spec, MAX_ROW, 1, two), ST_OK);
        CU_ASSERT_EQUAL(memcmp(one, two, sizeof one), 0);
    }
    close_all();
}

/* Selection chooses by what the window leaves of a piece: finite, and another answer. */
static void test_select(void) {
    static float one[QUERY * N_VOCAB], two[QUERY * N_VOCAB];
    open_all(backend_tested, DT_F32);
    attend_spec_t spec = {.want_entropy = true, .want_mass = true};
    CU_ASSERT_EQUAL(case_run(&cases[3], &spec, MAX_ROW, 1, one), ST_OK);
    for (int agg = AGG_NONE; agg <= AGG_BOTH; agg++) {
        double most = 0;
        spec.select = 2;
        spec.aggregate = (aggregate_t)agg;
        CU_ASSERT_EQUAL(case_run(&cases[3], &spec, MAX_ROW, 1, two), ST_OK);
        for (int i = 0; i < QUERY * N_VOCAB; i++) {
            CU_ASSERT(isfinite(two[i]));
            most = fmax(most, fabs((double)one[i] - (double)two[i]));
        }
        CU_ASSERT(most > 1e-5);
    }
    close_all();
}

UNIT_MAIN("window", {"against a dense mask", test_against_dense}, {"bits", test_bits}, {"select", test_select})
