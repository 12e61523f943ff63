/* The forward pass on the tiny models: how rows are cut into calls, threads, and what is asked for change no bit; wrong files are refused
 * with words; every allocation may fail. */
#include "golden/tiny.h"

#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"
#include "scratch.h"
#include "unit.h"

#define LLAMA   "tests/golden/tiny-llama"
#define LLAMA31 "tests/golden/tiny-llama31"
#define QWEN3   "tests/golden/tiny-qwen3"
enum { N_ROW = 70, N_VOCAB = 160 };

static const backend_create_t backends[] = {backend_create_cpu_ref, backend_create_cpu};
static int32_t tokens[N_ROW];

static void make_tokens(void) {
    for (int i = 0; i < N_ROW; i++) tokens[i] = (i * i * 7 + 3 * i + 11) % N_VOCAB;
}

/* Logits of all rows, fed in pieces of the lengths given (the last is repeated). */
static status_t logits_of(const char *model, backend_create_t create, dtype_t act, int n_threads, const int *pieces, int n_piece,
                          float *out) {
    tiny_t t;
    status_t st = tiny_open(&t, model, create, act, n_threads, N_ROW);
    for (int64_t r = 0, i = 0; r < N_ROW && !st; i++) {
        int64_t n = i64_min(pieces[i < n_piece ? i : n_piece - 1], N_ROW - r);
        st = tiny_feed(&t, tokens + r, n, out + r * N_VOCAB);
        r += n;
    }
    if (st) fprintf(stderr, "%s\n", status_message());
    tiny_close(&t);
    return st;
}

static void test_chunks_and_threads(void) {
    static float whole[N_ROW * N_VOCAB], cut[N_ROW * N_VOCAB];
    static const char *const models[] = {LLAMA, LLAMA31, QWEN3};
    const int one[] = {N_ROW}, many[] = {13, 1, 30, 7}, single[] = {1};
    make_tokens();
    for (int i = 0; i < 3 * 2 * 2; i++) {
        const char *model = models[i % 3];
        bool plain = i / 3 % 2 == 0;
        backend_create_t create = plain ? backend_create_cpu_ref : backend_tested;
        dtype_t act = i / 6 ? DT_BF16 : DT_F32;
        CU_ASSERT_EQUAL(logits_of(model, create, act, 1, one, 1, whole), ST_OK);
        CU_ASSERT_EQUAL(logits_of(model, create, act, 2, many, 4, cut), ST_OK);
        CU_ASSERT(!memcmp(whole, cut, sizeof whole));
        if (plain) continue;
        CU_ASSERT_EQUAL(logits_of(model, create, act, 1, single, 1, cut), ST_OK);
        CU_ASSERT(!memcmp(whole, cut, sizeof whole));
    }
}

/* Encoding alone leaves the same K/V as a pass with logits, though it skips the end of the last layer; and logits of chosen rows are those
 * of all. */
static void test_outputs(void) {
    static float all[N_ROW * N_VOCAB], some[3 * N_VOCAB];
    const int64_t want[] = {69, 0, 33};
    make_tokens();
    tiny_t a, b;
    CU_ASSERT_EQUAL_FATAL(tiny_open(&a, LLAMA31, backend_tested, DT_BF16, 2, N_ROW), ST_OK);
    CU_ASSERT_EQUAL_FATAL(tiny_open(&b, LLAMA31, backend_tested, DT_BF16, 2, N_ROW), ST_OK);
    CU_ASSERT_EQUAL(tiny_feed(&a, tokens, N_ROW, all), ST_OK);
    CU_ASSERT_EQUAL(tiny_feed(&b, tokens, N_ROW, NULL), ST_OK);
    size_t bytes = (size_t)(a.pool.layer_stride * model_config(a.model)->n_layer) * 2;
    CU_ASSERT(memory_equal(a.be, a.pool.k, b.be, b.pool.k, bytes) && memory_equal(a.be, a.pool.v, b.be, b.pool.v, bytes));
    double positions[N_ROW];
    for (int i = 0; i < N_ROW; i++) positions[i] = i;
    run_t run = {.n = N_ROW, .n_span = 1};
    span_t span = {.end = N_ROW, .hi = edge_step(1, 1, 1, 0), .lo = edge_const(0)};
    batch_t batch = {.n_row = N_ROW,
                     .tokens = tokens,
                     .positions = positions,
                     .n_pool = 1,
                     .n_run = 1,
                     .n_span = 1,
                     .pools = &b.pool,
                     .runs = &run,
                     .spans = &span,
                     .n_out = 3,
                     .out_rows = want,
                     .logits = some};
    CU_ASSERT_EQUAL(forward(b.model, b.ws, &batch), ST_OK);
    for (int i = 0; i < 3; i++) CU_ASSERT(!memcmp(some + i * N_VOCAB, all + want[i] * N_VOCAB, N_VOCAB * sizeof *all));
    batch.n_row = run.n = 0;
    batch.n_out = 0;
    CU_ASSERT_EQUAL(forward(b.model, b.ws, &batch), ST_OK);
    tiny_close(&a);
    tiny_close(&b);
}

typedef struct {
    tiny_t *t;
    const run_t *run;
    const span_t *span;
    int calls;
} hook_t;

/* The backend's own attention, by way of the caller's hook. */
static status_t hook(void *ctx, const batch_t *b, int layer, const void *q, void *o) {
    hook_t *h = ctx;
    const model_config_t *c = model_config(h->t->model);
    attn_args_t a = {.layer = layer,
                     .n_head = (int)c->n_head,
                     .n_kv_head = (int)c->n_kv_head,
                     .d_head = (int)c->d_head,
                     .scale = (float)(1 / sqrt((double)c->d_head)),
                     .n_row = b->n_row,
                     .q = q,
                     .n_pool = 1,
                     .n_run = 1,
                     .n_span = 1,
                     .n_block = 1,
                     .pools = &h->t->pool,
                     .runs = h->run,
                     .spans = h->span,
                     .o_type = h->t->be->act,
                     .o = o};
    h->calls++;
    return h->t->be->ops->attention(h->t->be, &a);
}

static void test_attend_hook(void) {
    static float own[N_ROW * N_VOCAB], hooked[N_ROW * N_VOCAB];
    const int one[] = {N_ROW};
    double positions[N_ROW];
    int64_t rows[N_ROW];
    make_tokens();
    CU_ASSERT_EQUAL(logits_of(LLAMA, backend_tested, DT_F32, 2, one, 1, own), ST_OK);
    for (int i = 0; i < N_ROW; i++) positions[i] = (double)(rows[i] = i);
    tiny_t t;
    CU_ASSERT_EQUAL_FATAL(tiny_open(&t, LLAMA, backend_tested, DT_F32, 2, N_ROW), ST_OK);
    run_t run = {.n = N_ROW, .n_span = 1};
    span_t span = {.end = N_ROW, .hi = edge_step(1, 1, 1, 0), .lo = edge_const(0)};
    hook_t h = {&t, &run, &span, 0};
    batch_t b = {.n_row = N_ROW,
                 .tokens = tokens,
                 .positions = positions,
                 .n_pool = 1,
                 .n_run = 1,
                 .pools = &t.pool,
                 .runs = &run,
                 .attend = hook,
                 .attend_ctx = &h,
                 .n_out = N_ROW,
                 .out_rows = rows,
                 .logits = hooked};
    CU_ASSERT_EQUAL(forward(t.model, t.ws, &b), ST_OK);
    CU_ASSERT_EQUAL(h.calls, 2);
    CU_ASSERT(!memcmp(own, hooked, sizeof own));
    b.n_out = 0; /* a hook may be collective: it is called in every layer whatever is asked for */
    CU_ASSERT_EQUAL(forward(t.model, t.ws, &b), ST_OK);
    CU_ASSERT_EQUAL(h.calls, 4);
    tiny_close(&t);
}

static void test_tokens_outside(void) {
    tiny_t t;
    const int32_t bad[][2] = {{3, N_VOCAB}, {-1, 3}};
    CU_ASSERT_EQUAL_FATAL(tiny_open(&t, LLAMA, backend_tested, DT_F32, 1, 8), ST_OK);
    CU_ASSERT_EQUAL(tiny_feed(&t, bad[0], 2, NULL), ST_INPUT);
    CU_ASSERT(strstr(status_message(), "160 of row 1") != NULL);
    CU_ASSERT_EQUAL(tiny_feed(&t, bad[1], 2, NULL), ST_INPUT);
    tiny_close(&t);
}

/* What plan promises is what is taken. */
static void test_sizes(void) {
    for (int i = 0; i < 4; i++) {
        dtype_t act = i & 1 ? DT_BF16 : DT_F32;
        tiny_t t;
        forward_ws_t *ws;
        CU_ASSERT_EQUAL_FATAL(tiny_open(&t, LLAMA31, backends[i / 2], act, 1, 16), ST_OK);
        size_t before = mem_now_bytes(), want = forward_ws_bytes(model_config(t.model), act, 100);
        CU_ASSERT_EQUAL(forward_ws_create(t.model, 100, &ws), ST_OK);
        size_t took = mem_now_bytes() - before;
        CU_ASSERT(took >= want && took <= want + 2048); /* alignment, and the handle */
        forward_ws_free(ws);
        forward_ws_free(t.ws);
        t.ws = NULL;
        model_free(t.model);
        before = mem_now_bytes();
        want = model_file_packed_bytes(t.file, t.be);
        CU_ASSERT_EQUAL(mem_now_bytes(), before);
        CU_ASSERT_EQUAL(model_load(t.file, t.be, t.own, &t.model), ST_OK);
        took = mem_now_bytes() - before;
        CU_ASSERT(took >= want && took <= want + 8192);
        tiny_close(&t);
    }
}

static void test_flops(void) {
    tiny_t t;
    CU_ASSERT_EQUAL_FATAL(tiny_open(&t, LLAMA, backend_create_cpu, DT_F32, 1, 8), ST_OK);
    CU_ASSERT_EQUAL(model_flops_row(model_config(t.model)), 2 * 2 * (128 * 64 + 64 * 64 + 3 * 96 * 64));
    CU_ASSERT_EQUAL(model_flops_logits(model_config(t.model)), 2 * 160 * 64);
    tiny_close(&t);
}

/* ---- files -------------------------------------------------------------------------------------------------------- */
static char folder[SCRATCH_PATH];

enum { PATH = SCRATCH_PATH + 40 };
static void folder_path(const char *name, char out[PATH]) { snprintf(out, PATH, "%s/%s", folder, name); }

/* A folder with this config.json (text with one substring replaced) and the weights of tiny-llama. */
static void folder_make(const char *old, const char *with) {
    char path[PATH], target[256], *text, cwd[128];
    size_t n;
    if (!*folder) scratch_dir(folder, SCRATCH_DISK);
    CU_ASSERT_EQUAL_FATAL(file_read_text(LLAMA "/config.json", 1 << 16, &text, &n), ST_OK);
    char changed[2048], *at = strstr(text, old);
    CU_ASSERT_PTR_NOT_NULL_FATAL(at);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, with, at + strlen(old));
    mem_free(text);
    folder_path("config.json", path);
    CU_ASSERT_EQUAL(file_write_atomic(path, changed, strlen(changed)), ST_OK);
    folder_path("model.safetensors", path);
    CU_ASSERT_PTR_NOT_NULL(getcwd(cwd, sizeof cwd));
    snprintf(target, sizeof target, "%s/" LLAMA "/model.safetensors", cwd);
    if (access(path, F_OK)) CU_ASSERT_EQUAL(symlink(target, path), 0);
}
static bool refused(const char *a, const char *b) {
    model_file_t *f;
    status_t st = model_file_open(folder, &f);
    bool good = st == ST_INPUT && strstr(status_message(), a) && strstr(status_message(), b);
    if (!good) fprintf(stderr, "status %d: %s\n", (int)st, st ? status_message() : "opened");
    if (!st) model_file_close(f);
    return good;
}

static void test_wrong_tensors(void) {
    folder_make("\"intermediate_size\": 96", "\"intermediate_size\": 128");
    CU_ASSERT(refused("mlp.gate_proj.weight", "96 x 64, must be 128 x 64"));
    folder_make("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3");
    CU_ASSERT(refused("model.layers.2.", "missing"));
    folder_make("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    CU_ASSERT(refused("model.layers.1.", "no place"));
    folder_make("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
    CU_ASSERT(refused("lm_head.weight", "missing"));
    folder_make("\"model_type\": \"llama\"", "\"model_type\": \"qwen2\"");
    CU_ASSERT(refused("q_proj.bias", "missing"));
    folder_make("\"model_type\": \"llama\"", "\"model_type\": \"mamba\"");
    CU_ASSERT(refused("\"mamba\"", "llama"));
}

static void test_wrong_folders(void) {
    model_file_t *f;
    char path[PATH];
    folder_make("\"model_type\"", "\"model_type\"");
    folder_path("model.safetensors", path);
    unlink(path);
    CU_ASSERT(refused("neither", "model.safetensors.index.json"));
    static const char *const bad[] = {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", "{\"weight_map\":{\"a\":7}}", "{\"weight_map\":{}}",
                                      "{}", "{"};
    folder_path("model.safetensors.index.json", path);
    for (int i = 0; i < 5; i++) {
        CU_ASSERT_EQUAL(file_write_atomic(path, bad[i], strlen(bad[i])), ST_OK);
        CU_ASSERT(refused("model.safetensors.index.json", ""));
    }
    CU_ASSERT_EQUAL(model_file_open("/no/such/model.gguf", &f), ST_INPUT);
    CU_ASSERT_PTR_NULL(f);
}

static void test_fingerprint(void) {
    static const char *const paths[] = {LLAMA, LLAMA31, QWEN3, LLAMA "/model.gguf"};
    hash_t seen[4];
    for (int i = 0; i < 4; i++) {
        model_file_t *f;
        CU_ASSERT_EQUAL_FATAL(model_file_open(paths[i], &f), ST_OK);
        seen[i] = model_file_fingerprint(f);
        CU_ASSERT(hash_equal(seen[i], model_file_fingerprint(f)));
        for (int j = 0; j < i; j++) CU_ASSERT(!hash_equal(seen[i], seen[j]));
        model_file_close(f);
    }
    model_file_t *f;
    folder_make("\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 1e-06");
    CU_ASSERT_EQUAL_FATAL(model_file_open(folder, &f), ST_OK);
    CU_ASSERT(!hash_equal(seen[0], model_file_fingerprint(f)));
    model_file_close(f);
    folder_make("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 256"); /* decides no result */
    CU_ASSERT_EQUAL_FATAL(model_file_open(folder, &f), ST_OK);
    CU_ASSERT(hash_equal(seen[0], model_file_fingerprint(f)));
    model_file_close(f);
}

/* The n-th allocation fails, for every n: a message, no leak, no crash. */
static void test_every_allocation_fails(void) {
    static const char *const paths[] = {LLAMA31, LLAMA "/model.gguf"};
    const int32_t few[] = {1, 2, 3};
    float logits[3 * N_VOCAB];
    for (int i = 0; i < 2; i++) {
        size_t before = mem_now_bytes();
        status_t st = ST_FAIL;
        int n = 1;
        for (; st && n < 2000; n++) {
            tiny_t t;
            mem_fail_at(n);
            st = tiny_open(&t, paths[i], backend_create_cpu, DT_BF16, 1, 8);
            if (!st) st = tiny_feed(&t, few, 3, logits);
            mem_fail_at(0);
            CU_ASSERT(st == ST_OK || st == ST_FAIL);
            tiny_close(&t);
            CU_ASSERT_EQUAL_FATAL(mem_now_bytes(), before);
        }
        CU_ASSERT(n > 10 && n < 2000);
    }
}

UNIT_MAIN("forward", {"chunks_and_threads", test_chunks_and_threads}, {"outputs", test_outputs}, {"attend_hook", test_attend_hook},
          {"tokens_outside", test_tokens_outside}, {"sizes", test_sizes}, {"flops", test_flops}, {"wrong_tensors", test_wrong_tensors},
          {"wrong_folders", test_wrong_folders}, {"fingerprint", test_fingerprint}, {"every_allocation_fails", test_every_allocation_fails})
