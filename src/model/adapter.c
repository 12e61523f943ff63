#include "model/adapter.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/file.h"
#include "io/safetensors.h"

enum { WORDS_MAX = 512 };

struct adapter {
    char *path;
    file_map_t map;
    safetensors_t *file;
    hash_t hash;
    model_config_t config;
    adapter_layer_t *layers; /* [n_layer] */
    int64_t n_gist, n_sink, used;
    float *gist, *sink, *zero_key;
    bool adds_unit;
};

static const char *const proj_names[PROJ_COUNT] = {"q", "k", "v", "o", "gate", "up", "down"};

static int64_t n_in(const model_config_t *c, proj_t p) {
    return p == PROJ_O ? c->n_head * c->d_head : p == PROJ_DOWN ? c->d_ff : c->d_model;
}

static int64_t n_out(const model_config_t *c, proj_t p) {
    switch (p) {
    case PROJ_Q:
        return c->n_head * c->d_head;
    case PROJ_K:
    case PROJ_V:
        return c->n_kv_head * c->d_head;
    case PROJ_GATE:
    case PROJ_UP:
        return c->d_ff;
    default:
        return c->d_model;
    }
}

/* ---- reading ------------------------------------------------------------------------------------------------------ */
static status_t shape_wrong(const adapter_t *a, const tensor_t *t, const char *must) {
    char found[96] = "a single number";
    size_t at = 0;
    for (int i = 0; i < t->n_dim && at < sizeof found; i++)
        at += (size_t)snprintf(found + at, sizeof found - at, "%s%" PRId64, i ? " x " : "", t->dims[i]);
    return status_fail(ST_INPUT, "%s: tensor %s is %s, must be %s for this model; use the model it was made for", a->path, t->name, found,
                       must);
}

/* Every number of it must be one. */
static status_t finite_check(const adapter_t *a, const tensor_t *t) {
    int64_t cols = tensor_cols(t), rows = tensor_rows(t);
    float *row = NULL;
    if (t->enc != ENC_F32 && t->enc != ENC_F16 && t->enc != ENC_BF16)
        return status_fail(ST_INPUT, "%s: tensor %s is of type %s; write it as F32, F16 or BF16", a->path, t->name, t->enc_name);
    status_t st = mem_alloc(&row, (size_t)cols, sizeof *row, "a row of an adapter");
    for (int64_t r = 0; r < rows && !st; r++) {
        st = tensor_read_rows(t, r, 1, row);
        for (int64_t i = 0; i < cols && !st; i++)
            if (!isfinite(row[i]))
                st = status_fail(ST_INPUT, "%s: tensor %s holds a number that is not finite, in row %" PRId64 "; train it again", a->path,
                                 t->name, r);
    }
    mem_free(row);
    return st;
}

/* A tensor of n_dim dims, dims < 0 being free; NULL and ST_OK when it is not there. */
static status_t take(adapter_t *a, const char *name, int n_dim, const int64_t *dims, const char *must, const tensor_t **out) {
    const tensor_t *t = *out = safetensors_find(a->file, name);
    if (!t) return ST_OK;
    bool fits = t->n_dim == n_dim;
    for (int i = 0; fits && i < n_dim; i++) fits = dims[i] < 0 ? t->dims[i] > 0 : t->dims[i] == dims[i];
    if (!fits) return shape_wrong(a, t, must);
    a->used++;
    return finite_check(a, t);
}

static status_t take_values(adapter_t *a, const char *name, int n_dim, const int64_t *dims, const char *must, float **out, int64_t *n) {
    const tensor_t *t;
    status_t st = take(a, name, n_dim, dims, must, &t);
    if (st || !t) return st;
    *n = t->dims[0];
    st = mem_alloc(out, (size_t)tensor_rows(t) * (size_t)tensor_cols(t), sizeof **out, "an adapter");
    return st ? st : tensor_read_rows(t, 0, tensor_rows(t), *out);
}

static status_t take_lora(adapter_t *a, int64_t layer, proj_t p, const char *kind, lora_t *out) {
    const model_config_t *c = &a->config;
    char name_a[96], name_b[96], must[96];
    int64_t dims_a[2] = {-1, n_in(c, p)}, dims_b[2] = {n_out(c, p), -1};
    snprintf(name_a, sizeof name_a, "layers.%" PRId64 ".%s.%s_a", layer, proj_names[p], kind);
    snprintf(name_b, sizeof name_b, "layers.%" PRId64 ".%s.%s_b", layer, proj_names[p], kind);
    snprintf(must, sizeof must, "rank x %" PRId64, dims_a[1]);
    status_t st = take(a, name_a, 2, dims_a, must, &out->a);
    snprintf(must, sizeof must, "%" PRId64 " x rank", dims_b[0]);
    if (!st) st = take(a, name_b, 2, dims_b, must, &out->b);
    if (st || (!out->a && !out->b)) return st;
    if (!out->a || !out->b)
        return status_fail(ST_INPUT, "%s: has %s but not %s; factors come in pairs", a->path, out->a ? name_a : name_b,
                           out->a ? name_b : name_a);
    out->rank = out->a->dims[0];
    if (out->rank != out->b->dims[1] || out->rank > ADAPTER_MAX_RANK)
        return status_fail(ST_INPUT, "%s: %s has rank %" PRId64 ", %s has %" PRId64 "; they must be equal and at most %d", a->path, name_a,
                           out->rank, name_b, out->b->dims[1], ADAPTER_MAX_RANK);
    return ST_OK;
}

/* Factors that are folded into the weights are wanted row by row, by many threads. */
static status_t lora_values(lora_t *l) {
    if (!l->rank) return ST_OK;
    status_t st = mem_alloc(&l->fa, (size_t)(l->rank * l->a->dims[1]), sizeof *l->fa, "low-rank factors");
    if (!st) st = mem_alloc(&l->fb, (size_t)(l->rank * l->b->dims[0]), sizeof *l->fb, "low-rank factors");
    if (!st) st = tensor_read_rows(l->a, 0, l->rank, l->fa);
    return st ? st : tensor_read_rows(l->b, 0, l->b->dims[0], l->fb);
}

static status_t take_layer(adapter_t *a, int64_t layer) {
    adapter_layer_t *y = &a->layers[layer];
    status_t st = ST_OK;
    for (proj_t p = PROJ_Q; p < PROJ_COUNT && !st; p++) {
        st = take_lora(a, layer, p, "lora", &y->all[p]);
        if (!st) st = lora_values(&y->all[p]);
        if (!st) st = take_lora(a, layer, p, "gist_lora", &y->gist[p]);
    }
    for (proj_t p = PROJ_Q; p <= PROJ_V && !st; p++) {
        char name[64], must[64];
        int64_t dims[2] = {n_out(&a->config, p), a->config.d_model};
        snprintf(name, sizeof name, "layers.%" PRId64 ".%s.gist_weight", layer, proj_names[p]);
        snprintf(must, sizeof must, "%" PRId64 " x %" PRId64, dims[0], dims[1]);
        st = take(a, name, 2, dims, must, &y->gist_weight[p]);
    }
    return st;
}

/* A tensor that nothing asked for would be missing from the result. */
static status_t unused_check(const adapter_t *a) {
    for (int64_t i = 0; i < safetensors_count(a->file) && a->used < safetensors_count(a->file); i++) {
        const char *name = safetensors_at(a->file, i)->name;
        long long layer;
        char proj[8], end[16];
        bool known = !strcmp(name, "gist_embedding") || !strcmp(name, "sink_embedding") || !strcmp(name, "zero_key");
        if (!known && sscanf(name, "layers.%lld.%7[a-z].%15[a-z_]", &layer, proj, end) == 3 && layer >= 0 && layer < a->config.n_layer) {
            char again[96];
            bool is_proj = false, weight = !strcmp(end, "gist_weight");
            for (proj_t p = PROJ_Q; p < (weight ? PROJ_O : PROJ_COUNT); p++) is_proj |= !strcmp(proj, proj_names[p]);
            snprintf(again, sizeof again, "layers.%lld.%s.%s", layer, proj, end);
            known =
                is_proj && !strcmp(again, name) &&
                (weight || !strcmp(end, "lora_a") || !strcmp(end, "lora_b") || !strcmp(end, "gist_lora_a") || !strcmp(end, "gist_lora_b"));
        }
        if (!known)
            return status_fail(ST_INPUT, "%s: tensor %.100s is not known, or not of a layer that this model has; see ADAPTER.md", a->path,
                               name);
    }
    return ST_OK;
}

/* Is `word` one of the blank-separated words? */
static bool listed(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *w = words; *(w += strspn(w, " "));) {
        size_t end = strcspn(w, " ");
        if (end == n && !memcmp(w, word, n)) return true;
        w += end;
    }
    return false;
}

static status_t meta_text(const adapter_t *a, const char *key, const char *what) {
    const char *s = safetensors_meta(a->file, key);
    if (s && strlen(s) < WORDS_MAX && s[strspn(s, " 0123456789abcdefghijklmnopqrstuvwxyz-")] == 0) return ST_OK;
    return status_fail(ST_INPUT, "%s: its metadata has no \"%s\" (%s), or one that is not words in lower case; see ADAPTER.md", a->path,
                       key, what);
}

static status_t meta_check(adapter_t *a, const char *fingerprint) {
    const char *format = safetensors_meta(a->file, "format"), *input = safetensors_meta(a->file, "gist_input");
    status_t st;
    if (!format || strcmp(format, "precis-adapter-1"))
        return status_fail(ST_INPUT, "%s: is no adapter of a format that this program knows; its metadata must say format precis-adapter-1",
                           a->path);
    if ((st = meta_text(a, "model", "the base's fingerprint")) || (st = meta_text(a, "layouts", "what it was trained for")) ||
        (st = meta_text(a, "ratios", "what it was trained for")))
        return st;
    if (input && strcmp(input, "own") && strcmp(input, "unit"))
        return status_fail(ST_INPUT, "%s: gist_input is \"%.40s\", must be own or unit; see ADAPTER.md", a->path, input);
    a->adds_unit = input && !strcmp(input, "unit");
    if (fingerprint && !listed(adapter_models(a), fingerprint))
        return status_fail(ST_INPUT, "%s: was made for the model with fingerprint %.140s, this one has %s; use that model, or its adapter",
                           a->path, adapter_models(a), fingerprint);
    return ST_OK;
}

static status_t fill(adapter_t *a, const void *data, size_t bytes, const char *fingerprint) {
    const model_config_t *c = &a->config;
    char must[96];
    int64_t rows[2] = {-1, c->d_model}, zero[3] = {c->n_layer, c->n_kv_head, c->d_head}, n_layer;
    status_t st = safetensors_parse(data, bytes, a->path, &a->file);
    if (!st) st = meta_check(a, fingerprint);
    if (!st) st = mem_zalloc(&a->layers, (size_t)c->n_layer, sizeof *a->layers, "an adapter");
    snprintf(must, sizeof must, "rows x %" PRId64, c->d_model);
    if (!st) st = take_values(a, "gist_embedding", 2, rows, must, &a->gist, &a->n_gist);
    if (!st) st = take_values(a, "sink_embedding", 2, rows, must, &a->sink, &a->n_sink);
    snprintf(must, sizeof must, "%" PRId64 " x %" PRId64 " x %" PRId64, zero[0], zero[1], zero[2]);
    if (!st) st = take_values(a, "zero_key", 3, zero, must, &a->zero_key, &n_layer);
    for (int64_t l = 0; l < c->n_layer && !st; l++) st = take_layer(a, l);
    if (!st) st = unused_check(a);
    a->hash = hash_bytes(data, bytes);
    return st;
}

status_t adapter_parse(const void *data, size_t bytes, const char *name, const model_config_t *config, const char *fingerprint,
                       adapter_t **out) {
    adapter_t *a = NULL;
    *out = NULL;
    status_t st = mem_zalloc(&a, 1, sizeof *a, "an adapter");
    if (st) return st;
    a->config = *config;
    a->path = mem_strdup(name);
    st = a->path ? fill(a, data, bytes, fingerprint) : status_fail(ST_FAIL, "out of memory for an adapter");
    if (st)
        adapter_free(a);
    else
        *out = a;
    return st;
}

status_t adapter_open(const char *path, const model_file_t *base, adapter_t **out) {
    file_map_t map;
    char hex[HASH_HEX];
    *out = NULL;
    if (!path) return ST_OK;
    status_t st = file_map(path, &map);
    if (st) return st;
    hash_hex(model_file_fingerprint(base), hex);
    st = adapter_parse(map.data, map.bytes, path, model_file_config(base), hex, out);
    if (st)
        file_unmap(&map);
    else
        (*out)->map = map;
    return st;
}

void adapter_free(adapter_t *a) {
    if (!a) return;
    for (int64_t l = 0; a->layers && l < a->config.n_layer; l++)
        for (proj_t p = PROJ_Q; p < PROJ_COUNT; p++) {
            mem_free(a->layers[l].all[p].fa);
            mem_free(a->layers[l].all[p].fb);
        }
    mem_free(a->layers);
    mem_free(a->gist);
    mem_free(a->sink);
    mem_free(a->zero_key);
    safetensors_close(a->file);
    file_unmap(&a->map);
    mem_free(a->path);
    mem_free(a);
}

/* ---- use ---------------------------------------------------------------------------------------------------------- */
status_t adapter_check(const adapter_t *a, const char *layout, int64_t ratio) {
    char number[24];
    if (!a) return ST_OK;
    if (!listed(adapter_layouts(a), layout))
        return status_fail(ST_INPUT, "%s: was trained for --layout %.100s, not %s; use one of these, or another adapter", a->path,
                           adapter_layouts(a), layout);
    snprintf(number, sizeof number, "%" PRId64, ratio);
    if (ratio && !listed(adapter_ratios(a), number))
        return status_fail(ST_INPUT, "%s: was trained for --ratio %.100s, not %s; use one of these, or another adapter", a->path,
                           adapter_ratios(a), number);
    return ST_OK;
}

const char *adapter_path(const adapter_t *a) { return a->path; }
hash_t adapter_hash(const adapter_t *a) { return a->hash; }
int64_t adapter_n_gist(const adapter_t *a) { return a ? a->n_gist : 0; }
const float *adapter_gist(const adapter_t *a, int64_t i) { return a->gist + i * a->config.d_model; }
bool adapter_adds_unit(const adapter_t *a) { return a && a->adds_unit; }
int64_t adapter_n_sink(const adapter_t *a) { return a ? a->n_sink : 0; }
const float *adapter_sink(const adapter_t *a, int64_t i) { return a->sink + i * a->config.d_model; }
const float *adapter_zero_key(const adapter_t *a) { return a ? a->zero_key : NULL; }
const adapter_layer_t *adapter_layer(const adapter_t *a, int64_t layer) { return a ? &a->layers[layer] : NULL; }
const char *adapter_models(const adapter_t *a) { return safetensors_meta(a->file, "model"); }
const char *adapter_layouts(const adapter_t *a) { return safetensors_meta(a->file, "layouts"); }
const char *adapter_ratios(const adapter_t *a) { return safetensors_meta(a->file, "ratios"); }

int64_t adapter_count(const adapter_t *a, bool gist_alone, int64_t *largest_rank) {
    int64_t n = 0;
    *largest_rank = 0;
    for (int64_t l = 0; l < a->config.n_layer; l++)
        for (proj_t p = PROJ_Q; p < PROJ_COUNT; p++) {
            int64_t rank = gist_alone ? a->layers[l].gist[p].rank : a->layers[l].all[p].rank;
            n += rank > 0;
            *largest_rank = i64_max(*largest_rank, rank);
        }
    return n;
}

int64_t adapter_n_weights(const adapter_t *a) {
    int64_t n = 0;
    for (int64_t l = 0; l < a->config.n_layer; l++)
        for (int p = 0; p < 3; p++) n += a->layers[l].gist_weight[p] != NULL;
    return n;
}
