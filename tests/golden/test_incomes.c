/* Queries over a pool of edits against a direct transcription of the method (make_incomes.py): edits are encoded, stored, read back and
 * attended; the same bits in passes of any size, and when the store is written in another order of batches. */
#include "golden/tiny.h"

#include <math.h>

#include "encode/kept.h"
#include "model/adapter.h"
#include "query/edits.h"
#include "unit/store_fixture.h"

#define FOLDER "tests/golden/tiny-llama"
static const char *const golden = FOLDER "/golden-incomes.safetensors", *const own = FOLDER "/adapter-edits.safetensors";
enum { MAX_EDIT = 80, MAX_QUERY = 16, MAX_VOCAB = 160, BOS = 1 };

typedef struct {
    const char *name, *adapter;
    int n, again_from, again_to; /* edits 0 .. n-1, then some of them once more */
} case_t;

static const case_t cases[] = {
    {"few", own, 5, 0, 0}, {"ten", own, 10, 0, 0}, {"many", own, 70, 0, 0}, {"twice", own, 6, 2, 5}, {"plain", NULL, 13, 0, 0}};
enum { N_CASE = sizeof cases / sizeof *cases };

static safetensors_t *ref;
static tiny_t tiny;
static adapter_t *adapter;
static char dir[FIX_PATH];
static int32_t tokens[MAX_EDIT][8];
static float got[MAX_QUERY * MAX_VOCAB], again[MAX_QUERY * MAX_VOCAB];

static int edit_length(int e) { return 3 + e % 5; }

static void open_all(const char *path, backend_create_t create, dtype_t act) {
    CU_ASSERT_EQUAL_FATAL(safetensors_open(golden, &ref), ST_OK);
    CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, FOLDER, create, act, 2, 8), ST_OK);
    CU_ASSERT_EQUAL_FATAL(adapter_open(path, tiny.file, &adapter), ST_OK);
    CU_ASSERT_EQUAL_FATAL(tiny_adapt(&tiny, adapter, MAX_QUERY), ST_OK);
    for (int e = 0; e < MAX_EDIT; e++)
        for (int i = 0; i < edit_length(e); i++) tokens[e][i] = (e * 31 + i * 17 + 2) % (int)model_config(tiny.model)->n_vocab;
    fix_dir(dir);
}

static void close_all(void) {
    fix_remove(dir);
    tiny_close(&tiny);
    adapter_free(adapter);
    safetensors_close(ref);
}

static store_profile_t profile(void) {
    static const int32_t bos = BOS;
    const model_config_t *c = model_config(tiny.model);
    store_profile_t p = {.n_layer = kv_upper_layers(c),
                         .n_kv_head = c->n_kv_head,
                         .d_head = c->d_head,
                         .n_vocab = c->n_vocab,
                         .segment = 64,
                         .n_sink = 1,
                         .sink = &bos,
                         .kv_type = DT_F32,
                         .act = tiny.be->act};
    strcpy(p.model_name, "tiny");
    strcpy(p.model_fingerprint, "d9cdc8d5ef707dede548860863d0cfe0");
    strcpy(p.layout, "incomes");
    strcpy(p.align, "left");
    strcpy(p.backend, "cpu");
    return p;
}

/* Edits first .. first+n-1 through one encoder, each into its place of the store. */
static status_t edits_store(int n, int64_t max_row) {
    const model_config_t *c = model_config(tiny.model);
    store_profile_t p = profile();
    kept_t kept = {.gist = {.ratio = 1, .window = -1, .at_end = true, .single = true},
                   .init = adapter ? GIST_ADAPTER : GIST_MEAN,
                   .keep = KEEP_GIST};
    encoder_spec_t es = {.sink = p.sink, .n_sink = 1, .align = ALIGN_LEFT, .max_row = max_row, .gist = kept.gist, .gist_init = kept.init};
    encoder_t *e = NULL;
    store_writer_t *w = NULL;
    kv_pool_t raw = {0}, gists[MAX_EDIT] = {{0}};
    piece_t pieces[MAX_EDIT];
    char *k[MAX_EDIT] = {0}, *v[MAX_EDIT] = {0};
    int64_t repaired;
    status_t st = store_prepare(dir, &p, &repaired);
    if (!st) st = store_writer_open(dir, &p, 0, &w);
    if (!st) st = encoder_create(tiny.model, tiny.own, &es, &e);
    if (!st) st = kv_alloc(tiny.be, c, tiny.be->act, 8 * n, "raw rows", &raw);
    for (int i = 0; i < n && !st; i++) {
        st = kv_alloc(tiny.be, c, tiny.be->act, 1, "a gist", &gists[i]);
        pieces[i] =
            (piece_t){.tokens = tokens[i], .n = edit_length(i), .pool = kept_part(&raw, 8 * i, edit_length(i)), .gist_pool = gists[i]};
    }
    if (!st) st = encoder_run(e, pieces, n);
    size_t below = kv_bytes(c, tiny.be->act, 1) / (size_t)c->n_layer * (size_t)(c->n_layer - p.n_layer);
    for (int i = 0; i < n && !st; i++) {
        if ((st = kept_remember(&kept, e, tiny.model, &pieces[i]))) break;
        k[i] = memory_copy(tiny.be, gists[i].k, kv_bytes(c, tiny.be->act, 1));
        v[i] = memory_copy(tiny.be, gists[i].v, kv_bytes(c, tiny.be->act, 1));
        store_item_t item = {.address = store_address(&p, tokens[i], edit_length(i), NULL),
                             .n_token = edit_length(i),
                             .n_row = 1,
                             .tokens = tokens[i],
                             .type = tiny.be->act,
                             .k = k[i] + below,
                             .v = v[i] + below};
        st = store_append(w, &item);
    }
    if (w && !st) st = store_writer_wait(w);
    if (w) {
        status_t closed = store_writer_close(w);
        if (!st) st = closed;
    }
    for (int i = 0; i < n; i++) {
        kv_free(tiny.be, &gists[i]);
        free(k[i]);
        free(v[i]);
    }
    kv_free(tiny.be, &raw);
    encoder_free(e);
    return st;
}

static status_t ask(const case_t *c, int64_t max_row, float *logits) {
    const tensor_t *query = safetensors_find(ref, "query");
    const int32_t *ids = (const void *)query->data;
    const store_segment_t *list[2 * MAX_EDIT];
    store_profile_t p = profile();
    store_t *store = NULL;
    context_kv_t ctx = {0};
    attend_t *a = NULL;
    kv_pool_t own_rows = {0};
    double positions[MAX_QUERY];
    int64_t rows[MAX_QUERY], n = 0, Q = query->dims[0];
    status_t st = store_open(dir, false, &store);
    for (int i = 0; i < c->n + c->again_to - c->again_from && !st; i++) {
        int e = i < c->n ? i : c->again_from + i - c->n;
        list[n++] = store_find(store, store_address(&p, tokens[e], edit_length(e), NULL));
        CU_ASSERT_PTR_NOT_NULL_FATAL(list[n - 1]);
    }
    if (!st) st = edits_unique(list, &n);
    CU_ASSERT_EQUAL(n, c->n);
    if (!st) st = edits_open(tiny.model, tiny.own, store, list, n, true, &ctx);
    attend_spec_t spec = edits_attend(model_config(tiny.model), n, 0);
    if (!st) st = attend_create(tiny.model, tiny.own, &ctx, &spec, max_row, 1, &a);
    if (!st) st = kv_alloc(tiny.be, model_config(tiny.model), tiny.be->act, Q, "the query", &own_rows);
    for (int64_t at = 0; at < Q && !st; at += max_row) {
        attend_query_t q = {.n = i64_min(max_row, Q - at), .own = own_rows, .index = at};
        for (int64_t i = 0; i < q.n; i++) {
            positions[i] = (double)(at + i);
            rows[i] = i;
        }
        st = attend_forward(a, tiny.ws, &q, 1, ids + at, positions, q.n, rows, logits + at * model_config(tiny.model)->n_vocab);
        CU_ASSERT(q.entropy >= 0 && q.entropy <= log((double)Q));
    }
    if (st) fprintf(stderr, "%s: %s\n", c->name, status_message());
    attend_free(a);
    context_free(&ctx);
    kv_free(tiny.be, &own_rows);
    store_close(store);
    return st;
}

static double error_of(const case_t *c) {
    const tensor_t *want = safetensors_find(ref, c->name);
    return want ? tiny_error(want, 0, want->dims[0], got, model_config(tiny.model)->n_vocab) : INFINITY;
}

static void test_golden(void) {
    const backend_create_t *create = backends_tested();
    for (int b = 0; create[b]; b++)
        for (int i = 0; i < N_CASE; i++) {
            open_all(cases[i].adapter, create[b], DT_F32);
            CU_ASSERT_EQUAL(edits_store(cases[i].n, 32), ST_OK);
            CU_ASSERT_EQUAL(ask(&cases[i], MAX_QUERY, got), ST_OK);
            double e = error_of(&cases[i]);
            if (!(e < 1e-4)) fprintf(stderr, "%s on %s: %g\n", cases[i].name, tiny.be->ops->name, e);
            CU_ASSERT(e < 1e-4);
            close_all();
        }
}

static void test_passes(void) {
    for (int act = 0; act < 2; act++)
        for (int i = 0; i < N_CASE; i++) {
            open_all(cases[i].adapter, backend_tested, act ? DT_BF16 : DT_F32);
            CU_ASSERT_EQUAL(edits_store(cases[i].n, 300), ST_OK);
            CU_ASSERT_EQUAL(ask(&cases[i], MAX_QUERY, got), ST_OK);
            CU_ASSERT(error_of(&cases[i]) < 0.1);
            fix_empty(dir);
            CU_ASSERT_EQUAL(edits_store(cases[i].n, 9), ST_OK);
            for (int64_t max_row = 1; max_row < 12; max_row += 5) {
                CU_ASSERT_EQUAL(ask(&cases[i], max_row, again), ST_OK);
                CU_ASSERT_EQUAL(memcmp(got, again, (size_t)(12 * model_config(tiny.model)->n_vocab) * sizeof *got), 0);
            }
            close_all();
        }
}

UNIT_MAIN("incomes", {"golden", test_golden}, {"passes", test_passes})
