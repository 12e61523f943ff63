/* Every architecture x rope scaling x head size against HF transformers (make_matrix.py): a line of matrix.jsonl is a model's config.json,
 * its weights are a formula, and matrix.safetensors has the logits of a few rows. Each model is written as a folder, opened, loaded and run
 * on every CPU backend, in f32 and in bf16. */
#include "golden/tiny.h"

#include <math.h>
#include <unistd.h>

#include "base/log.h"
#include "base/rng.h"
#include "io/file.h"
#include "io/json.h"
#include "scratch.h"
#include "unit.h"

#ifdef __SANITIZE_ADDRESS__
enum { STRIDE = 9 }; /* every ninth model: another scaling, width and architecture each time */
#else
enum { STRIDE = 1 };
#endif
enum { N_TOKEN = 40, N_ARCH = 4, N_HEAD = 5, N_ROPE = 6, MAX_WEIGHTS = 32 };
static const char *const archs[N_ARCH] = {"llama", "mistral", "qwen2", "qwen3"};
static const int64_t heads[N_HEAD] = {64, 80, 96, 128, 256};

static char *lines;
static safetensors_t *golden;
static char folder[SCRATCH_PATH];

/* ---- the weights' formula, as in make_matrix.py --------------------------------------------------------------- */
static uint64_t fnv(const char *text) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *text; text++) h = (h ^ (uint8_t)*text) * 0x100000001b3u;
    return h;
}

static void fill(const char *model, const char *name, int64_t rows, int64_t cols, float *out) {
    char seed[256];
    size_t n = strlen(name);
    bool norm = n > 11 && !strcmp(name + n - 11, "norm.weight");
    double scale = norm ? 1.0 / 64 : !rows ? 1.0 / 32 : strstr(name, "embed") ? 1.0 / 16 : exp2(floor(log2(1.6 / sqrt((double)cols)))) / 16;
    snprintf(seed, sizeof seed, "%s/%s", model, name);
    rng_t r = {fnv(seed)};
    for (int64_t i = 0; i < (rows ? rows : 1) * cols; i++) out[i] = (float)(norm + ((double)(rng_next(&r) >> 60) * 2 - 15) * scale);
}

/* ---- a model's folder ------------------------------------------------------------------------------------------ */
typedef struct {
    char names[MAX_WEIGHTS][64];
    st_entry_t entries[MAX_WEIGHTS];
    int n;
    dtype_t type;
} weights_t;

static void weight_add(weights_t *w, int layer, const char *end, int64_t rows, int64_t cols) {
    char *name = w->names[w->n];
    if (layer < 0)
        snprintf(name, sizeof *w->names, "%s.weight", end);
    else
        snprintf(name, sizeof *w->names, "model.layers.%d.%s", layer, end);
    w->entries[w->n++] = (st_entry_t){.name = name,
                                      .dtype = w->type == DT_F32 ? "F32" : "BF16",
                                      .n_dim = rows ? 2 : 1,
                                      .dims = {rows ? rows : cols, rows ? cols : 0},
                                      .bytes = (size_t)((rows ? rows : 1) * cols) * dtype_bytes(w->type)};
}

static void weights_list(weights_t *w, const model_config_t *c) {
    int64_t d = c->d_model, q = c->n_head * c->d_head, kv = c->n_kv_head * c->d_head;
    weight_add(w, -1, "model.embed_tokens", c->n_vocab, d);
    if (!c->tied) weight_add(w, -1, "lm_head", c->n_vocab, d);
    weight_add(w, -1, "model.norm", 0, d);
    for (int l = 0; l < c->n_layer; l++) {
        weight_add(w, l, "self_attn.q_proj.weight", q, d);
        weight_add(w, l, "self_attn.k_proj.weight", kv, d);
        weight_add(w, l, "self_attn.v_proj.weight", kv, d);
        weight_add(w, l, "self_attn.o_proj.weight", d, q);
        if (c->qkv_bias) weight_add(w, l, "self_attn.q_proj.bias", 0, q);
        if (c->qkv_bias) weight_add(w, l, "self_attn.k_proj.bias", 0, kv);
        if (c->qkv_bias) weight_add(w, l, "self_attn.v_proj.bias", 0, kv);
        if (c->qk_norm) weight_add(w, l, "self_attn.q_norm.weight", 0, c->d_head);
        if (c->qk_norm) weight_add(w, l, "self_attn.k_norm.weight", 0, c->d_head);
        weight_add(w, l, "mlp.gate_proj.weight", c->d_ff, d);
        weight_add(w, l, "mlp.up_proj.weight", c->d_ff, d);
        weight_add(w, l, "mlp.down_proj.weight", d, c->d_ff);
        weight_add(w, l, "input_layernorm.weight", 0, d);
        weight_add(w, l, "post_attention_layernorm.weight", 0, d);
    }
}

static status_t text_write(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    if (!f) return ST_FAIL;
    fputs(text, f);
    return fclose(f) ? ST_FAIL : ST_OK;
}

static status_t weights_write(const char *path, const char *model, const weights_t *w) {
    void *header;
    size_t bytes;
    status_t st = safetensors_header(w->entries, w->n, NULL, 0, &header, &bytes);
    FILE *f = st ? NULL : fopen(path, "w");
    if (!f) return ST_FAIL;
    fwrite(header, 1, bytes, f);
    for (int i = 0; i < w->n; i++) {
        const st_entry_t *e = &w->entries[i];
        size_t n = e->bytes / dtype_bytes(w->type);
        float *wide = malloc(n * sizeof *wide);
        void *out = malloc(e->bytes);
        fill(model, e->name, e->n_dim == 2 ? e->dims[0] : 0, e->dims[e->n_dim - 1], wide);
        dtype_convert(w->type, out, DT_F32, wide, n);
        fwrite(out, 1, e->bytes, f);
        free(wide);
        free(out);
    }
    mem_free(header);
    return fclose(f) ? ST_FAIL : ST_OK;
}

static status_t folder_write(const cJSON *line, const char *name, model_config_t *c) {
    char path[SCRATCH_PATH + 32];
    char *config = cJSON_PrintUnformatted(json_get(line, "config"));
    weights_t w = {.type = !strcmp(json_get_str(line, "dtype"), "F32") ? DT_F32 : DT_BF16};
    snprintf(path, sizeof path, "%s/config.json", folder);
    status_t st = text_write(path, config);
    cJSON_free(config);
    if (!st) st = config_from_json(path, c);
    if (!st) weights_list(&w, c);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return st ? st : weights_write(path, name, &w);
}

/* ---- comparing -------------------------------------------------------------------------------------------------- */
/* Largest difference of the golden rows over their largest |logit|; infinite when anything fails. */
static double error_of(const tensor_t *want, const char *name, int64_t rope_length, backend_create_t create, dtype_t act) {
    static const int rows[] = {0, 1, 5, 14, 17, 26, 38, 39}; /* OUT_ROWS */
    int32_t tokens[N_TOKEN];
    tiny_t t;
    rng_t r = {fnv(name)};
    double worst = 0, largest = 0;
    float *logits = NULL;
    status_t st = tiny_open_length(&t, NULL, folder, create, act, 1, N_TOKEN, rope_length);
    int64_t v = st ? 0 : model_config(t.model)->n_vocab;
    if (!st && (want->dims[1] != v || want->dims[0] != 8)) st = status_fail(ST_FAIL, "%s: golden logits of another shape", name);
    for (int i = 0; !st && i < N_TOKEN; i++) tokens[i] = (int32_t)(rng_next(&r) % (uint64_t)v);
    logits = malloc(N_TOKEN * (size_t)(v + 1) * sizeof *logits);
    if (!st) st = tiny_feed(&t, tokens, 25, logits); /* in two passes: the second sees keys of the first */
    if (!st) st = tiny_feed(&t, tokens + 25, N_TOKEN - 25, logits + 25 * v);
    for (int64_t i = 0; !st && i < 8 * v; i++) {
        float w;
        memcpy(&w, want->data + 4 * i, 4);
        double d = fabs((double)logits[rows[i / v] * v + i % v] - (double)w);
        if (!(d <= worst)) worst = d; /* takes NaN, too */
        if (fabs((double)w) > largest) largest = fabs((double)w);
    }
    if (st) fprintf(stderr, "%s: %s\n", name, status_message());
    free(logits);
    tiny_close(&t);
    return st || !(largest > 0) ? INFINITY : worst / largest;
}

static bool seen[N_ARCH][N_HEAD][N_ROPE];

static void model_compare(const cJSON *line, dtype_t act, double tolerance) {
    const backend_create_t *create = backends_tested();
    const char *name = json_get_str(line, "name");
    const tensor_t *want = safetensors_find(golden, name);
    int64_t length = 0;
    model_config_t c;
    CU_ASSERT_PTR_NOT_NULL_FATAL(want);
    CU_ASSERT_FATAL(json_get_i64(line, "rope_length", &length));
    if (folder_write(line, name, &c)) {
        fprintf(stderr, "%s: %s\n", name, status_message());
        CU_FAIL("a folder that cannot be opened");
        return;
    }
    for (int a = 0; a < N_ARCH; a++)
        for (int h = 0; h < N_HEAD; h++)
            if (!strcmp(archs[a], c.arch) && heads[h] == c.d_head) seen[a][h][c.rope_scaling] = true;
    for (int b = 0; create[b]; b++) {
        double e = error_of(want, name, length, create[b], act);
        if (getenv("VERBOSE") || !(e <= tolerance))
            printf("%-28s %-7s %s %.2e\n", name, create[1] && !b ? "cpu_ref" : backend_wish(), dtype_name(act), e);
        CU_ASSERT(e <= tolerance);
    }
}

static void compare(dtype_t act, double tolerance) {
    int n = 0;
    memset(seen, 0, sizeof seen);
    for (const char *at = lines; *at; at += strcspn(at, "\n") + 1, n++) {
        cJSON *line = NULL;
        if (n % STRIDE) continue;
        CU_ASSERT_EQUAL_FATAL(json_parse(at, strcspn(at, "\n"), "matrix.jsonl", &line), ST_OK);
        model_compare(line, act, tolerance);
        cJSON_Delete(line);
    }
    CU_ASSERT_EQUAL(n, safetensors_count(golden));
    for (int i = 0; STRIDE == 1 && i < N_ARCH * N_HEAD * N_ROPE; i++) CU_ASSERT((&seen[0][0][0])[i]); /* the table is whole */
}

static void test_f32(void) { compare(DT_F32, 1e-4); }
static void test_bf16(void) { compare(DT_BF16, 1e-2); }

static void test_set_up(void) {
    size_t bytes;
    log_setup(0, 1, LOG_WARN); /* 800 models are loaded */
    CU_ASSERT_EQUAL_FATAL(file_read_text("tests/golden/matrix.jsonl", 1 << 20, &lines, &bytes), ST_OK);
    CU_ASSERT_EQUAL_FATAL(safetensors_open("tests/golden/matrix.safetensors", &golden), ST_OK);
    scratch_dir(folder, SCRATCH_DISK);
}

static void test_clean_up(void) {
    safetensors_close(golden);
    mem_free(lines);
}

UNIT_MAIN("matrix", {"set_up", test_set_up}, {"f32", test_f32}, {"bf16", test_bf16}, {"clean_up", test_clean_up})
