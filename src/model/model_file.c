/* Opens a model: one GGUF file, or an HF folder
 *
 *     config.json   tokenizer.json   model.safetensors | model.safetensors.index.json + its shards
 *
 * Nothing is read here but headers: weights stay in the maps until model_load packs them.
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/file.h"
#include "io/json.h"
#include "model/file_impl.h"

static const size_t MAX_INDEX_BYTES = 64 << 20;
enum { MAX_SHARDS = 4096, MAX_PATH_BYTES = 4096 };

/* ---- where tensors come from -------------------------------------------------------------------------------- */
static const tensor_t *folder_at(const void *ctx, int64_t i) {
    const model_file_t *f = ctx;
    for (int64_t s = 0; s < f->n_shard; s++) {
        int64_t n = safetensors_count(f->shards[s]);
        if (i < n) return safetensors_at(f->shards[s], i);
        i -= n;
    }
    return NULL;
}
static const tensor_t *folder_find(const void *ctx, const char *name) {
    const model_file_t *f = ctx;
    const tensor_t *t = NULL;
    for (int64_t s = 0; s < f->n_shard && !t; s++) t = safetensors_find(f->shards[s], name);
    return t;
}
static const tensor_t *gguf_source_at(const void *ctx, int64_t i) { return gguf_at(ctx, i); }
static const tensor_t *gguf_source_find(const void *ctx, const char *name) { return gguf_find(ctx, name); }

static tensor_source_t source_of(const model_file_t *f) {
    tensor_source_t s = {folder_find, f, 0, folder_at, false, f->path};
    if (f->gguf) s = (tensor_source_t){gguf_source_find, f->gguf, gguf_count(f->gguf), gguf_source_at, true, f->path};
    for (int64_t i = 0; i < f->n_shard; i++) s.n += safetensors_count(f->shards[i]);
    return s;
}

/* ---- an HF folder ------------------------------------------------------------------------------------------- */
static status_t path_join(const char *dir, const char *name, char out[MAX_PATH_BYTES]) {
    int n = snprintf(out, MAX_PATH_BYTES, "%s/%s", dir, name);
    return n < MAX_PATH_BYTES ? ST_OK
                              : status_fail(ST_INPUT, "%.200s..: the path is longer than %d bytes; move the model", dir, MAX_PATH_BYTES);
}

static status_t shard_open(model_file_t *f, const char *name) {
    char path[MAX_PATH_BYTES];
    if (f->n_shard == MAX_SHARDS) return status_fail(ST_INPUT, "%s: more than %d weight files; join some", f->path, MAX_SHARDS);
    status_t st = path_join(f->path, name, path);
    if (!st) st = mem_grow(&f->shards, (size_t)f->n_shard + 1, sizeof *f->shards, "the list of weight files");
    if (!st) st = safetensors_open(path, &f->shards[f->n_shard]);
    if (!st) f->n_shard++;
    return st;
}

/* The index maps each tensor to its file: the distinct files are opened, and each must be a plain name inside the folder. */
static status_t shards_from_index(model_file_t *f, const char *index_path) {
    char *text = NULL;
    size_t bytes;
    cJSON *tree = NULL;
    const char *seen[MAX_SHARDS];
    int n_seen = 0;
    status_t st = file_read_text(index_path, MAX_INDEX_BYTES, &text, &bytes);
    if (!st) st = json_parse(text, bytes, index_path, &tree);
    if (st) goto out;
    const cJSON *map = json_get(tree, "weight_map"), *e;
    if (!cJSON_IsObject(map) || !map->child) {
        st = status_fail(ST_INPUT, "%s: no object \"weight_map\" with entries; get the file again", index_path);
        goto out;
    }
    for (e = map->child; e; e = e->next) {
        const char *name = cJSON_IsString(e) ? e->valuestring : NULL;
        if (!name || !*name || *name == '.' || strchr(name, '/')) {
            st = status_fail(ST_INPUT, "%s: an entry of \"weight_map\" names no file in the folder; get the file again", index_path);
            goto out;
        }
        int i = n_seen;
        while (i > 0 && strcmp(seen[i - 1], name)) i--;
        if (i > 0) continue;
        if ((st = shard_open(f, name))) goto out;
        seen[n_seen++] = name;
    }
out:
    cJSON_Delete(tree);
    mem_free(text);
    return st;
}

static status_t folder_open(model_file_t *f) {
    char path[MAX_PATH_BYTES];
    status_t st;
    if ((st = path_join(f->path, "config.json", path))) return st;
    if (!file_exists(path))
        return status_fail(ST_INPUT,
                           "%s: no config.json in it, so no model; name a folder as it comes from the hub (config.json, *.safetensors, "
                           "tokenizer.json) or a .gguf file",
                           f->path);
    if ((st = config_from_json(path, &f->config))) return st;
    if ((st = path_join(f->path, "model.safetensors", path))) return st;
    if (file_exists(path)) {
        if ((st = shard_open(f, "model.safetensors"))) return st;
    } else {
        if ((st = path_join(f->path, "model.safetensors.index.json", path))) return st;
        if (!file_exists(path))
            return status_fail(
                ST_INPUT,
                "%s: holds neither model.safetensors nor model.safetensors.index.json; name a folder with the weights, or a .gguf file",
                f->path);
        if ((st = shards_from_index(f, path))) return st;
    }
    return ST_OK;
}

/* ---- both ---------------------------------------------------------------------------------------------------- */
/* A tokenizer that we cannot read leaves the model usable by ids: said once, as a warning, with the reason. */
static status_t tokenizer_of(model_file_t *f) {
    char path[MAX_PATH_BYTES];
    const char *kind;
    size_t n;
    status_t st = ST_OK;
    if (f->gguf) {
        if (gguf_get_str(f->gguf, "tokenizer.ggml.model", &kind, &n)) st = tokenizer_from_gguf(f->gguf, f->path, &f->tokenizer);
    } else {
        if ((st = path_join(f->path, "tokenizer.json", path))) return st;
        if (file_exists(path)) st = tokenizer_from_json(path, &f->tokenizer);
    }
    if (st != ST_INPUT) return st;
    f->tokenizer = NULL;
    f->tokenizer_fault = mem_strdup(status_message());
    if (log_first()) log_warn("%s; only token ids can be used with this model", status_message());
    return ST_OK;
}

/* A model that does not say its name goes by that of its file or folder. */
static void name_by_path(model_file_t *f) {
    size_t end = strlen(f->path);
    while (end > 1 && f->path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && f->path[begin - 1] != '/') begin--;
    snprintf(f->config.name, sizeof f->config.name, "%.*s", (int)(end - begin), f->path + begin);
}

static status_t fill(model_file_t *f) {
    status_t st;
    if (file_is_dir(f->path)) {
        if ((st = folder_open(f))) return st;
    } else {
        if ((st = gguf_open(f->path, &f->gguf)) || (st = config_from_gguf(f->gguf, f->path, &f->config))) return st;
    }
    if (!*f->config.name) name_by_path(f);
    tensor_source_t source = source_of(f);
    if ((st = mem_zalloc(&f->weights, (size_t)bind_count(&f->config), sizeof *f->weights, "the table of weights"))) return st;
    if ((st = bind_weights(&source, &f->config, f->weights))) return st;
    return tokenizer_of(f);
}

status_t model_tokenizer_open(const char *path, tokenizer_t **out) {
    char inside[MAX_PATH_BYTES];
    gguf_t *g = NULL;
    status_t st;
    *out = NULL;
    if (file_is_dir(path)) {
        if ((st = path_join(path, "tokenizer.json", inside))) return st;
        if (!file_exists(inside))
            return status_fail(ST_INPUT, "%s: no tokenizer.json in it; put the model's there, or name a .gguf file", path);
        return tokenizer_from_json(inside, out);
    }
    if ((st = gguf_open(path, &g))) return st;
    st = tokenizer_from_gguf(g, path, out);
    gguf_close(g);
    return st;
}

status_t model_file_open(const char *path, model_file_t **out) {
    model_file_t *f = NULL;
    *out = NULL;
    status_t st = mem_zalloc(&f, 1, sizeof *f, "a model file");
    if (st) return st;
    f->path = mem_strdup(path);
    st = f->path ? fill(f) : ST_FAIL;
    if (st)
        model_file_close(f);
    else
        *out = f;
    return st;
}

void model_file_close(model_file_t *f) {
    if (!f) return;
    tokenizer_free(f->tokenizer);
    mem_free(f->weights);
    mem_free(f->made);
    mem_free(f->names);
    mem_free(f->tokenizer_fault);
    for (int64_t i = 0; i < f->n_shard; i++) safetensors_close(f->shards[i]);
    mem_free(f->shards);
    gguf_close(f->gguf);
    mem_free(f->path);
    mem_free(f);
}

const char *model_file_path(const model_file_t *f) { return f->path; }
const model_config_t *model_file_config(const model_file_t *f) { return &f->config; }
status_t model_file_rope_length(model_file_t *f, int64_t length) { return config_rope_length(&f->config, f->path, length); }
const gguf_t *model_file_gguf(const model_file_t *f) { return f->gguf; }
const tokenizer_t *model_file_tokenizer(const model_file_t *f) { return f->tokenizer; }
const char *model_file_tokenizer_fault(const model_file_t *f) { return f->tokenizer_fault; }
int64_t model_file_n_tensors(const model_file_t *f) { return source_of(f).n; }
const tensor_t *model_file_tensor(const model_file_t *f, int64_t i) {
    tensor_source_t s = source_of(f);
    return s.at(s.ctx, i);
}

/* ---- identity ------------------------------------------------------------------------------------------------ */
enum { PRINT_PAGES = 16, PRINT_PAGE_BYTES = 4096 };

static void hash_tensor(hash_state_t *h, const tensor_t *t) {
    char text[320];
    int n = snprintf(text, sizeof text, "%.200s|%s", t->name, t->enc_name);
    hash_add(h, text, (size_t)n + 1);
    hash_add(h, t->dims, (size_t)t->n_dim * sizeof *t->dims);
    if (t->bytes <= PRINT_PAGES * PRINT_PAGE_BYTES) {
        hash_add(h, t->data, t->bytes);
        return;
    }
    for (size_t i = 0; i < PRINT_PAGES; i++) hash_add(h, t->data + (t->bytes - PRINT_PAGE_BYTES) / (PRINT_PAGES - 1) * i, PRINT_PAGE_BYTES);
}

/* Only what decides results goes in: not the model's name, not how its tensors are spread over files. */
hash_t model_file_fingerprint(const model_file_t *f) {
    const model_config_t *c = &f->config;
    char text[512];
    hash_state_t *h = hash_create();
    if (!h) return (hash_t){0, 0};
    int n = snprintf(text, sizeof text, "%s|%lld|%lld|%lld|%lld|%lld|%lld|%lld|%lld|%lld|%a|%a|%d|%a|%a|%a|%lld|%d", c->arch,
                     (long long)c->n_vocab, (long long)c->n_layer, (long long)c->n_head, (long long)c->n_kv_head, (long long)c->d_model,
                     (long long)c->d_head, (long long)c->d_ff, (long long)c->d_rot, (long long)c->window, c->norm_eps, c->rope_theta,
                     (int)c->rope_scaling, c->rope_factor, c->rope_low, c->rope_high, (long long)c->rope_old_ctx, (int)c->tied);
    hash_add(h, text, (size_t)n);
    if (c->rope_scaling > ROPE_LLAMA3) {
        n = snprintf(text, sizeof text, "%a|%d|%lld", c->rope_attention, (int)c->rope_whole, (long long)c->rope_length);
        hash_add(h, text, (size_t)n);
        hash_add(h, c->rope_short, sizeof c->rope_short);
        hash_add(h, c->rope_long, sizeof c->rope_long);
    }
    for (int64_t i = 0; i < bind_count(c); i++)
        if (f->weights[i].tensor) hash_tensor(h, f->weights[i].tensor);
    return hash_finish(h);
}
