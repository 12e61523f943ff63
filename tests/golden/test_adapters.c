/* Adapters: golden logits of layouts that use one (make_adapters.py), the same bits in passes of any size, a quantised base with its rows
 * in another order, and files that must be refused. */
#include "golden/tiny.h"

#include <math.h>

#include "base/rng.h"
#include "encode/sequence.h"
#include "io/file.h"
#include "model/adapter.h"
#include "unit.h"

#define FOLDER "tests/golden/tiny-llama"
static const char *const golden = FOLDER "/golden-adapters.safetensors", *const sequence = FOLDER "/golden-gists.safetensors";
enum { ALL = -1, MAX_ROWS = 80, MAX_VOCAB = 160 };

typedef struct {
    const char *name, *adapter;
    layout_method_t layout;
    int64_t segment, ratio, window, n_blank;
    bool text, compact;
    align_t align;
    gist_init_t init;
} case_t;

static const case_t cases[] = {
    {"rows", FOLDER "/adapter-rows.safetensors", LAYOUT_BLOCKGIST, 16, 4, ALL, 2, false, false, ALIGN_LEFT, GIST_ADAPTER},
    {"lora_full", FOLDER "/adapter-lora.safetensors", LAYOUT_FULL, 16, 0, ALL, 0, false, false, ALIGN_LEFT, GIST_MEAN},
    {"lora_unigist", FOLDER "/adapter-lora.safetensors", LAYOUT_UNIGIST, 0, 4, 8, 2, false, false, ALIGN_LEFT, GIST_ADAPTER},
    {"gist_lora", FOLDER "/adapter-gist-lora.safetensors", LAYOUT_FINE_KV, 18, 4, ALL, 0, true, true, ALIGN_LEFT, GIST_ADAPTER},
    {"everything", FOLDER "/adapter-everything.safetensors", LAYOUT_COARSE_KV, 18, 4, ALL, 4, false, false, ALIGN_LEFT, GIST_ADAPTER},
    {"everything_unigist", FOLDER "/adapter-everything.safetensors", LAYOUT_UNIGIST, 0, 4, 4, 4, true, false, ALIGN_LEFT, GIST_ADAPTER},
};
enum { N_CASE = sizeof cases / sizeof *cases };

static safetensors_t *ref, *text;
static tiny_t tiny;
static adapter_t *adapter;
static float got[MAX_ROWS * MAX_VOCAB], again[MAX_ROWS * MAX_VOCAB];

static void open_all(const char *model, const char *path, backend_create_t create, dtype_t act) {
    CU_ASSERT_EQUAL_FATAL(safetensors_open(golden, &ref), ST_OK);
    CU_ASSERT_EQUAL_FATAL(safetensors_open(sequence, &text), ST_OK);
    CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, model, create, act, 2, 8), ST_OK);
    CU_ASSERT_EQUAL_FATAL(adapter_open(path, tiny.file, &adapter), ST_OK);
    CU_ASSERT_EQUAL_FATAL(tiny_adapt(&tiny, adapter, 8), ST_OK);
}

static void close_all(void) {
    tiny_close(&tiny);
    adapter_free(adapter);
    safetensors_close(ref);
    safetensors_close(text);
}

static int64_t run_case(const case_t *c, int64_t max_row, float *to) {
    const tensor_t *tokens = safetensors_find(text, "tokens"), *sink = safetensors_find(text, "text_sink");
    tiny_rows_t r = {.to = to, .room = MAX_ROWS, .width = model_config(tiny.model)->n_vocab};
    sequence_spec_t s = {.layout = c->layout, .align = c->align, .segment = c->segment, .max_row = max_row, .all_rows = true};
    s.kept = (kept_t){.gist = {.ratio = c->ratio, .window = c->window, .at_end = layout_info(c->layout)->gists_at_end},
                      .init = c->init,
                      .n_blank = c->n_blank,
                      .compact = c->compact};
    if (c->text) s.sink = (const void *)sink->data, s.n_sink = sink->dims[0];
    if (sequence_rows(&s, tokens->dims[0]) > MAX_ROWS) return 0;
    status_t st = sequence_logits(tiny.model, tiny.own, &s, (const void *)tokens->data, tokens->dims[0], tiny_rows_take, &r);
    if (st) fprintf(stderr, "%s\n", status_message());
    return st || !tiny_rows_came(&r, r.n, 1) ? 0 : r.n;
}

static double error_of(const case_t *c) {
    const tensor_t *want = safetensors_find(ref, c->name);
    int64_t n = run_case(c, MAX_ROWS, got);
    return want && n == want->dims[0] ? tiny_error(want, 0, n, got, model_config(tiny.model)->n_vocab) : INFINITY;
}

static void test_golden(void) {
    const backend_create_t *create = backends_tested();
    for (int b = 0; create[b]; b++)
        for (int i = 0; i < N_CASE; i++) {
            open_all(FOLDER, cases[i].adapter, create[b], DT_F32);
            double e = error_of(&cases[i]);
            if (!(e < 1e-4)) fprintf(stderr, "%s on %s: %g\n", cases[i].name, tiny.be->ops->name, e);
            CU_ASSERT(e < 1e-4);
            close_all();
        }
}

/* The same base as a GGUF file: rounded, and its rows of q and k in pair order, which factors must not notice. */
static void test_quantised(void) {
    for (int i = 0; i < N_CASE; i++) {
        open_all(FOLDER "/model.gguf", cases[i].adapter, backend_tested, DT_F32);
        double e = error_of(&cases[i]);
        if (!(e < 0.1)) fprintf(stderr, "%s: %g\n", cases[i].name, e);
        CU_ASSERT(e < 0.1);
        close_all();
    }
}

static void test_passes(void) {
    for (int act = 0; act < 2; act++)
        for (int i = 0; i < N_CASE; i++) {
            open_all(FOLDER, cases[i].adapter, backend_tested, act ? DT_BF16 : DT_F32);
            int64_t n = run_case(&cases[i], MAX_ROWS, got), v = model_config(tiny.model)->n_vocab;
            CU_ASSERT(n > 0 && error_of(&cases[i]) < 0.1);
            for (int64_t max_row = 1; max_row < 30; max_row += 9) {
                CU_ASSERT_EQUAL(run_case(&cases[i], max_row, again), n);
                bool same = !memcmp(got, again, (size_t)(n * v) * sizeof *got);
                if (!same)
                    fprintf(stderr, "%s, %s: other bits in passes of %lld rows\n", cases[i].name, act ? "bf16" : "f32", (long long)max_row);
                CU_ASSERT(same);
            }
            close_all();
        }
}

/* ---- files ---------------------------------------------------------------------------------------------------------- */
static const char fingerprint[] = "d9cdc8d5ef707dede548860863d0cfe0";

static status_t parse(const void *data, size_t bytes, const char *model) {
    adapter_t *a;
    status_t st = adapter_parse(data, bytes, "a test", model_file_config(tiny.file), model, &a);
    adapter_free(a);
    return st;
}

/* A file of one tensor with these settings. */
static status_t parse_one(const char *name, int n_dim, const int64_t *dims, const float *data, const char *const *meta) {
    st_entry_t e = {.name = name, .dtype = "F32", .n_dim = n_dim, .bytes = 4};
    void *header;
    char *file;
    size_t bytes;
    for (int i = 0; i < n_dim; i++) {
        e.dims[i] = dims[i];
        e.bytes *= (size_t)dims[i];
    }
    CU_ASSERT_EQUAL_FATAL(safetensors_header(&e, 1, meta, 0, &header, &bytes), ST_OK);
    CU_ASSERT_EQUAL_FATAL(mem_alloc(&file, bytes + e.bytes, 1, "a file"), ST_OK);
    memcpy(file, header, bytes);
    memcpy(file + bytes, data, e.bytes);
    status_t st = parse(file, bytes + e.bytes, fingerprint);
    mem_free(header);
    mem_free(file);
    return st;
}

static void refused(status_t st, const char *words) {
    if (st != ST_INPUT || !strstr(status_message(), words)) fprintf(stderr, "status %d, %s\n", st, status_message());
    CU_ASSERT(st == ST_INPUT && strstr(status_message(), words));
}

static void test_refused(void) {
    const char *meta[] = {"format", "precis-adapter-1", "model", fingerprint, "layouts", "blockgist", "ratios", "4 8", NULL};
    static float zeros[3 * 64];
    open_all(FOLDER, cases[0].adapter, backend_create_cpu, DT_F32);
    CU_ASSERT_EQUAL(parse_one("gist_embedding", 2, (int64_t[]){3, 64}, zeros, meta), ST_OK);
    refused(parse_one("gist_embedding", 2, (int64_t[]){2, 65}, zeros, meta), "must be rows x 64");
    refused(parse_one("gist_embedding", 1, (int64_t[]){64}, zeros, meta), "must be rows x 64");
    refused(parse_one("gist_embeding", 2, (int64_t[]){1, 64}, zeros, meta), "gist_embeding is not known");
    refused(parse_one("layers.2.q.lora_a", 2, (int64_t[]){1, 64}, zeros, meta), "not of a layer that this model has");
    refused(parse_one("layers.00.q.lora_a", 2, (int64_t[]){1, 64}, zeros, meta), "is not known");
    refused(parse_one("layers.0.o.gist_weight", 2, (int64_t[]){1, 64}, zeros, meta), "is not known");
    refused(parse_one("layers.0.q.lora_a", 2, (int64_t[]){1, 64}, zeros, meta), "but not layers.0.q.lora_b; factors come in pairs");
    refused(parse_one("layers.0.k.gist_weight", 2, (int64_t[]){3, 64}, zeros, meta), "must be 32 x 64");
    refused(parse_one("zero_key", 3, (int64_t[]){2, 2, 8}, zeros, meta), "must be 2 x 2 x 16");
    zeros[70] = NAN;
    refused(parse_one("gist_embedding", 2, (int64_t[]){2, 64}, zeros, meta), "not finite, in row 1");
    zeros[70] = 0;
    meta[1] = "precis-adapter-2";
    refused(parse_one("gist_embedding", 2, (int64_t[]){1, 64}, zeros, meta), "format precis-adapter-1");
    meta[1] = "precis-adapter-1";
    meta[3] = "0123";
    refused(parse_one("gist_embedding", 2, (int64_t[]){1, 64}, zeros, meta), "fingerprint 0123, this one has d9cdc8d5");
    meta[3] = fingerprint;
    meta[5] = "\x1b[31m";
    refused(parse_one("gist_embedding", 2, (int64_t[]){1, 64}, zeros, meta), "no \"layouts\"");
    CU_ASSERT_EQUAL(adapter_check(adapter, "blockgist", 4), ST_OK);
    refused(adapter_check(adapter, "unigist", 4), "was trained for --layout blockgist fine-kv, not unigist");
    refused(adapter_check(adapter, "blockgist", 8), "was trained for --ratio 4, not 8");
    close_all();
}

/* Bytes changed at random are refused or are an adapter with other numbers; nothing else happens. */
static void test_damaged(void) {
    file_map_t map;
    rng_t rng = {5};
    char *copy;
    open_all(FOLDER, cases[0].adapter, backend_create_cpu, DT_F32);
    CU_ASSERT_EQUAL_FATAL(file_map(FOLDER "/adapter-gist-lora.safetensors", &map), ST_OK);
    CU_ASSERT_EQUAL_FATAL(mem_alloc(&copy, map.bytes, 1, "a file"), ST_OK);
    CU_ASSERT_EQUAL(parse(map.data, map.bytes, fingerprint), ST_OK);
    int bad = 0;
    for (int i = 0; i < 400; i++) {
        memcpy(copy, map.data, map.bytes);
        for (int k = 0; k < 3; k++) copy[rng_below(&rng, k ? 2600 : (int64_t)map.bytes)] = (char)rng_below(&rng, 256);
        size_t bytes = i % 4 ? map.bytes : (size_t)rng_below(&rng, (int64_t)map.bytes);
        status_t st = parse(copy, bytes, fingerprint);
        CU_ASSERT(st == ST_OK || st == ST_INPUT);
        bad += st != ST_OK;
    }
    CU_ASSERT(bad > 300);
    mem_free(copy);
    file_unmap(&map);
    close_all();
}

/* The n-th allocation fails, for every n: a failure that leaves nothing behind. */
static void test_torture(void) {
    file_map_t map;
    open_all(FOLDER, cases[0].adapter, backend_create_cpu, DT_F32);
    CU_ASSERT_EQUAL_FATAL(file_map(FOLDER "/adapter-everything.safetensors", &map), ST_OK);
    size_t before = mem_now_bytes();
    status_t st = ST_FAIL;
    int n = 0;
    while (st && n < 5000) {
        mem_fail_at(++n);
        st = parse(map.data, map.bytes, fingerprint);
        mem_fail_at(0);
        CU_ASSERT(st == ST_OK || st == ST_FAIL);
        CU_ASSERT_EQUAL(mem_now_bytes(), before);
    }
    CU_ASSERT(st == ST_OK && n > 50);
    file_unmap(&map);
    close_all();
}

UNIT_MAIN("adapters", {"golden", test_golden}, {"quantised base", test_quantised}, {"passes", test_passes}, {"refused", test_refused},
          {"damaged", test_damaged}, {"torture", test_torture})
