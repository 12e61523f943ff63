/* The small model made deeper, and whole encodings with it: for what shows only with more layers than a device holds at a time, or with
 * too little memory.
 *
 *     char dir[SCRATCH_PATH];
 *     scratch_dir(dir, SCRATCH_DISK), deep_make(dir, 0);              a model folder: DEEP_LAYERS layers, letters are tokens
 *     deep_text(dir, "text.txt", 1200, 9);                            a text of so many letters
 *     st = deep_encode(&job, digest, report)                          into a store
 */
#ifndef TESTS_GOLDEN_DEEP_H
#define TESTS_GOLDEN_DEEP_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "base/rng.h"
#include "encode/encode.h"
#include "golden/tiny.h"
#include "scratch.h"

enum { DEEP_LAYERS = 7, DEEP_VOCAB = 160, DEEP_LETTERS = 26 };
#define DEEP_SOURCE "tests/golden/tiny-llama"

static inline FILE *deep_open(const char *dir, const char *name, const char *how) {
    char path[SCRATCH_PATH + 64];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, how);
    if (!f) perror(path), abort();
    return f;
}

/* The source's two layers in turn. */
static inline void deep_weights(const char *dir) {
    FILE *in = deep_open(DEEP_SOURCE, "model.safetensors", "rb"), *out = deep_open(dir, "model.safetensors", "wb");
    uint64_t n;
    char name[256];
    if (fread(&n, sizeof n, 1, in) != 1) abort();
    char *text = calloc(1, n + 1), *data = NULL;
    if (fread(text, 1, n, in) != n) abort();
    cJSON *had = cJSON_Parse(text), *made = cJSON_CreateObject();
    size_t base = sizeof n + n, at = 0, size = 0;
    for (cJSON *t = had->child; t; t = t->next) {
        int layer = -1, end = 0;
        if (!strcmp(t->string, "__metadata__")) continue;
        sscanf(t->string, "model.layers.%d%n", &layer, &end);
        cJSON *range = cJSON_GetObjectItem(t, "data_offsets");
        size_t from = (size_t)range->child->valuedouble, bytes = (size_t)range->child->next->valuedouble - from;
        for (int l = layer; l < DEEP_LAYERS; l += 2) { /* one of no layer goes once */
            snprintf(name, sizeof name, "model.layers.%d%s", l, t->string + end);
            cJSON *copy = cJSON_Duplicate(t, true);
            double ends[2] = {(double)at, (double)(at + bytes)};
            cJSON_ReplaceItemInObject(copy, "data_offsets", cJSON_CreateDoubleArray(ends, 2));
            cJSON_AddItemToObject(made, layer < 0 ? t->string : name, copy);
            data = realloc(data, size += bytes);
            fseek(in, (long)(base + from), SEEK_SET);
            if (fread(data + at, 1, bytes, in) != bytes) abort();
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

static inline void deep_config(const char *dir, int64_t window) {
    char text[4096] = "";
    FILE *in = deep_open(DEEP_SOURCE, "config.json", "r"), *out = deep_open(dir, "config.json", "w");
    if (!fread(text, 1, sizeof text - 1, in)) abort();
    cJSON *c = cJSON_Parse(text);
    cJSON_ReplaceItemInObject(c, "num_hidden_layers", cJSON_CreateNumber(DEEP_LAYERS));
    if (window) cJSON_ReplaceItemInObject(c, "model_type", cJSON_CreateString("mistral"));
    if (window) cJSON_ReplaceItemInObject(c, "architectures", cJSON_Parse("[\"MistralForCausalLM\"]"));
    if (window) cJSON_AddNumberToObject(c, "sliding_window", (double)window);
    char *made = cJSON_PrintUnformatted(c);
    fputs(made, out);
    fclose(in);
    fclose(out);
    cJSON_Delete(c);
    free(made);
}

static inline void deep_tokenizer(const char *dir) {
    FILE *f = deep_open(dir, "tokenizer.json", "w");
    fputs(
        "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"unk_token\":null,"
        "\"vocab\":{",
        f);
    for (int i = 0; i < DEEP_VOCAB; i++)
        if (i < DEEP_LETTERS)
            fprintf(f, "%s\"%c\":%d", i ? "," : "", 'a' + i, i);
        else
            fprintf(f, ",\"filler%d\":%d", i, i);
    fputs("},\"merges\":[]}}", f);
    fclose(f);
}

/* window > 0: with a sliding window of so many positions. */
static inline void deep_make(const char *dir, int64_t window) {
    deep_weights(dir);
    deep_config(dir, window);
    deep_tokenizer(dir);
}

static inline void deep_text(const char *dir, const char *name, int n, uint64_t seed) {
    FILE *f = deep_open(dir, name, "w");
    rng_t rng = {seed};
    for (int i = 0; i < n; i++) fputc('a' + (int)rng_below(&rng, DEEP_LETTERS), f);
    fclose(f);
}

/* ---- what keeps its memory to itself: a CPU that does, or a GPU -------------------------------------------------- */
static inline bool device_is_gpu(void) { return !strcmp(backend_wish(), "cuda"); }
static inline backend_create_t device_create(void) { return device_is_gpu() ? backend_tested : locked_create; }

/* The next one has so much memory beyond `taken`: what others and the driver have taken of a GPU before (device_taken). */
static inline void device_limit(size_t bytes) {
    char text[32];
    snprintf(text, sizeof text, "%zu", bytes);
    setenv(device_is_gpu() ? "PRECIS_CUDA_MEMORY" : "PRECIS_LOCKED_MEMORY", text, 1);
}
static inline size_t device_taken(void) {
    size_t left = 0, total = 0;
    backend_t *be = NULL;
    if (!device_is_gpu()) return 0;
    if (backend_tested(DT_F32, 1, &be)) abort();
    be->ops->memory_left(be, &left, &total);
    be->ops->destroy(be);
    return total - left;
}

/* ---- a whole encoding -------------------------------------------------------------------------------------------- */
typedef struct {
    layout_method_t layout;
    int64_t segment, ratio, window, n_blank;
    bool compact;
    int64_t select; /* blockselect: its ratio */
    score_method_t by;
    bool raw; /* and its raw rows are kept, too */
} deep_case_t;

static inline kept_t deep_kept(const deep_case_t *c) {
    const layout_info_t *info = layout_info(c->layout);
    return (kept_t){.gist = {.ratio = c->ratio, .window = c->ratio ? c->window : -1, .at_end = info->gists_at_end},
                    .n_blank = c->n_blank,
                    .keep = info->whole             ? KEEP_TAIL
                            : c->raw                ? KEEP_BOTH
                            : c->ratio || c->select ? KEEP_GIST
                                                    : KEEP_RAW,
                    .recurrent = info->recurrent,
                    .compact = c->compact,
                    .select = {.ratio = c->select, .by = c->by}};
}

typedef struct {
    const char *dir; /* of the model */
    comm_t *comm;
    const char *const *inputs;
    int n_input;
    const char *store;
    const deep_case_t *c;
    sharding_t shard;
    int64_t max_row, round_tokens;
} deep_job_t;

/* On the device, of f32. Collective. */
static inline status_t deep_encode(const deep_job_t *d, encode_report_t *report) {
    tiny_t tiny = {0};
    tokenizer_t *tokenizer = NULL;
    const layout_info_t *info = layout_info(d->c->layout);
    *report = (encode_report_t){0};
    status_t st = model_tokenizer_open(d->dir, &tokenizer);
    if (!st) st = tiny_open_on(&tiny, d->comm, d->dir, device_create(), DT_F32, 1, 8);
    encode_spec_t spec = {.inputs = d->inputs,
                          .n_input = d->n_input,
                          .store_dir = d->store,
                          .layout = d->c->layout,
                          .kept = deep_kept(d->c),
                          .align = ALIGN_LEFT,
                          .shard = d->shard,
                          .max_row = d->max_row,
                          .round_tokens = d->round_tokens};
    if (!st) {
        const model_config_t *mc = model_config(tiny.model);
        spec.profile = (store_profile_t){.n_layer = mc->n_layer,
                                         .n_kv_head = mc->n_kv_head,
                                         .d_head = mc->d_head,
                                         .n_vocab = mc->n_vocab,
                                         .segment = info->whole ? 1 << 20 : d->c->segment,
                                         .kv_type = DT_F32,
                                         .act = DT_F32,
                                         .model_fingerprint = "00000000000000000000000000000000",
                                         .align = "left"};
        snprintf(spec.profile.layout, sizeof spec.profile.layout, "%s", info->name);
        kept_text(&spec.kept, spec.profile.gists, sizeof spec.profile.gists);
        st = encode_corpus(tiny.model, tokenizer, d->comm, &spec, report);
    }
    tokenizer_free(tokenizer);
    tiny_close(&tiny);
    return st;
}

#endif
