/* K/V in host memory, two layers at a time on the device, have the bits of K/V on the device, whatever the layout and the passes; and a
 * whole encoding chooses the host by itself when its documents do not fit. */
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "base/rng.h"
#include "encode/encode.h"
#include "encode/encoder.h"
#include "golden/tiny.h"
#include "unit.h"

enum { N = 700, N_VOCAB = 160, ALL = -1, MAX_SEGMENT = 16 };
#define SOURCE "tests/golden/tiny-llama"

typedef struct {
    layout_method_t layout;
    int64_t segment, ratio, window, n_blank;
    bool compact;
} case_t;
static const case_t cases[] = {
    {LAYOUT_FULL, N, 0, ALL, 0, false},        {LAYOUT_FULL, 96, 0, ALL, 3, false},       {LAYOUT_FINE_KV, 60, 4, ALL, 2, false},
    {LAYOUT_FINE_KV, 300, 8, 16, 0, true},     {LAYOUT_COARSE_KV, 100, 4, ALL, 4, false}, {LAYOUT_COARSE_REC, 100, 4, ALL, 1, false},
    {LAYOUT_COARSE_REC, 120, 8, ALL, 0, true}, {LAYOUT_UNIGIST, N, 4, 16, 4, false},      {LAYOUT_UNIGIST, N, 8, 304, 0, false},
    {LAYOUT_BLOCKGIST, 200, 4, ALL, 2, false}, {LAYOUT_PCE, N, 0, ALL, 2, false},
};
enum { N_CASE = sizeof cases / sizeof *cases };

static char dir[64];
static const char *file(const char *name) {
    static char each[4][128];
    static int at;
    char *out = each[at++ % 4];
    snprintf(out, sizeof *each, "%s/%s", dir, name);
    return out;
}

/* The small model with N_LAYER layers, its own two in turn: more than the device holds. */
enum { N_LAYER = 7 };
static void copy_model(void) {
    FILE *in = fopen(SOURCE "/model.safetensors", "rb"), *out = fopen(file("model.safetensors"), "wb");
    uint64_t n;
    char name[256];
    CU_ASSERT_FATAL(in && out && fread(&n, sizeof n, 1, in) == 1);
    char *text = calloc(1, n + 1), *data = NULL;
    CU_ASSERT_FATAL(fread(text, 1, n, in) == n);
    cJSON *had = cJSON_Parse(text), *made = cJSON_CreateObject();
    size_t base = sizeof n + n, at = 0, size = 0;
    for (cJSON *t = had->child; t; t = t->next) {
        int layer = -1, end = 0;
        if (!strcmp(t->string, "__metadata__")) continue;
        sscanf(t->string, "model.layers.%d%n", &layer, &end);
        cJSON *range = cJSON_GetObjectItem(t, "data_offsets");
        size_t from = (size_t)range->child->valuedouble, bytes = (size_t)range->child->next->valuedouble - from;
        for (int l = layer; l < N_LAYER; l += 2) { /* one of no layer goes once */
            snprintf(name, sizeof name, "model.layers.%d%s", l, t->string + end);
            cJSON *copy = cJSON_Duplicate(t, true);
            double ends[2] = {(double)at, (double)(at + bytes)};
            cJSON_ReplaceItemInObject(copy, "data_offsets", cJSON_CreateDoubleArray(ends, 2));
            cJSON_AddItemToObject(made, layer < 0 ? t->string : name, copy);
            data = realloc(data, size += bytes);
            fseek(in, (long)(base + from), SEEK_SET);
            CU_ASSERT_EQUAL(fread(data + at, 1, bytes, in), bytes);
            at += bytes;
            if (layer < 0) break;
        }
    }
    char *header = cJSON_PrintUnformatted(made);
    n = strlen(header);
    fwrite(&n, sizeof n, 1, out);
    fwrite(header, 1, n, out);
    fwrite(data, 1, size, out);
    fclose(in);
    fclose(out);
    cJSON_Delete(had);
    cJSON_Delete(made);
    free(header);
    free(text);
    free(data);
}

static void copy_config(void) {
    char text[4096] = "";
    FILE *in = fopen(SOURCE "/config.json", "r"), *out = fopen(file("config.json"), "w");
    CU_ASSERT_FATAL(in && out && fread(text, 1, sizeof text - 1, in) > 0);
    cJSON *c = cJSON_Parse(text);
    cJSON_ReplaceItemInObject(c, "num_hidden_layers", cJSON_CreateNumber(N_LAYER));
    char *made = cJSON_PrintUnformatted(c);
    fputs(made, out);
    fclose(in);
    fclose(out);
    cJSON_Delete(c);
    free(made);
}

/* Letters have tokens. */
static void make_folder(void) {
    if (*dir) return;
    snprintf(dir, sizeof dir, "/tmp/precis-spill.XXXXXX");
    CU_ASSERT(mkdtemp(dir) != NULL);
    copy_model();
    copy_config();
    FILE *f = fopen(file("tokenizer.json"), "w");
    fputs(
        "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"unk_token\":null,"
        "\"vocab\":{",
        f);
    for (int i = 0; i < N_VOCAB; i++)
        if (i < 26)
            fprintf(f, "%s\"%c\":%d", i ? "," : "", 'a' + i, i);
        else
            fprintf(f, ",\"filler%d\":%d", i, i);
    fputs("},\"merges\":[]}}", f);
    fclose(f);
    f = fopen(file("text.txt"), "w");
    rng_t rng = {9};
    for (int i = 0; i < 1200; i++) fputc('a' + (int)rng_below(&rng, 26), f);
    fclose(f);
    f = fopen(file("short.txt"), "w");
    fputs("ashorttext", f);
    fclose(f);
}

/* What keeps its memory to itself: a CPU that does, or a GPU. */
static bool on_gpu(void) { return !strcmp(backend_wish(), "cuda"); }
static backend_create_t device_create(void) { return on_gpu() ? backend_tested : locked_create; }

static tiny_t tiny;
static int32_t tokens[N];

/* All segments of the text; K/V of the raw rows (the last ones under UniGist) and of the gists into pools of device or host memory. */
typedef struct {
    kv_pool_t raw[MAX_SEGMENT], gists[MAX_SEGMENT];
    int64_t n;
} result_t;

static kept_t kept_of(const case_t *c) {
    const layout_info_t *info = layout_info(c->layout);
    return (kept_t){.gist = {.ratio = c->ratio, .window = c->ratio ? c->window : ALL, .at_end = info->gists_at_end},
                    .n_blank = c->n_blank,
                    .recurrent = info->recurrent,
                    .compact = c->compact};
}

static status_t run_case(const case_t *c, int64_t max_row, bool spilled, result_t *r) {
    kept_t k = kept_of(c);
    const layout_info_t *info = layout_info(c->layout);
    encoder_spec_t spec = {.n_blank = c->n_blank,
                           .align = info->chained ? ALIGN_SEQUENTIAL : ALIGN_LEFT,
                           .max_row = max_row,
                           .gist = k.gist,
                           .recurrent = k.recurrent,
                           .compact = k.compact,
                           .evict = info->whole};
    encoder_t *e = NULL;
    status_t (*alloc)(backend_t *, const model_config_t *, dtype_t, int64_t, const char *, kv_pool_t *) =
        spilled ? kv_alloc_host : kv_alloc;
    status_t st = encoder_create(tiny.model, tiny.own, &spec, &e);
    if (!st) st = encoder_spill(e, spilled);
    for (int64_t at = 0; at < N && !st; at += c->segment, r->n++) {
        int64_t n = i64_min(c->segment, N - at);
        st = alloc(tiny.be, model_config(tiny.model), tiny.be->act, info->whole ? encoder_tail(&k.gist, n) : n, "test", &r->raw[r->n]);
        if (!st) st = alloc(tiny.be, model_config(tiny.model), tiny.be->act, gist_count(&k.gist, n), "test", &r->gists[r->n]);
        piece_t p = {.tokens = tokens + at,
                     .n = n,
                     .before = info->chained ? at : 0,
                     .chain = k.gist.ratio ? r->gists : r->raw,
                     .n_chain = info->chained ? (int)r->n : 0,
                     .pool = r->raw[r->n],
                     .gist_pool = r->gists[r->n]};
        if (!st) st = encoder_run(e, &p, 1);
        if (!st) st = kept_remember(&k, e, tiny.model, &p);
    }
    if (!st) st = tiny.be->ops->sync(tiny.be);
    encoder_free(e);
    return st;
}

static void result_free(result_t *r, bool spilled) {
    for (int64_t s = 0; s < r->n; s++) {
        (spilled ? kv_free_host : kv_free)(tiny.be, &r->raw[s]);
        (spilled ? kv_free_host : kv_free)(tiny.be, &r->gists[s]);
    }
    *r = (result_t){0};
}

/* A pool on the device and one in host memory. */
static bool pools_equal(const kv_pool_t *device, const kv_pool_t *host) {
    size_t bytes = kv_bytes(model_config(tiny.model), tiny.be->act, device->n_row);
    if (device->n_row != host->n_row || !bytes) return device->n_row == host->n_row;
    void *k = memory_copy(tiny.be, device->k, bytes), *v = memory_copy(tiny.be, device->v, bytes);
    bool same = !memcmp(k, host->k, bytes) && !memcmp(v, host->v, bytes);
    free(k);
    free(v);
    return same;
}

static void test_bits(void) {
    rng_t rng = {5};
    make_folder();
    for (int i = 0; i < N; i++) tokens[i] = (int32_t)rng_below(&rng, N_VOCAB);
    for (int act = 0; act < 2; act++) {
        CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, dir, device_create(), act ? DT_BF16 : DT_F32, 1, 8), ST_OK);
        for (int i = act; i < N_CASE; i += 2) {
            static const int64_t rows[] = {33, 1024};
            result_t want = {0};
            CU_ASSERT_EQUAL(run_case(&cases[i], 100, false, &want), ST_OK);
            for (int p = 0; p < 2; p++) {
                result_t got = {0};
                CU_ASSERT_EQUAL(run_case(&cases[i], rows[p], true, &got), ST_OK);
                CU_ASSERT_EQUAL(got.n, want.n);
                bool same = true;
                for (int64_t s = 0; s < got.n; s++)
                    same = same && pools_equal(&want.raw[s], &got.raw[s]) && pools_equal(&want.gists[s], &got.gists[s]);
                if (!same) fprintf(stderr, "case %d, %s, passes of %lld rows: other bits\n", i, act ? "bf16" : "f32", (long long)rows[p]);
                CU_ASSERT(same);
                result_free(&got, true);
            }
            result_free(&want, false);
        }
        tiny_close(&tiny);
    }
}

/* ---- the whole job ---------------------------------------------------------------------------------------------- */
/* A GPU is made to say that it is small; what others and the driver have taken of it does not count. */
static size_t taken_before(void) {
    static size_t taken;
    size_t left = 0, total = 0;
    if (taken || !on_gpu()) return taken;
    CU_ASSERT_EQUAL(tiny_open(&tiny, dir, backend_tested, DT_F32, 1, 8), ST_OK);
    tiny.be->ops->memory_left(tiny.be, &left, &total);
    tiny_close(&tiny);
    return taken = total - left;
}

/* Encodes both texts with so much memory beyond the weights; the store's digest. */
static hash_t encode_with(const case_t *c, const char *name, size_t memory, bool *spilled) {
    char bytes[32];
    hash_t digest = {0};
    int64_t n;
    tokenizer_t *tokenizer = NULL;
    encode_report_t report;
    const char *const inputs[] = {file("text.txt"), file("short.txt")};
    snprintf(bytes, sizeof bytes, "%zu", taken_before() + memory);
    setenv(on_gpu() ? "PRECIS_CUDA_MEMORY" : "PRECIS_LOCKED_MEMORY", bytes, 1);
    status_t st = model_tokenizer_open(dir, &tokenizer);
    if (!st) st = tiny_open(&tiny, dir, device_create(), DT_F32, 1, 8);
    encode_spec_t spec = {.inputs = inputs,
                          .n_input = 2,
                          .store_dir = file(name),
                          .layout = c->layout,
                          .kept = kept_of(c),
                          .align = ALIGN_LEFT,
                          .max_row = 64};
    spec.kept.keep = layout_info(c->layout)->whole ? KEEP_TAIL : c->ratio ? KEEP_GIST : KEEP_RAW;
    if (!st) {
        const model_config_t *mc = model_config(tiny.model);
        spec.profile = (store_profile_t){.n_layer = mc->n_layer,
                                         .n_kv_head = mc->n_kv_head,
                                         .d_head = mc->d_head,
                                         .n_vocab = mc->n_vocab,
                                         .segment = layout_info(c->layout)->whole ? 1 << 20 : c->segment,
                                         .kv_type = DT_F32,
                                         .act = DT_F32,
                                         .model_fingerprint = "00000000000000000000000000000000",
                                         .align = "left"};
        snprintf(spec.profile.layout, sizeof spec.profile.layout, "%s", layout_info(c->layout)->name);
        kept_text(&spec.kept, spec.profile.gists, sizeof spec.profile.gists);
        st = encode_corpus(tiny.model, tokenizer, tiny.own, &spec, &report);
        *spilled = st == ST_OK && report.n_spilled > 0;
    }
    if (st) fprintf(stderr, "%s: %s\n", name, status_message());
    CU_ASSERT_EQUAL(st, ST_OK);
    if (!st) CU_ASSERT_EQUAL(store_digest(spec.store_dir, &digest, &n), ST_OK);
    tokenizer_free(tokenizer);
    tiny_close(&tiny);
    return digest;
}

/* With less and less memory an encoding never fails before it takes host memory, and never gives other bits. */
static void test_job(void) {
    make_folder();
    static const int which[] = {1, 4, 7, 10};
    for (int x = 0; x < (int)(sizeof which / sizeof *which); x++) {
        int i = which[x];
        char name[32];
        bool spilled = false;
        case_t c = cases[i];
        if (c.segment == N) c.segment = 4000; /* the text in one piece */
        snprintf(name, sizeof name, "store%d", i);
        hash_t plenty = encode_with(&c, name, (size_t)1 << 30, &spilled);
        CU_ASSERT(!spilled && (plenty.lo | plenty.hi));
        for (size_t memory = 4 << 20; !spilled && memory > 1 << 19; memory -= memory / 5) {
            snprintf(name, sizeof name, "store%d-%zu", i, memory);
            hash_t less = encode_with(&c, name, memory, &spilled);
            if (!hash_equal(plenty, less)) fprintf(stderr, "case %d with %zu bytes: other bits\n", i, memory);
            CU_ASSERT(hash_equal(plenty, less));
        }
        if (!spilled) fprintf(stderr, "case %d did not spill\n", i);
        CU_ASSERT(spilled);
    }
}

static void test_tidy(void) {
    char command[128];
    if (!*dir) return;
    snprintf(command, sizeof command, "rm -rf %s", dir);
    CU_ASSERT_EQUAL(system(command), 0);
}

UNIT_MAIN("spill", {"bits", test_bits}, {"job", test_job}, {"tidy", test_tidy})
