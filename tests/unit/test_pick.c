/* Kept rows by head: what is chosen and packed, attention over pools that serve one head, and the scores against their definitions. */
#include "golden/tiny.h"

#include <math.h>

#include "base/rng.h"
#include "encode/kept.h"
#include "eval/ppl.h"
#include "unit.h"

enum { N = 150, LAYERS = 2, HEADS = 2, D = 16, Q_HEADS = 4, VOCAB = 160 };
static const char *const folder = "tests/golden/tiny-llama";
static tiny_t tiny;
static int32_t tokens[N];
static float score[LAYERS * HEADS * N], again[LAYERS * HEADS * N];
static uint8_t keep[LAYERS * HEADS * N];
static int32_t count[LAYERS * HEADS];

static void test_choose(void) {
    model_config_t c = {.n_layer = 1, .n_kv_head = 2};
    const float s[12] = {1, 5, 3, 5, 0, INFINITY, 9, 8, 7, 6, 5, 5};
    uint8_t k[12];
    CU_ASSERT_EQUAL(pick_choose(&c, BUDGET_UNIFORM, 2, 6, s, count, k), ST_OK);
    CU_ASSERT(count[0] == 2 && count[1] == 2 && k[5] && k[1] && !k[3] && k[6] && k[7]);
    CU_ASSERT_EQUAL(pick_choose(&c, BUDGET_HEAD, 3, 6, s, count, k), ST_OK); /* 6 of 12: inf 9 8 7 6, and the first 5 */
    CU_ASSERT(count[0] == 2 && count[1] == 4 && k[5] && k[1] && !k[3] && !k[10]);
    CU_ASSERT(pick_rows(4, 3) == 1 && pick_rows(4, 0) == 0 && pick_rows(4, 9) == 2);
}

static void segment_encode(encoder_t **e, piece_t *p, int64_t n_sink) {
    static const int32_t sink[] = {3, 1, 4, 1, 5, 9};
    rng_t r = {21};
    for (int i = 0; i < N; i++) tokens[i] = (int32_t)rng_below(&r, VOCAB);
    CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, folder, backend_tested, DT_F32, 2, 8), ST_OK);
    encoder_spec_t s = {.sink = sink, .n_sink = n_sink, .align = ALIGN_LEFT, .max_row = 256};
    CU_ASSERT_EQUAL_FATAL(encoder_create(tiny.model, tiny.own, &s, e), ST_OK);
    *p = (piece_t){.tokens = tokens, .n = N};
    CU_ASSERT_EQUAL_FATAL(kv_alloc(tiny.be, model_config(tiny.model), DT_F32, N, "rows", &p->pool), ST_OK);
    CU_ASSERT_EQUAL_FATAL(encoder_run(*e, p, 1), ST_OK);
}

static void segment_end(encoder_t *e, piece_t *p) {
    encoder_free(e);
    kv_free(tiny.be, &p->pool);
    tiny_close(&tiny);
}

static void scores(encoder_t *e, const piece_t *p, score_method_t method, int64_t max_row, float *out) {
    const int32_t repeat[] = {8, 9, 10};
    scorer_t *s = NULL;
    score_spec_t spec = {
        .method = method, .repeat = repeat, .n_repeat = 3, .align = ALIGN_LEFT, .reserve = N, .max_row = max_row, .max_tokens = N};
    CU_ASSERT_EQUAL_FATAL(scorer_create(tiny.model, e, &spec, &s), ST_OK);
    CU_ASSERT_EQUAL(scorer_run(s, p, out), ST_OK);
    scorer_free(s);
}

/* Every method: passes of any size agree, what always stays stays, probabilities are probabilities. */
static void test_scores(void) {
    for (int64_t n_sink = 0; n_sink < 7; n_sink += 6)
        for (int m = SCORE_KNORM; m <= SCORE_RECONSTRUCT; m++) {
            encoder_t *e;
            piece_t p;
            segment_encode(&e, &p, n_sink);
            scores(e, &p, (score_method_t)m, 256, score);
            scores(e, &p, (score_method_t)m, 37, again);
            CU_ASSERT_EQUAL(memcmp(score, again, sizeof score), 0);
            for (int i = 0; i < LAYERS * HEADS * N; i++) {
                bool first = !n_sink && i % N < SCORE_FIRST, last = m == SCORE_SNAPKV && i % N >= N - 64;
                CU_ASSERT_EQUAL(score[i] == INFINITY, first || last);
                if (m == SCORE_RECONSTRUCT) CU_ASSERT(first || (score[i] < 1e-4f && score[i] > -200));
                if (m == SCORE_EXPECTED) CU_ASSERT(first || (score[i] > 0 && score[i] < 100));
                if (m == SCORE_OBSERVED) CU_ASSERT(first || (score[i] >= 0 && score[i] <= 2.0001f));
            }
            segment_end(e, &p);
        }
}

/* Attention over packed rows is attention over those rows: with all of them kept, that over the segment, bit by bit; and both backends
 * agree. */
enum { ROWS = 3, N_O = ROWS * Q_HEADS * D, N_LSE = ROWS * Q_HEADS };
typedef struct {
    float q[N_O], o[N_O], lse[N_LSE];
} attended_t;

/* On a backend whose memory may be its own; q there already. */
static void attend_on(backend_t *be, attn_args_t a, attended_t *r) {
    void *dev;
    CU_ASSERT_EQUAL_FATAL(be->ops->alloc(be, sizeof *r, "rows", &dev), ST_OK);
    attended_t *there = dev;
    CU_ASSERT_EQUAL(be->ops->copy_in(be, there, r, sizeof *r), ST_OK);
    a.q = (char *)dev + offsetof(attended_t, q);
    a.o = (char *)dev + offsetof(attended_t, o);
    a.lse = (float *)(void *)((char *)dev + offsetof(attended_t, lse));
    CU_ASSERT_EQUAL(be->ops->attention(be, &a), ST_OK);
    CU_ASSERT_EQUAL(be->ops->copy_out(be, r, there, sizeof *r), ST_OK);
    be->ops->free(be, dev);
}

/* One layer, over the packed rows of all heads, or (whole) over the rows that were packed. */
static void attend_packed(backend_t *be, int layer, const kv_pool_t *packed, bool whole, attended_t *r) {
    const model_config_t *c = model_config(tiny.model);
    kv_pool_t parts[HEADS];
    span_t spans[HEADS];
    for (int h = 0; h < HEADS; h++) {
        parts[h] = whole ? *packed : pick_part(c, packed, count, layer, h);
        spans[h] = span_all(h, 0, parts[h].n_row);
    }
    int n = whole ? 1 : HEADS;
    run_t run = {.n = ROWS, .pool = -1, .n_span = n};
    attn_args_t a = {.layer = layer, .n_head = Q_HEADS, .n_kv_head = HEADS, .d_head = D, .scale = 0.25f, .n_row = ROWS};
    a.n_pool = a.n_span = n, a.n_run = a.n_block = 1, a.pools = parts, a.runs = &run, a.spans = spans;
    a.o_type = DT_F32;
    attend_on(be, a, r);
}

static void test_attention(void) {
    encoder_t *e;
    piece_t p;
    kv_pool_t packed;
    static attended_t got, want;
    backend_t *plain;
    rng_t r = {4};
    segment_encode(&e, &p, 6);
    const model_config_t *c = model_config(tiny.model);
    CU_ASSERT_EQUAL_FATAL(backend_create_cpu_ref(DT_F32, 1, &plain), ST_OK);
    scores(e, &p, SCORE_RECONSTRUCT, 64, score);
    for (int i = 0; i < N_O; i++) got.q[i] = want.q[i] = (float)rng_below(&r, 2000) / 1000 - 1;
    for (int ratio = 1; ratio <= 4; ratio += 3) {
        int64_t m = pick_rows(ratio, N);
        CU_ASSERT_EQUAL_FATAL(kv_alloc(tiny.be, c, DT_F32, m, "packed", &packed), ST_OK);
        CU_ASSERT_EQUAL(pick_choose(c, BUDGET_HEAD, m, N, score, count, keep), ST_OK);
        CU_ASSERT_EQUAL(pick_pack(tiny.be, c, N, m, keep, &p.pool, &packed), ST_OK);
        size_t bytes = kv_bytes(c, DT_F32, m);
        kv_pool_t host = kv_view(c, DT_F32, m, memory_copy(tiny.be, packed.k, bytes), memory_copy(tiny.be, packed.v, bytes));
        for (int layer = 0; layer < LAYERS; layer++) {
            attend_packed(tiny.be, layer, &packed, false, &got);
            attend_packed(plain, layer, &host, false, &want);
            for (int i = 0; i < N_O; i++) CU_ASSERT(fabsf(got.o[i] - want.o[i]) < 1e-4f);
            for (int i = 0; i < N_LSE; i++) CU_ASSERT(fabsf(got.lse[i] - want.lse[i]) < 1e-4f);
            if (ratio > 1) continue;
            attend_packed(tiny.be, layer, &p.pool, true, &want);
            CU_ASSERT(!memcmp(got.o, want.o, sizeof got.o) && !memcmp(got.lse, want.lse, sizeof got.lse));
        }
        free(host.k);
        free(host.v);
        kv_free(tiny.be, &packed);
    }
    plain->ops->destroy(plain);
    segment_end(e, &p);
}

/* Against the definitions, written out by make_scores.py. The scale of a score is of no matter, its order is: snapkv comes without its
 * divisors, reconstruct as a logarithm. */
static void test_golden(void) {
    static const char *const names[] = {"knorm", "snapkv", "observed", "expected", "reconstruct"};
    enum { n = 90 };
    safetensors_t *ref;
    encoder_t *e;
    piece_t p;
    CU_ASSERT_EQUAL_FATAL(safetensors_open("tests/golden/tiny-llama/golden-scores.safetensors", &ref), ST_OK);
    segment_encode(&e, &p, 6);
    p.tokens = (const void *)safetensors_find(ref, "tokens")->data;
    p.n = n;
    CU_ASSERT_EQUAL(encoder_run(e, &p, 1), ST_OK);
    for (int m = SCORE_KNORM; m <= SCORE_RECONSTRUCT; m++) {
        const tensor_t *want = safetensors_find(ref, names[m]);
        double worst = 0, scale = m == SCORE_SNAPKV     ? 64 * 5 * 2
                                  : m == SCORE_OBSERVED ? 2
                                                        : 1; /* query rows, neighbours, heads of a group */
        scorer_t *s = NULL;
        const int32_t repeat[] = {8, 9, 10};
        score_spec_t spec = {
            .method = (score_method_t)m, .repeat = repeat, .n_repeat = 3, .align = ALIGN_LEFT, .reserve = n, .max_row = 33};
        spec.max_tokens = n;
        CU_ASSERT_EQUAL_FATAL(scorer_create(tiny.model, e, &spec, &s), ST_OK);
        CU_ASSERT_EQUAL(scorer_run(s, &p, score), ST_OK);
        scorer_free(s);
        for (int i = 0; i < LAYERS * HEADS * n; i++) {
            float w;
            memcpy(&w, want->data + 4 * i, 4);
            double x = m == SCORE_RECONSTRUCT ? exp((double)score[i]) : (double)score[i] / scale, d = fabs(x - (double)w);
            if (m == SCORE_SNAPKV && i % n >= n - 64) continue;
            if (!(d <= worst)) worst = d;
        }
        if (!(worst < 1e-4)) fprintf(stderr, "%s: %g\n", names[m], worst);
        CU_ASSERT(worst < 1e-4);
    }
    safetensors_close(ref);
    segment_end(e, &p);
}

/* Lists of kept rows, there and back; and none that is not of that form. */
static void test_list(void) {
    model_config_t c = {.n_layer = 2, .n_kv_head = 2};
    static const uint8_t k[2 * 2 * 5] = {0, 1, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1, 0};
    uint8_t back[sizeof k];
    int32_t list[8], n[4];
    pick_list(&c, 2, 5, k, list);
    CU_ASSERT(list[0] == 1 && list[1] == 3 && list[2] == 4 && list[3] == 9 && list[4] == 0 && list[5] == 5 && list[6] == 6 && list[7] == 8);
    CU_ASSERT_EQUAL(pick_unlist(&c, 2, 5, list, n, back), ST_OK);
    CU_ASSERT(!memcmp(back, k, sizeof k) && n[0] == 3 && n[1] == 1 && n[2] == 1 && n[3] == 3);
    CU_ASSERT_EQUAL(pick_unlist(&c, 2, 5, list, n, NULL), ST_OK);
    for (int i = 0; i < 8; i++)
        for (int bad = 0; bad < 3; bad++) {
            int32_t was = list[i];
            list[i] = bad == 0 ? -1 : bad == 1 ? 10 : i ? list[i - 1] : 3;
            if (i % 4 || bad < 2) CU_ASSERT_EQUAL(pick_unlist(&c, 2, 5, list, n, back), ST_INPUT);
            list[i] = was;
        }
}

static void test_text(void) {
    static const char *const good[] = {"ratio 4 score reconstruct budget head keep gist", "ratio 16 score knorm budget uniform keep both",
                                       "ratio 2 score expected budget head init mean keep gist sinks 4",
                                       "ratio 8 window all init mean keep both", "init 7 keep raw sinks 2"};
    static const char *const bad[] = {"score knorm keep gist",
                                      "ratio 4 score none keep gist",
                                      "ratio 4 score knorm budget all keep gist",
                                      "ratio 0 score knorm budget head keep gist",
                                      "ratio 4 score",
                                      "keep some"};
    kept_t kept;
    char text[96];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CU_ASSERT(kept_parse(good[i], &kept));
        kept_text(&kept, text, sizeof text);
        CU_ASSERT_STRING_EQUAL(text, good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CU_ASSERT(!kept_parse(bad[i], &kept));
    CU_ASSERT(kept_parse(good[0], &kept));
    CU_ASSERT(kept_rows(&kept, 90) == 22 && kept_picked(&kept, 90) == 22 && kept_picked(&kept, 3) == 1 && kept.gist.ratio == 0);
    CU_ASSERT(kept_parse(good[1], &kept) && kept_rows(&kept, 90) == 90 && kept_picked(&kept, 90) == 5);
}

/* What a query makes of kept rows, through what `precis eval ppl` runs, against a dense mask of each head. */
enum { QUERY_ROWS = 16, WINDOW = 2 * 90 + QUERY_ROWS + 1 };
static float logits[QUERY_ROWS * VOCAB];
static status_t take_logits(void *ctx, int64_t at, int64_t n, const float *y) {
    (void)ctx;
    memcpy(logits + at * VOCAB, y, (size_t)(n * VOCAB) * sizeof *y);
    return ST_OK;
}

static void query_against(safetensors_t *ref, const char *name, score_method_t by, budget_t budget, int64_t max_row) {
    static const int32_t sink[] = {3, 1, 4, 1, 5, 9}, repeat[] = {8, 9, 10};
    const tensor_t *want = safetensors_find(ref, name), *window = safetensors_find(ref, "window");
    ppl_spec_t s = {.layout = LAYOUT_BLOCKSELECT,
                    .kept = {.gist = {.window = -1}, .keep = KEEP_GIST, .select = {by, budget, 4}},
                    .repeat = repeat,
                    .n_repeat = 3,
                    .window = WINDOW,
                    .score = QUERY_ROWS,
                    .sink = sink,
                    .n_sink = 6,
                    .align = ALIGN_EVEN,
                    .max_row = max_row,
                    .rows = take_logits};
    ppl_row_t row;
    double worst = 0, most = 0;
    CU_ASSERT_EQUAL_FATAL(want && window && want->dims[0] == QUERY_ROWS && want->dims[1] == VOCAB && window->dims[0] == WINDOW, true);
    CU_ASSERT_EQUAL_FATAL(ppl_run(tiny.model, tiny.own, &s, (const void *)window->data, 1, 2, &row), ST_OK);
    for (int i = 0; i < QUERY_ROWS * VOCAB; i++) {
        float w;
        memcpy(&w, want->data + 4 * i, 4);
        worst = fmax(worst, fabs((double)w - (double)logits[i]));
        most = fmax(most, fabs((double)w));
    }
    if (!(worst < 1e-4 * most)) fprintf(stderr, "%s: %g\n", name, worst / most);
    CU_ASSERT(worst < 1e-4 * most);
    CU_ASSERT_EQUAL(row.kv_bytes, (6 + 2 * 22) * 2 * LAYERS * HEADS * D * 4);
    CU_ASSERT_EQUAL(row.move_bytes, 0);
}

static void test_query(void) {
    safetensors_t *ref;
    CU_ASSERT_EQUAL_FATAL(safetensors_open("tests/golden/tiny-llama/golden-scores.safetensors", &ref), ST_OK);
    const backend_create_t *create = backends_tested();
    for (int b = 0; create[b]; b++) {
        CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, folder, create[b], DT_F32, 2, 8), ST_OK);
        query_against(ref, "query_reconstruct_head", SCORE_RECONSTRUCT, BUDGET_HEAD, 64);
        query_against(ref, "query_observed_uniform", SCORE_OBSERVED, BUDGET_UNIFORM, 13);
        tiny_close(&tiny);
    }
    safetensors_close(ref);
}

UNIT_MAIN("pick", {"choose", test_choose}, {"scores", test_scores}, {"attention", test_attention}, {"golden", test_golden},
          {"list", test_list}, {"text", test_text}, {"query", test_query})
