/* A tokenizer from HF's tokenizer.json, and what stands in the files beside it:
 *
 *     tokenizer.json           model (vocabulary, merges), added tokens, the stages around the model
 *     tokenizer_config.json    which tokens begin and end a text, the chat template
 *     chat_template.jinja      the chat template, in newer folders
 *     generation_config.json   which tokens end a generation
 *
 * Limits on truncation and padding in the file are for batches of other programs and are not applied.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/file.h"
#include "io/json.h"
#include "io/utf8.h"
#include "text/pipeline_json.h"
#include "text/tokenizer_impl.h"

enum { JSON_FILE_MAX = 512 << 20, CONFIG_FILE_MAX = 64 << 20 };

static bool said(const cJSON *o, const char *key) { /* neither absent, null, false, "" nor 0 */
    const cJSON *x = json_get(o, key);
    return x && !cJSON_IsNull(x) && !cJSON_IsFalse(x) && !(cJSON_IsString(x) && !*x->valuestring) &&
           !(cJSON_IsNumber(x) && x->valuedouble == 0);
}

static status_t model_check(const cJSON *model, bool textual, const char *name) {
    static const char *const unsupported[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    const char *type = json_get_str(model, "type");
    const cJSON *vocab = json_get(model, "vocab"), *merges = json_get(model, "merges");
    if (type && strcmp(type, "BPE"))
        return status_fail(ST_INPUT, "%s: tokenizer model \"%.40s\" is not supported (only BPE is); use another model", name, type);
    if (!cJSON_IsObject(vocab) || !cJSON_IsArray(merges))
        return status_fail(ST_INPUT, "%s: no model with vocab and merges; is it a tokenizer.json?", name);
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
        if (said(model, unsupported[i]))
            return status_fail(ST_INPUT, "%s: a BPE model with \"%s\" is not supported; use another model", name, unsupported[i]);
    if (!textual && said(model, "byte_fallback"))
        return status_fail(ST_INPUT, "%s: a byte-level BPE model with \"byte_fallback\" is not supported; use another model", name);
    return ST_OK;
}

/* A whole number that can be an id, or -1. */
static int64_t id_of(const cJSON *x) {
    return cJSON_IsNumber(x) && x->valuedouble >= 0 && x->valuedouble < VOCABULARY_IDS_MAX &&
                   x->valuedouble == (double)(int64_t)x->valuedouble
               ? (int64_t)x->valuedouble
               : -1;
}

static const cJSON *first_of(const cJSON *o, const char *key) {
    const cJSON *list = json_get(o, key);
    return list ? list->child : NULL;
}

static status_t count_ids(const cJSON *root, const cJSON *model, const char *name, int64_t *n_id) {
    *n_id = 0;
    for (const cJSON *x = first_of(model, "vocab"); x; x = x->next) {
        if (id_of(x) < 0)
            return status_fail(ST_INPUT, "%s: token \"%.40s\" has no id from 0 to %d; get the file again", name, x->string,
                               VOCABULARY_IDS_MAX - 1);
        *n_id = i64_max(*n_id, id_of(x) + 1);
    }
    for (const cJSON *x = first_of(root, "added_tokens"); x; x = x->next) *n_id = i64_max(*n_id, id_of(json_get(x, "id")) + 1);
    return ST_OK;
}

static status_t read_merge(vocabulary_t *v, int64_t rank, const cJSON *x) {
    if (cJSON_IsString(x)) return vocabulary_merge_line(v, rank, x->valuestring, strlen(x->valuestring));
    const cJSON *a = cJSON_IsArray(x) ? x->child : NULL, *b = a ? a->next : NULL;
    if (!b || b->next || !cJSON_IsString(a) || !cJSON_IsString(b))
        return status_fail(ST_INPUT, "%s: merge %lld is neither \"a b\" nor [\"a\", \"b\"]; get the file again", v->name, (long long)rank);
    return vocabulary_merge(v, rank, a->valuestring, strlen(a->valuestring), b->valuestring, strlen(b->valuestring));
}

static status_t read_unk(vocabulary_t *v, const cJSON *model) {
    const char *unk = json_get_str(model, "unk_token");
    char key[TOKEN_BYTES_MAX];
    size_t n;
    if (!unk) return ST_OK;
    if (strlen(unk) < sizeof key && vocabulary_key(v, unk, strlen(unk), key, &n)) v->unk = vocabulary_find(v, key, n);
    if (v->unk < 0) return status_fail(ST_INPUT, "%s: unk_token \"%.40s\" is not in the vocabulary; get the file again", v->name, unk);
    json_get_bool(model, "fuse_unk", &v->fuse_unk);
    return ST_OK;
}

static status_t read_model(tokenizer_t *t, const cJSON *root, const char *name) {
    const cJSON *model = json_get(root, "model");
    vocabulary_t *v = &t->vocabulary, like = *v;
    int64_t n_id, rank = 0;
    bool fallback = false;
    status_t st = model_check(model, v->textual, name);
    if (!st) st = count_ids(root, model, name, &n_id);
    if (!st) st = vocabulary_create(v, &like, n_id, cJSON_GetArraySize(json_get(model, "merges")), name);
    for (const cJSON *x = st ? NULL : first_of(model, "vocab"); x && !st; x = x->next)
        st = vocabulary_set(v, id_of(x), x->string, strlen(x->string), true);
    if (st) return st;
    json_get_bool(model, "byte_fallback", &fallback);
    vocabulary_index_bytes(v, fallback);
    for (const cJSON *x = first_of(model, "merges"); x && !st; x = x->next) st = read_merge(v, rank++, x);
    json_get_bool(model, "ignore_merges", &t->ignore_merges);
    if (!st) st = read_unk(v, model);
    if (!st) vocabulary_find_cuts(v);
    return st;
}

/* An added token may be in the model's vocabulary too; then both must mean the same. */
static status_t place_added(vocabulary_t *v, const added_token_t *a) {
    char key[ADDED_BYTES_MAX];
    size_t n;
    int32_t known = -1;
    if (a->n > sizeof key) return ST_OK; /* added_put words this */
    if (vocabulary_key(v, a->text, a->n, key, &n)) known = vocabulary_find(v, key, n);
    piece_t k = v->key[a->id];
    if (k.n == 0 && known < 0) return vocabulary_set(v, a->id, a->text, a->n, false);
    if (k.n == n && !memcmp(v->blob + k.at, key, n)) return ST_OK;
    return status_fail(ST_INPUT, "%s: added token \"%.40s\" with id %d disagrees with the vocabulary; get the file again", v->name, a->text,
                       a->id);
}

static status_t read_added(tokenizer_t *t, const cJSON *x, const char *name) {
    const char *text = json_get_str(x, "content");
    int64_t id = id_of(json_get(x, "id"));
    if (!text || id < 0) return status_fail(ST_INPUT, "%s: an added token without content or id; get the file again", name);
    added_token_t a = {.text = text, .n = strlen(text), .id = (int32_t)id};
    json_get_bool(x, "special", &a.special);
    json_get_bool(x, "single_word", &a.single_word);
    json_get_bool(x, "lstrip", &a.lstrip);
    json_get_bool(x, "rstrip", &a.rstrip);
    json_get_bool(x, "normalized", &a.normalized);
    normal_work_t work = {0};
    status_t st = place_added(&t->vocabulary, &a);
    if (!st && a.normalized && utf8_valid_bytes(a.text, a.n) == a.n) /* it is looked for in normalised text */
        st = normal_run(&t->normal, &work, &a.text, &a.n);
    if (!st && a.text != text) st = vocabulary_show_as(&t->vocabulary, a.id, a.text, a.n); /* and HF shows it so */
    if (!st) st = added_put(a.normalized ? &t->added_normalized : &t->added_raw, &a, name);
    normal_work_free(&work);
    return st;
}

/* ---- tokenizer_config.json ---- */

static const char *token_text(const cJSON *config, const char *key) { /* "text" or {"content": "text", ...} */
    const cJSON *x = json_get(config, key);
    return cJSON_IsString(x) ? x->valuestring : json_get_str(x, "content");
}

static status_t read_template(tokenizer_t *t, const cJSON *config) {
    const cJSON *x = json_get(config, "chat_template");
    if (cJSON_IsArray(x)) { /* several, by name */
        const cJSON *named = x->child;
        while (named && !(json_get_str(named, "name") && !strcmp(json_get_str(named, "name"), "default"))) named = named->next;
        x = json_get(named ? named : x->child, "template");
    }
    return cJSON_IsString(x) ? chat_recognise(&t->chat, x->valuestring, strlen(x->valuestring)) : ST_OK;
}

/* Begin and end of a text. The config's word on adding BOS goes before the post-processor's. */
static status_t read_ends(tokenizer_t *t, const cJSON *root, const cJSON *config, const char *name) {
    const char *put, *bos = token_text(config, "bos_token"), *eos = token_text(config, "eos_token");
    status_t st = pipeline_bos(root, name, &put);
    if (st) return st;
    if (!bos) bos = put;
    t->bos = bos ? tokenizer_find(t, bos) : -1;
    t->adds_bos = put != NULL;
    json_get_bool(config, "add_bos_token", &t->adds_bos);
    if (t->bos < 0) t->adds_bos = false;
    if (eos) tokenizer_add_eos(t, tokenizer_find(t, eos));
    tokenizer_add_family_eos(t);
    return ST_OK;
}

status_t tokenizer_parse_json(const char *text, size_t n, const char *name, const char *config, size_t config_n, const char *chat_template,
                              tokenizer_t **out) {
    tokenizer_t *t = NULL;
    cJSON *root = NULL, *conf = NULL;
    status_t st = json_parse(text, n, name, &root);
    *out = NULL;
    if (!st && config && (st = json_parse(config, config_n, name, &conf))) st = status_prefix(st, "tokenizer_config.json beside ");
    if (!st) st = tokenizer_create(&t);
    if (!st) st = pipeline_read(t, root, name);
    if (!st) st = read_model(t, root, name);
    for (const cJSON *x = st ? NULL : first_of(root, "added_tokens"); x && !st; x = x->next) st = read_added(t, x, name);
    if (!st) st = tokenizer_ready(t, name);
    if (!st && chat_template) st = chat_recognise(&t->chat, chat_template, strlen(chat_template));
    if (!st) st = read_template(t, conf);
    if (!st) st = read_ends(t, root, conf, name);
    cJSON_Delete(root);
    cJSON_Delete(conf);
    if (st)
        tokenizer_free(t);
    else
        *out = t;
    return st;
}

status_t tokenizer_read_generation(tokenizer_t *t, const char *text, size_t n, const char *name) {
    cJSON *root = NULL;
    status_t st = json_parse(text, n, name, &root);
    if (st) return st;
    const cJSON *eos = json_get(root, "eos_token_id"); /* an id or a list of them */
    for (const cJSON *x = cJSON_IsArray(eos) ? eos->child : eos; x && !st; x = cJSON_IsArray(eos) ? x->next : NULL) {
        if (cJSON_IsNull(x)) continue;
        int64_t id = id_of(x);
        if (id < 0 || id >= t->vocabulary.n)
            st = status_fail(ST_INPUT, "%s: eos_token_id names no token of the vocabulary (ids 0 .. %lld); get the file again", name,
                             (long long)t->vocabulary.n - 1);
        else
            tokenizer_add_eos(t, (int32_t)id);
    }
    cJSON_Delete(root);
    return st;
}

/* The text of a file beside path, or NULL when there is none. */
static status_t read_beside(const char *path, const char *file, char **text, size_t *n) {
    const char *slash = strrchr(path, '/');
    size_t folder = slash ? (size_t)(slash - path) + 1 : 0, len = folder + strlen(file) + 1;
    char *beside;
    *text = NULL;
    *n = 0;
    status_t st = mem_alloc(&beside, len, 1, "a path");
    if (st) return st;
    memcpy(beside, path, folder);
    memcpy(beside + folder, file, len - folder);
    if (file_exists(beside)) st = file_read_text(beside, CONFIG_FILE_MAX, text, n);
    mem_free(beside);
    return st;
}

status_t tokenizer_from_json(const char *path, tokenizer_t **out) {
    char *text = NULL, *config = NULL, *chat_template = NULL, *generation = NULL;
    size_t n, config_n, chat_n, generation_n;
    *out = NULL;
    status_t st = file_read_text(path, JSON_FILE_MAX, &text, &n);
    if (!st) st = read_beside(path, "tokenizer_config.json", &config, &config_n);
    if (!st) st = read_beside(path, "chat_template.jinja", &chat_template, &chat_n);
    if (!st) st = read_beside(path, "generation_config.json", &generation, &generation_n);
    if (!st) st = tokenizer_parse_json(text, n, path, config, config_n, chat_template, out);
    if (!st && generation && (st = tokenizer_read_generation(*out, generation, generation_n, path))) {
        status_prefix(st, "generation_config.json beside ");
        tokenizer_free(*out);
        *out = NULL;
    }
    mem_free(text);
    mem_free(config);
    mem_free(chat_template);
    mem_free(generation);
    return st;
}
