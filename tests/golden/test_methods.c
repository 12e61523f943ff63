/* Logits of the neighbours (methods.md section 8) against make_methods.py: query rows through what `precis eval ppl` runs, all rows of a
 * text through what `precis logits` runs; the same bits in passes of any size. */
#include "golden/tiny.h"

#include <math.h>

#include "encode/sequence.h"
#include "eval/ppl.h"
#include "unit/store_fixture.h"

static const char *const folder = "tests/golden/tiny-llama", *const golden = "tests/golden/tiny-llama/golden-methods.safetensors";
enum { MAX_ROWS = 100, MAX_VOCAB = 160, N_QUERY = 17 };

typedef struct {
    const char *name;
    layout_method_t layout;
    int64_t pieces, segment; /* a window in pieces, or all rows in segments */
    int64_t n_sink;          /* of the prefix; PCW's is a BOS */
    int64_t n_stream, window;
    int64_t ratio, n_blank;
    bool compact;
    gist_init_t init;
    align_t align;
    double temperature, scale;
} case_t;

static const case_t cases[] = {
    {.name = "pce", .layout = LAYOUT_PCE, .pieces = 3, .n_sink = 3, .align = ALIGN_LEFT},
    {.name = "pcw", .layout = LAYOUT_PCW, .pieces = 3, .n_sink = 1, .align = ALIGN_LEFT},
    {.name = "structured", .layout = LAYOUT_STRUCTURED, .pieces = 3, .align = ALIGN_RIGHT},
    {.name = "structured_sink", .layout = LAYOUT_STRUCTURED, .pieces = 4, .n_sink = 3, .align = ALIGN_RIGHT},
    {.name = "ape", .layout = LAYOUT_APE, .pieces = 3, .n_sink = 3, .align = ALIGN_LEFT, .temperature = 0.9, .scale = 0.9},
    {.name = "ape_bare", .layout = LAYOUT_APE, .pieces = 4, .align = ALIGN_LEFT, .temperature = 0.5, .scale = 1.2},
    {.name = "block", .layout = LAYOUT_BLOCK, .pieces = 3, .align = ALIGN_LEFT},
    {.name = "block_sink", .layout = LAYOUT_BLOCK, .pieces = 4, .n_sink = 3, .align = ALIGN_LEFT},
    {.name = "star", .layout = LAYOUT_STAR, .pieces = 4},
    {.name = "star_sink", .layout = LAYOUT_STAR, .pieces = 3, .n_sink = 3},
    {.name = "star_rows", .layout = LAYOUT_STAR, .segment = 14, .n_sink = 3},
    {.name = "structured_rows", .layout = LAYOUT_STRUCTURED, .segment = 18, .n_sink = 3, .align = ALIGN_RIGHT},
    {.name = "block_rows", .layout = LAYOUT_BLOCK, .segment = 18, .align = ALIGN_LEFT},
    {.name = "coarse_rec_rows", .layout = LAYOUT_COARSE_REC, .segment = 18, .ratio = 4, .n_blank = 4},
    {.name = "coarse_rec_compact_rows",
     .layout = LAYOUT_COARSE_REC,
     .segment = 12,
     .ratio = 5,
     .n_sink = 3,
     .compact = true,
     .init = GIST_UNIT},
    {.name = "coarse_rec", .layout = LAYOUT_COARSE_REC, .pieces = 3, .ratio = 3, .n_blank = 2, .n_sink = 3},
    {.name = "coarse_rec_compact", .layout = LAYOUT_COARSE_REC, .pieces = 4, .ratio = 4, .n_blank = 1, .compact = true},
    {.name = "streaming", .layout = LAYOUT_STREAMING, .segment = 64, .n_stream = 4, .window = 12},
    {.name = "streaming_three", .layout = LAYOUT_STREAMING, .segment = 64, .n_stream = 3, .window = 7},
    {.name = "streaming_none", .layout = LAYOUT_STREAMING, .segment = 64, .window = 9},
    {.name = "streaming_all", .layout = LAYOUT_STREAMING, .segment = 64, .n_stream = 4, .window = 100},
};
enum { N_CASE = sizeof cases / sizeof *cases };

static safetensors_t *ref;
static tiny_t tiny;
static float got[MAX_ROWS * MAX_VOCAB], again[MAX_ROWS * MAX_VOCAB];

static const int32_t *ids(const char *name) { return (const void *)safetensors_find(ref, name)->data; }

static kept_t kept_of(const case_t *c) {
    const layout_info_t *info = layout_info(c->layout);
    return (kept_t){.gist = {.ratio = c->ratio, .window = c->window ? c->window : -1, .at_end = info->gists_at_end},
                    .init = c->init,
                    .n_blank = info->streams ? c->n_stream : c->n_blank,
                    .keep = info->gists ? KEEP_GIST : KEEP_RAW,
                    .recurrent = info->recurrent,
                    .compact = c->compact};
}

static status_t window_case(const case_t *c, const int32_t *sink, int64_t max_row, tiny_rows_t *rows) {
    ppl_row_t row;
    ppl_spec_t s = {
        .layout = c->layout,
        .kept = kept_of(c),
        .window = safetensors_find(ref, "tokens")->dims[0],
        .score = N_QUERY - 1,
        .sink = sink,
        .n_sink = c->n_sink,
        .align = c->align,
        .attend = {.own_log_p = layout_info(c->layout)->own_log_p, .temperature = c->temperature, .scale = c->scale, .want_entropy = true},
        .max_row = max_row,
        .rows = tiny_rows_take,
        .rows_ctx = rows};
    status_t st = ppl_run(tiny.model, tiny.own, &s, ids("tokens"), 1, i64_max(1, c->pieces), &row);
    CU_ASSERT(st || isnan(row.entropy) || (row.entropy >= 0 && row.entropy <= log(70)));
    return st;
}

static status_t rows_case(const case_t *c, const int32_t *sink, int64_t max_row, tiny_rows_t *rows) {
    sequence_spec_t s = {.layout = c->layout,
                         .kept = kept_of(c),
                         .all_rows = c->ratio > 0,
                         .sink = sink,
                         .n_sink = c->n_sink,
                         .align = c->align,
                         .segment = c->segment,
                         .max_row = max_row};
    return sequence_logits(tiny.model, tiny.own, &s, ids("tokens"), safetensors_find(ref, "tokens")->dims[0], tiny_rows_take, rows);
}

/* Rows that came, or 0 when something failed or a row came twice. */
static int64_t run_case(const case_t *c, bool window, int64_t max_row, float *to) {
    static const int32_t bos = 1;
    const int32_t *sink = layout_info(c->layout)->bos ? &bos : ids("prefix");
    tiny_rows_t rows = {.to = to, .room = MAX_ROWS, .width = model_config(tiny.model)->n_vocab};
    status_t st = (window ? window_case : rows_case)(c, sink, max_row, &rows);
    if (st) fprintf(stderr, "%s: %s\n", c->name, status_message());
    CU_ASSERT(tiny_rows_came(&rows, rows.n, 1));
    return st ? 0 : rows.n;
}

/* Largest difference over the largest |logit|; rows that came are the last ones of the golden's. */
static double error_of(const case_t *c, bool window, int64_t max_row) {
    const tensor_t *want = safetensors_find(ref, c->name);
    int64_t n = run_case(c, window, max_row, got);
    if (!want || (!window && n != want->dims[0])) return INFINITY;
    int64_t first = window && c->n_stream + c->window ? want->dims[0] - N_QUERY : 0;
    return tiny_error(want, first, n, got, model_config(tiny.model)->n_vocab);
}

static void open_all(backend_create_t create, dtype_t act, int n_threads) {
    CU_ASSERT_EQUAL_FATAL(safetensors_open(golden, &ref), ST_OK);
    CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, folder, create, act, n_threads, 8), ST_OK);
}

static void close_all(void) {
    tiny_close(&tiny);
    safetensors_close(ref);
}

static void test_golden(void) {
    const backend_create_t *create = backends_tested();
    for (int b = 0; create[b]; b++) {
        open_all(create[b], DT_F32, 2);
        for (int i = 0; i < N_CASE; i++)
            for (int window = 0; window < 2; window++) {
                if (window ? cases[i].segment && !cases[i].window : !cases[i].segment) continue;
                double e = error_of(&cases[i], window, MAX_ROWS);
                if (!(e < 1e-4)) fprintf(stderr, "%s on %s: %g\n", cases[i].name, tiny.be->ops->name, e);
                CU_ASSERT(e < 1e-4);
            }
        close_all();
    }
}

static void test_passes(void) {
    for (int act = 0; act < 2; act++) {
        open_all(backend_tested, act ? DT_BF16 : DT_F32, 2);
        for (int i = 0; i < N_CASE; i++)
            for (int window = 0; window < 2; window++) {
                if (window ? cases[i].segment && !cases[i].window : !cases[i].segment) continue;
                int64_t n = run_case(&cases[i], window, MAX_ROWS, got), v = model_config(tiny.model)->n_vocab;
                CU_ASSERT(n > 0);
                for (int64_t max_row = 1; max_row < 40; max_row += 12) {
                    CU_ASSERT_EQUAL(run_case(&cases[i], window, max_row, again), n);
                    bool same = memcmp(got, again, (size_t)(n * v) * sizeof *got) == 0;
                    if (!same) fprintf(stderr, "%s in passes of %lld\n", cases[i].name, (long long)max_row);
                    CU_ASSERT(same);
                }
            }
        close_all();
    }
}

/* Neighbours that must be something else in the limit. */
static void test_identities(void) {
    open_all(backend_tested, DT_F32, 2);
    int64_t v = model_config(tiny.model)->n_vocab, cells = (N_QUERY - 1) * v;
    case_t pce = {.name = "pce", .layout = LAYOUT_PCE, .pieces = 3, .n_sink = 3, .align = ALIGN_LEFT}, other = pce;
    run_case(&pce, true, MAX_ROWS, got);
    other.layout = LAYOUT_APE; /* T = S = 1 */
    other.temperature = other.scale = 1;
    run_case(&other, true, MAX_ROWS, again);
    for (int64_t i = 0; i < cells; i++) CU_ASSERT_DOUBLE_EQUAL(got[i], again[i], 1e-4);
    pce.pieces = other.pieces = 1;
    run_case(&pce, true, MAX_ROWS, got);
    static const layout_method_t same[] = {LAYOUT_STRUCTURED, LAYOUT_BLOCK, LAYOUT_STAR,
                                           LAYOUT_FULL}; /* one piece: nothing is left of them */
    for (int k = 0; k < 4; k++) {
        other = (case_t){.name = "one piece", .layout = same[k], .pieces = 1, .n_sink = 3, .align = ALIGN_LEFT};
        run_case(&other, true, MAX_ROWS, again);
        for (int64_t i = 0; i < cells; i++) CU_ASSERT_DOUBLE_EQUAL(got[i], again[i], 1e-4);
    }
    close_all();
}

/* ---- from a store -------------------------------------------------------------------------------------------------- */
static store_profile_t profile(void) {
    const model_config_t *c = model_config(tiny.model);
    store_profile_t p = {.n_layer = c->n_layer,
                         .n_kv_head = c->n_kv_head,
                         .d_head = c->d_head,
                         .n_vocab = c->n_vocab,
                         .segment = 16,
                         .kv_type = DT_F32,
                         .act = DT_F32};
    strcpy(p.model_name, "tiny");
    strcpy(p.model_fingerprint, "d9cdc8d5ef707dede548860863d0cfe0");
    strcpy(p.layout, "block");
    strcpy(p.align, "left");
    strcpy(p.backend, "cpu");
    return p;
}

/* Pieces 16, 16 and 15 tokens long, encoded where they would stand alone, into a store; the last rows of the text then query them. */
static status_t stored(const char *dir, encoder_t *e, store_t **store, context_kv_t *ctx) {
    const model_config_t *c = model_config(tiny.model);
    store_profile_t p = profile();
    const store_segment_t *segments[3];
    context_read_t how = {.kept = {.gist = {.window = -1}}, .verify = true, .joined = tiny.model};
    store_writer_t *w = NULL;
    kv_pool_t pool = {0};
    int64_t repaired;
    status_t st = store_prepare(dir, &p, &repaired);
    if (!st) st = store_writer_open(dir, &p, 0, &w);
    for (int64_t i = 0; i < 3 && !st; i++) {
        int64_t n = i < 2 ? 16 : 15;
        const int32_t *tokens = ids("tokens") + 16 * i;
        store_item_t item = {.address = store_address(&p, tokens, n, NULL), .n_token = n, .n_row = n, .tokens = tokens, .type = DT_F32};
        st = kv_alloc(tiny.be, c, DT_F32, n, "a piece", &pool);
        if (!st) st = encoder_run(e, &(piece_t){.tokens = tokens, .n = n, .pool = pool}, 1);
        void *k = st ? NULL : memory_copy(tiny.be, pool.k, kv_bytes(c, DT_F32, n)),
             *v = st ? NULL : memory_copy(tiny.be, pool.v, kv_bytes(c, DT_F32, n));
        item.k = k;
        item.v = v;
        if (!st) st = store_append(w, &item);
        if (!st) st = store_writer_wait(w);
        free(k);
        free(v);
        kv_free(tiny.be, &pool);
    }
    if (w) {
        status_t closed = store_writer_close(w);
        if (!st) st = closed;
    }
    if (!st) st = store_open(dir, false, store);
    for (int64_t i = 0; i < 3 && !st; i++)
        segments[i] = store_find(*store, store_address(&p, ids("tokens") + 16 * i, i < 2 ? 16 : 15, NULL));
    return st ? st : context_from_store(tiny.be, c, tiny.own, *store, segments, 3, &how, ctx);
}

static void test_joined(void) {
    char dir[FIX_PATH];
    encoder_t *e = NULL;
    store_t *store = NULL;
    context_kv_t ctx = {0};
    attend_t *a = NULL;
    kv_pool_t own = {0};
    double positions[N_QUERY], worst = 0;
    int64_t rows[N_QUERY];
    attend_spec_t spec = {.want_entropy = true};
    encoder_spec_t es = {.align = ALIGN_LEFT, .max_row = MAX_ROWS};
    open_all(backend_tested, DT_F32, 2);
    fix_dir(dir);
    const tensor_t *want = safetensors_find(ref, "block");
    CU_ASSERT_EQUAL_FATAL(encoder_create(tiny.model, tiny.own, &es, &e), ST_OK);
    CU_ASSERT_EQUAL_FATAL(stored(dir, e, &store, &ctx), ST_OK);
    CU_ASSERT_EQUAL_FATAL(attend_create(tiny.model, tiny.own, &ctx, &spec, MAX_ROWS, 1, &a), ST_OK);
    CU_ASSERT_EQUAL_FATAL(kv_alloc(tiny.be, model_config(tiny.model), DT_F32, N_QUERY, "the query", &own), ST_OK);
    for (int64_t i = 0; i < N_QUERY; i++) {
        positions[i] = (double)(47 + i);
        rows[i] = i;
    }
    attend_query_t q = {.n = N_QUERY, .own = own};
    CU_ASSERT_EQUAL(attend_forward(a, encoder_workspace(e), &q, 1, ids("tokens") + 47, positions, N_QUERY, rows, got), ST_OK);
    for (int64_t i = 0; i < want->dims[0]; i++)
        for (int64_t j = 0; j < want->dims[1]; j++) {
            float x;
            memcpy(&x, want->data + 4 * (i * want->dims[1] + j), 4);
            worst = fmax(worst, fabs((double)x - (double)got[i * model_config(tiny.model)->n_vocab + j]));
        }
    CU_ASSERT(worst < 58 * 1e-4);
    attend_free(a);
    context_free(&ctx);
    kv_free(tiny.be, &own);
    store_close(store);
    encoder_free(e);
    fix_remove(dir);
    close_all();
}

UNIT_MAIN("methods", {"against a dense mask", test_golden}, {"passes", test_passes}, {"limits", test_identities},
          {"joined from a store", test_joined})
