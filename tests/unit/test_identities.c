/* What every implementation must satisfy (methods.md section 9), on a tiny model through the real encoder, context and attention hook. */
#include "golden/tiny.h"

#include <math.h>

#include "base/rng.h"
#include "encode/encoder.h"
#include "query/attend.h"
#include "unit.h"

enum { MAX_TOKEN = 96, MAX_PIECE = 8 };
static const char *const folder = "tests/golden/tiny-llama";

typedef struct {
    int64_t n_sink, n_piece, length[MAX_PIECE], n_query;
    align_t align;
    attend_spec_t attend;
    int64_t max_row; /* of a pass: cuts pieces and the query into chunks */
    bool reversed;   /* pieces in the opposite order */
} setting_t;

static void token_fill(int32_t *t, int64_t n, int64_t n_vocab) {
    rng_t r = {42};
    for (int64_t i = 0; i < n; i++) t[i] = (int32_t)rng_below(&r, n_vocab);
}

/* Logits [n_query][n_vocab] of the query rows behind sink and pieces (all cut from one token sequence); returns the mean entropy, NaN when
 * something failed. */
static double pce(tiny_t *t, const setting_t *s, float *logits) {
    const model_config_t *c = model_config(t->model);
    int32_t tokens[MAX_TOKEN], query[MAX_TOKEN];
    double positions[MAX_TOKEN], entropy = 0;
    int64_t rows[MAX_PIECE], out_rows[MAX_TOKEN], at = s->n_sink;
    piece_t pieces[MAX_PIECE];
    kv_pool_t own = {0};
    encoder_t *e = NULL;
    attend_t *a = NULL;
    context_kv_t ctx = {0};
    token_fill(tokens, MAX_TOKEN, c->n_vocab);
    int64_t reserve = layout_reserve(RESERVE_MAX, s->length, s->n_piece);
    encoder_spec_t es = {
        .sink = tokens, .n_sink = s->n_sink, .align = s->align, .reserve = reserve, .max_row = s->max_row, .by_rule = s->attend.by_rule};
    status_t st = encoder_create(t->model, t->own, &es, &e);
    for (int64_t p = 0; p < s->n_piece; p++) {
        int64_t to = s->reversed ? s->n_piece - 1 - p : p;
        pieces[to] = (piece_t){.tokens = tokens + at, .n = s->length[p], .before = at - s->n_sink};
        rows[to] = s->length[p];
        at += s->length[p];
    }
    if (!st) st = context_deal(t->be, t->own, rows, s->n_piece, &ctx);
    ctx.owns_pools = true;
    for (int64_t p = 0; !st && p < s->n_piece; p++) {
        st = kv_alloc(t->be, c, t->be->act, rows[p], "a piece", &ctx.pools[p]);
        pieces[p].pool = ctx.pools[p];
    }
    if (!st) st = encoder_run(e, pieces, (int)s->n_piece);
    if (!st) st = kv_alloc(t->be, c, t->be->act, s->n_query, "the query", &own);
    if (st) goto out;
    ctx.sink = *encoder_sink(e);
    ctx.query_position = s->n_sink + reserve;
    st = attend_create(t->model, t->own, &ctx, &s->attend, s->max_row, 1, &a);
    for (int64_t from = 0; from < s->n_query && !st;) {
        int64_t n = i64_min(s->max_row, s->n_query - from);
        for (int64_t i = 0; i < n; i++) {
            query[i] = tokens[at + from + i];
            positions[i] = (double)(ctx.query_position + from + i);
            out_rows[i] = i;
        }
        attend_query_t q = {.n = n, .own = own, .index = from};
        st = attend_forward(a, encoder_workspace(e), &q, 1, query, positions, n, out_rows, logits + from * c->n_vocab);
        entropy += q.entropy * (double)n / (double)s->n_query;
        from += n;
    }
out:
    if (st) fprintf(stderr, "%s\n", status_message());
    attend_free(a);
    context_free(&ctx);
    kv_free(t->be, &own);
    encoder_free(e);
    return st ? (double)NAN : entropy;
}

static double largest_difference(const float *a, const float *b, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d;
    }
    return worst;
}

static tiny_t tiny;
static float one[MAX_TOKEN * 256], two[MAX_TOKEN * 256];
static const attend_spec_t plain = {.want_entropy = true};

static void open_tiny(dtype_t act) { CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, folder, backend_tested, act, 2, MAX_TOKEN), ST_OK); }
static int64_t cells(int64_t n) { return n * model_config(tiny.model)->n_vocab; }

/* P = 1 without a sink is full attention, and so is a document in front of a query fed as one text. */
static void test_one_piece_is_full(void) {
    open_tiny(DT_F32);
    setting_t s = {.n_piece = 1, .length = {40}, .n_query = 20, .attend = plain, .max_row = MAX_TOKEN};
    int32_t tokens[MAX_TOKEN];
    token_fill(tokens, MAX_TOKEN, model_config(tiny.model)->n_vocab);
    double h = pce(&tiny, &s, one);
    CU_ASSERT_EQUAL(tiny_feed(&tiny, tokens, 60, two), ST_OK);
    CU_ASSERT(largest_difference(one, two + cells(40), cells(20)) < 1e-4);
    CU_ASSERT(h >= 0 && h <= log(60));
    tiny_close(&tiny);
}

/* A sink's K/V are those of its text encoded as a document of its own, bit for bit: the way to them that the format of stores names. */
static void test_sink_is_a_text(void) {
    int32_t tokens[MAX_TOKEN];
    for (int bf16 = 0; bf16 < 2; bf16++) {
        encoder_t *behind = NULL, *alone = NULL;
        open_tiny(bf16 ? DT_BF16 : DT_F32);
        token_fill(tokens, MAX_TOKEN, model_config(tiny.model)->n_vocab);
        encoder_spec_t es = {.sink = tokens, .n_sink = 37, .reserve = 64, .max_row = 64},
                       none = {.align = ALIGN_LEFT, .reserve = 64, .max_row = 16};
        piece_t text = {.tokens = tokens, .n = 37};
        CU_ASSERT_EQUAL_FATAL(encoder_create(tiny.model, tiny.own, &es, &behind), ST_OK);
        CU_ASSERT_EQUAL_FATAL(encoder_create(tiny.model, tiny.own, &none, &alone), ST_OK);
        CU_ASSERT_EQUAL_FATAL(kv_alloc(tiny.be, model_config(tiny.model), tiny.be->act, 37, "the sink's text", &text.pool), ST_OK);
        CU_ASSERT_EQUAL(encoder_run(alone, &text, 1), ST_OK);
        const kv_pool_t *sink = encoder_sink(behind);
        size_t bytes = kv_bytes(model_config(tiny.model), tiny.be->act, 37); /* of K, or V */
        CU_ASSERT_EQUAL(sink->n_row, 37);
        CU_ASSERT(memory_equal(tiny.be, sink->k, tiny.be, text.pool.k, bytes) &&
                  memory_equal(tiny.be, sink->v, tiny.be, text.pool.v, bytes));
        kv_free(tiny.be, &text.pool);
        encoder_free(behind);
        encoder_free(alone);
        tiny_close(&tiny);
    }
}

static void test_select_all_is_naive(void) {
    open_tiny(DT_F32);
    setting_t s = {
        .n_sink = 3, .n_piece = 4, .length = {11, 7, 11, 9}, .n_query = 12, .align = ALIGN_EVEN, .attend = plain, .max_row = MAX_TOKEN};
    double h1 = pce(&tiny, &s, one);
    s.attend.select = 4;
    double h2 = pce(&tiny, &s, two);
    CU_ASSERT_EQUAL(memcmp(one, two, sizeof(float) * (size_t)cells(12)), 0);
    CU_ASSERT(h1 == h2);
    for (int agg = AGG_NONE; agg <= AGG_BOTH;
         agg++) { /* fewer pieces is another answer, with lower entropy than that over all keys could have */
        s.attend.select = 2;
        s.attend.aggregate = (aggregate_t)agg;
        double h = pce(&tiny, &s, two);
        CU_ASSERT(h >= 0 && h <= log(3 + 22 + 12));
        CU_ASSERT(largest_difference(one, two, cells(12)) > 1e-6);
    }
    tiny_close(&tiny);
}

static void test_equal_pieces(void) { /* even = left; and the order of pieces does not matter to naive PCE */
    open_tiny(DT_F32);
    setting_t s = {
        .n_sink = 2, .n_piece = 4, .length = {10, 10, 10, 10}, .n_query = 9, .align = ALIGN_EVEN, .attend = plain, .max_row = MAX_TOKEN};
    pce(&tiny, &s, one);
    s.align = ALIGN_LEFT;
    pce(&tiny, &s, two);
    CU_ASSERT_EQUAL(memcmp(one, two, sizeof(float) * (size_t)cells(9)), 0);
    s.reversed = true;
    pce(&tiny, &s, two);
    CU_ASSERT(largest_difference(one, two, cells(9)) < 1e-4);
    s.length[3] = 6; /* unequal pieces: even is not left */
    s.reversed = false;
    pce(&tiny, &s, one);
    s.align = ALIGN_EVEN;
    pce(&tiny, &s, two);
    CU_ASSERT(largest_difference(one, two, cells(9)) > 1e-5);
    tiny_close(&tiny);
}

/* Passes of any size give the same bits, in both number types. */
static void test_chunks(void) {
    for (int act = 0; act < 2; act++) {
        open_tiny(act ? DT_BF16 : DT_F32);
        setting_t s = {
            .n_sink = 5, .n_piece = 3, .length = {17, 8, 13}, .n_query = 11, .align = ALIGN_EVEN, .attend = plain, .max_row = MAX_TOKEN};
        for (int sel = 0; sel < 2; sel++) {
            s.attend.select = sel;
            s.max_row = MAX_TOKEN;
            double h = pce(&tiny, &s, one);
            CU_ASSERT(h == h);
            for (s.max_row = 1; s.max_row < 20; s.max_row += 5) {
                pce(&tiny, &s, two);
                CU_ASSERT_EQUAL(memcmp(one, two, sizeof(float) * (size_t)cells(11)), 0);
            }
        }
        tiny_close(&tiny);
    }
}

/* The reference switch: visibility by the rule, key by key, gives what the spans give. */
static void test_rule(void) {
    open_tiny(DT_F32);
    setting_t s = {.n_sink = 4, .n_piece = 4, .length = {9, 12, 1, 5}, .n_query = 10, .align = ALIGN_EVEN, .attend = plain, .max_row = 16};
    for (int sel = 0; sel < 3; sel += 2) {
        s.attend.select = sel;
        s.attend.by_rule = false;
        double h = pce(&tiny, &s, one);
        s.attend.by_rule = true;
        CU_ASSERT_DOUBLE_EQUAL(pce(&tiny, &s, two), h, 1e-5);
        CU_ASSERT(largest_difference(one, two, cells(10)) < 1e-5);
    }
    tiny_close(&tiny);
}

/* Structured prompting and APE over chosen segments: where their weights are one, they are PCE over the same choice; elsewhere they are
 * not. */
static void test_select_reweighed(void) {
    open_tiny(DT_F32);
    setting_t s = {.n_sink = 3, .n_piece = 4, .length = {9, 12, 7, 5}, .n_query = 10, .attend = plain, .max_row = MAX_TOKEN};
    for (int agg = AGG_NONE; agg <= AGG_BOTH; agg++) {
        attend_spec_t choice = plain;
        choice.aggregate = (aggregate_t)agg;
        for (choice.select = 1; choice.select < 4; choice.select += 2) {
            attend_spec_t structured = choice, ape = choice, warm = choice;
            structured.own_log_p = true;
            ape.temperature = ape.scale = 1;
            warm.temperature = 0.8, warm.scale = 0.9;
            s.attend = choice;
            double h = pce(&tiny, &s, one);
            s.attend = ape;
            CU_ASSERT_DOUBLE_EQUAL(pce(&tiny, &s, two), h, 1e-5);
            CU_ASSERT(largest_difference(one, two, cells(10)) < 1e-4);
            s.attend = warm;
            pce(&tiny, &s, two);
            CU_ASSERT(largest_difference(one, two, cells(10)) > 1e-2);
            s.attend = structured; /* ln 1 = 0 */
            double own = pce(&tiny, &s, two), apart = largest_difference(one, two, cells(10));
            CU_ASSERT(choice.select == 1 ? apart < 1e-4 && fabs(own - h) < 1e-5 : apart > 1e-2);
        }
    }
    tiny_close(&tiny);
}

UNIT_MAIN("identities", {"one piece is full attention", test_one_piece_is_full}, {"a sink is a text", test_sink_is_a_text},
          {"selecting all is naive", test_select_all_is_naive}, {"equal pieces", test_equal_pieces}, {"chunks", test_chunks},
          {"rule", test_rule}, {"selection with other weights", test_select_reweighed})
