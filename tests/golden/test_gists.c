/* Logits of every layout with gists against an independent dense-mask implementation (make_gists.py), through what `precis logits` runs;
 * and the same bits however the rows are cut into passes, and on any number of threads. */
#include "golden/tiny.h"

#include <math.h>

#include "encode/sequence.h"
#include "unit.h"

static const char *const folder = "tests/golden/tiny-llama", *const golden = "tests/golden/tiny-llama/golden-gists.safetensors";
enum { ALL = -1, MAX_ROWS = 128, MAX_VOCAB = 160 };

typedef struct {
    const char *name;
    layout_method_t layout;
    int64_t segment, ratio, window, n_blank;
    bool text, compact;
    align_t align;
    gist_init_t init;
    int32_t token;
} case_t;

static const case_t cases[] = {
    {.name = "full", .layout = LAYOUT_FULL, .segment = 16},
    {.name = "pce", .layout = LAYOUT_PCE, .segment = 16, .text = true, .align = ALIGN_LEFT},
    {.name = "pce_even", .layout = LAYOUT_PCE, .segment = 16, .text = true, .align = ALIGN_EVEN},
    {.name = "pce_right", .layout = LAYOUT_PCE, .segment = 18, .text = true, .align = ALIGN_RIGHT},
    {.name = "pce_global", .layout = LAYOUT_PCE, .segment = 18, .text = true, .align = ALIGN_SEQUENTIAL},
    {.name = "pce_blank", .layout = LAYOUT_PCE, .segment = 16, .n_blank = 4, .align = ALIGN_LEFT},
    {.name = "blockgist_fine",
     .layout = LAYOUT_BLOCKGIST,
     .segment = 16,
     .ratio = 4,
     .window = ALL,
     .n_blank = 2,
     .text = true,
     .align = 1},
    {.name = "blockgist_window",
     .layout = LAYOUT_BLOCKGIST,
     .segment = 18,
     .ratio = 4,
     .window = 4,
     .init = GIST_UNIT,
     .text = true,
     .align = 1},
    {.name = "blockgist_even", .layout = LAYOUT_BLOCKGIST, .segment = 15, .ratio = 3, .init = GIST_TOKEN, .token = 7, .text = true},
    {.name = "blockgist_global",
     .layout = LAYOUT_BLOCKGIST,
     .segment = 18,
     .ratio = 4,
     .window = 8,
     .init = GIST_UNIT,
     .align = ALIGN_SEQUENTIAL},
    {.name = "blockgist_short", .layout = LAYOUT_BLOCKGIST, .segment = 6, .ratio = 5, .window = ALL, .n_blank = 1, .align = ALIGN_LEFT},
    {.name = "fine_kv", .layout = LAYOUT_FINE_KV, .segment = 18, .ratio = 4, .window = ALL, .n_blank = 4},
    {.name = "fine_kv_compact",
     .layout = LAYOUT_FINE_KV,
     .segment = 18,
     .ratio = 4,
     .window = ALL,
     .n_blank = 4,
     .compact = true,
     .init = GIST_UNIT},
    {.name = "fine_kv_short", .layout = LAYOUT_FINE_KV, .segment = 12, .ratio = 8, .window = ALL, .init = GIST_UNIT},
    {.name = "coarse_kv", .layout = LAYOUT_COARSE_KV, .segment = 18, .ratio = 4, .window = ALL, .n_blank = 4, .init = GIST_UNIT},
    {.name = "coarse_kv_compact", .layout = LAYOUT_COARSE_KV, .segment = 12, .ratio = 5, .window = ALL, .text = true, .compact = true},
    {.name = "unigist", .layout = LAYOUT_UNIGIST, .ratio = 4, .window = 8, .n_blank = 5},
    {.name = "unigist_unit", .layout = LAYOUT_UNIGIST, .ratio = 3, .window = 0, .n_blank = 2, .text = true, .init = GIST_UNIT},
    {.name = "unigist_wide", .layout = LAYOUT_UNIGIST, .ratio = 4, .window = 64, .n_blank = 2, .init = GIST_TOKEN, .token = 9},
    {.name = "unigist_one", .layout = LAYOUT_UNIGIST, .ratio = 1, .window = 2, .n_blank = 1, .init = GIST_UNIT},
    {.name = "unigist_short", .layout = LAYOUT_UNIGIST, .ratio = 64, .window = 64, .text = true},
};
enum { N_CASE = sizeof cases / sizeof *cases };

static safetensors_t *ref;
static tiny_t tiny;
static float got[MAX_ROWS * MAX_VOCAB], again[MAX_ROWS * MAX_VOCAB];

static sequence_spec_t spec_of(const case_t *c, int64_t max_row) {
    const tensor_t *sink = safetensors_find(ref, "text_sink");
    sequence_spec_t s = {.layout = c->layout, .align = c->align, .segment = c->segment, .max_row = max_row, .all_rows = true};
    s.kept = (kept_t){.gist = {.ratio = c->ratio, .window = c->ratio ? c->window : ALL, .at_end = layout_info(c->layout)->gists_at_end},
                      .init = c->init,
                      .token = c->token,
                      .n_blank = c->n_blank,
                      .compact = c->compact};
    if (c->text) s.sink = (const void *)sink->data, s.n_sink = sink->dims[0];
    return s;
}

/* Rows of the sequence, or 0 when something failed. */
static int64_t run_case(const sequence_spec_t *s, float *to) {
    const tensor_t *tokens = safetensors_find(ref, "tokens");
    tiny_rows_t r = {.to = to, .room = sequence_rows(s, tokens->dims[0]), .width = model_config(tiny.model)->n_vocab};
    status_t st = ST_FAIL;
    if (r.room <= MAX_ROWS) st = sequence_logits(tiny.model, tiny.own, s, (const void *)tokens->data, tokens->dims[0], tiny_rows_take, &r);
    if (st) fprintf(stderr, "%s\n", status_message());
    CU_ASSERT(tiny_rows_came(&r, r.room, 1));
    return st ? 0 : r.room;
}

static void open_all(backend_create_t create, int n_threads) {
    CU_ASSERT_EQUAL_FATAL(safetensors_open(golden, &ref), ST_OK);
    CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, folder, create, DT_F32, n_threads, 8), ST_OK);
}

static void close_all(void) {
    tiny_close(&tiny);
    safetensors_close(ref);
}

/* Largest difference over the largest |logit|. */
static double error_of(const case_t *c, int64_t max_row) {
    const tensor_t *want = safetensors_find(ref, c->name);
    sequence_spec_t s = spec_of(c, max_row);
    int64_t n = run_case(&s, got);
    return want && n == want->dims[0] ? tiny_error(want, 0, n, got, model_config(tiny.model)->n_vocab) : INFINITY;
}

static void test_against_dense(void) {
    const backend_create_t *create = backends_tested();
    for (int b = 0; create[b]; b++) {
        open_all(create[b], 2);
        for (int i = 0; i < N_CASE; i++) {
            double e = error_of(&cases[i], 64);
            if (!(e < 1e-4)) fprintf(stderr, "%s on %s: %g\n", cases[i].name, tiny.be->ops->name, e);
            CU_ASSERT(e < 1e-4);
        }
        close_all();
    }
}

/* Passes of any size, and raw rows alone, give the same bits. */
static void test_passes(void) {
    open_all(backend_tested, 2);
    for (int i = 0; i < N_CASE; i++) {
        sequence_spec_t s = spec_of(&cases[i], MAX_ROWS);
        int64_t n = run_case(&s, got), v = model_config(tiny.model)->n_vocab;
        CU_ASSERT(n > 0);
        for (s.max_row = 1; s.max_row < 40; s.max_row += 12) {
            CU_ASSERT_EQUAL(run_case(&s, again), n);
            CU_ASSERT_EQUAL(memcmp(got, again, (size_t)(n * v) * sizeof *got), 0);
        }
    }
    close_all();
}

static void test_threads(void) {
    hash_t first[N_CASE];
    for (int threads = 1; threads <= 3; threads++) {
        open_all(backend_tested, threads);
        for (int i = 0; i < N_CASE; i++) {
            sequence_spec_t s = spec_of(&cases[i], 13);
            int64_t n = run_case(&s, got);
            hash_t h = hash_bytes(got, (size_t)(n * model_config(tiny.model)->n_vocab) * sizeof *got);
            if (threads == 1) first[i] = h;
            CU_ASSERT(n > 0 && hash_equal(h, first[i]));
        }
        close_all();
    }
}

/* r = 1 gists with an infinite window: full attention over an interleaved sequence, whether its gists are eviction's or a segment's. */
static void test_ratio_one(void) {
    open_all(backend_tested, 2);
    int64_t v = model_config(tiny.model)->n_vocab;
    sequence_spec_t s = {.layout = LAYOUT_UNIGIST,
                         .kept = {.gist = {.ratio = 1, .window = 64}, .init = GIST_UNIT},
                         .max_row = 16,
                         .all_rows = true};
    int64_t n = run_case(&s, got);
    s.layout = LAYOUT_BLOCKGIST;
    s.kept.gist.window = ALL;
    s.segment = 64;
    s.align = ALIGN_LEFT;
    CU_ASSERT_EQUAL(run_case(&s, again), n);
    double worst = 0;
    for (int64_t i = 0; i < n * v; i++) worst = fmax(worst, fabs((double)got[i] - (double)again[i]));
    CU_ASSERT(n > 0 && worst < 1e-4);
    close_all();
}

UNIT_MAIN("gists", {"against a dense mask", test_against_dense}, {"passes", test_passes}, {"threads", test_threads},
          {"ratio one", test_ratio_one})
