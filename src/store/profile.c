/* The profile as text comes in two forms that must change together: canonical fields (hashed into every address) and store.json (for people
 * and for readers). */
#include "store/profile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/file.h"
#include "io/json.h"
#include "store/folder.h"
#include "store/line.h"

static const int64_t DIM_MAX = 1 << 20, SEGMENT_MAX = (int64_t)1 << 31;
static const size_t PROFILE_BYTES_MAX = 16u << 20;
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "stores are little-endian and written from memory as it is");

/* ---- addresses ---------------------------------------------------------------------------------------------------- */

hash_t profile_hash(const store_profile_t *p) {
    char text[768];
    int n = snprintf(text, sizeof text,
                     "precis segment 1\nmodel %s\nshape %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\nlayout %s\nsegment %" PRId64
                     "\nalign %s\nkv %s\nact %s\nsink %" PRId64 "\n",
                     p->model_fingerprint, p->n_layer, p->n_kv_head, p->d_head, p->n_vocab, p->layout, p->segment, p->align,
                     dtype_name(p->kv_type), dtype_name(p->act), p->n_sink);
    if (*p->gists) n += snprintf(text + n, sizeof text - (size_t)n, "gists %s\n", p->gists);
    if (*p->adapter) n += snprintf(text + n, sizeof text - (size_t)n, "adapter %s\n", p->adapter);
    hash_t half[2] = {hash_bytes(text, (size_t)n), hash_bytes(p->sink, p->n_sink ? (size_t)p->n_sink * sizeof *p->sink : 0)};
    return hash_bytes(half, sizeof half);
}

hash_t store_address(const store_profile_t *p, const int32_t *tokens, int64_t n, const hash_t *before) {
    struct {
        hash_t profile, before, tokens;
        int64_t n, follows;
    } key = {profile_hash(p), before ? *before : (hash_t){0, 0}, hash_bytes(tokens, n ? (size_t)n * sizeof *tokens : 0), n, before != NULL};
    return hash_bytes(&key, sizeof key); /* 64 bytes without padding */
}

/* ---- checks and copies -------------------------------------------------------------------------------------------- */

static bool type_fits(dtype_t t) { return t == DT_F32 || t == DT_F16 || t == DT_BF16; }

static status_t dim_check(const char *where, const char *what, int64_t v, int64_t most) {
    if (v > 0 && v <= most) return ST_OK;
    return status_fail(ST_INPUT, "%s: %s is %" PRId64 ", must be 1 to %" PRId64 "; use another model or store", where, what, v, most);
}

status_t profile_check(const store_profile_t *p, const char *where) {
    status_t st;
    if ((st = dim_check(where, "n_layer", p->n_layer, DIM_MAX)) || (st = dim_check(where, "n_kv_head", p->n_kv_head, DIM_MAX)) ||
        (st = dim_check(where, "d_head", p->d_head, DIM_MAX)) || (st = dim_check(where, "n_vocab", p->n_vocab, SEGMENT_MAX)) ||
        (st = dim_check(where, "segment", p->segment, SEGMENT_MAX)))
        return st;
    if (p->n_sink < 0 || p->n_sink > PROFILE_SINK_MAX)
        return status_fail(ST_INPUT, "%s: a sink of %" PRId64 " tokens, at most %d; use a shorter --sink", where, p->n_sink,
                           PROFILE_SINK_MAX);
    if (!type_fits(p->kv_type) || !type_fits(p->act))
        return status_fail(ST_INPUT, "%s: K/V type and dtype must be f32, f16 or bf16; choose one of them", where);
    return ST_OK;
}

status_t profile_copy(const store_profile_t *p, store_profile_t *out) {
    int32_t *sink;
    status_t st = mem_alloc(&sink, (size_t)p->n_sink, sizeof *sink, "the sink's ids");
    if (st) return st;
    if (sink) memcpy(sink, p->sink, (size_t)p->n_sink * sizeof *sink);
    *out = *p;
    out->sink = sink;
    return ST_OK;
}

void profile_free(store_profile_t *p) {
    mem_free((void *)p->sink);
    p->sink = NULL;
    p->n_sink = 0;
}

/* ---- comparison --------------------------------------------------------------------------------------------------- */

static status_t differs(const char *dir, const char *what, const char *have, const char *want) {
    return status_fail(ST_INPUT, "%s was made with %s %s, not %s; use the same settings, or another --store for these", dir, what, have,
                       want);
}

static status_t text_compare(const char *dir, const char *what, const char *have, const char *want) {
    return strcmp(have, want) ? differs(dir, what, have, want) : ST_OK;
}

static status_t int_compare(const char *dir, const char *what, int64_t have, int64_t want) {
    char a[24], b[24];
    if (have == want) return ST_OK;
    snprintf(a, sizeof a, "%" PRId64, have);
    snprintf(b, sizeof b, "%" PRId64, want);
    return differs(dir, what, a, b);
}

/* A pool of edits has a layout that no option names. */
static status_t layout_compare(const char *dir, const char *have, const char *want) {
    bool had = !strcmp(have, "incomes"), wants = !strcmp(want, "incomes");
    if (had == wants) return text_compare(dir, "--layout", have, want);
    return status_fail(ST_INPUT, "%s %s a pool of edits (precis edit encode); give another --store", dir,
                       had ? "is" : "holds text and is not");
}

static status_t model_compare(const char *dir, const store_profile_t *have, const store_profile_t *want) {
    char a[192], b[192];
    if (!strcmp(have->model_fingerprint, want->model_fingerprint)) return ST_OK;
    snprintf(a, sizeof a, "%s (fingerprint %s)", have->model_name, have->model_fingerprint);
    snprintf(b, sizeof b, "%s (fingerprint %s)", want->model_name, want->model_fingerprint);
    return differs(dir, "the model", a, b);
}

static status_t sink_compare(const char *dir, const store_profile_t *have, const store_profile_t *want) {
    char what[64];
    status_t st = int_compare(dir, "a sink (--sink) of tokens:", have->n_sink, want->n_sink);
    for (int64_t i = 0; !st && i < have->n_sink; i++) {
        snprintf(what, sizeof what, "a sink (--sink) whose token %" PRId64 " is", i);
        st = int_compare(dir, what, have->sink[i], want->sink[i]);
    }
    return st;
}

status_t profile_compare(const char *dir, const store_profile_t *have, const store_profile_t *want) {
    status_t st;
    if ((st = model_compare(dir, have, want)) || (st = layout_compare(dir, have->layout, want->layout)) ||
        (st = int_compare(dir, "layers", have->n_layer, want->n_layer)) ||
        (st = int_compare(dir, "K/V heads", have->n_kv_head, want->n_kv_head)) ||
        (st = int_compare(dir, "head size", have->d_head, want->d_head)) ||
        (st = int_compare(dir, "vocabulary", have->n_vocab, want->n_vocab)) ||
        (st = int_compare(dir, "--segment", have->segment, want->segment)) ||
        (st = text_compare(dir, "--align", have->align, want->align)) ||
        (st = text_compare(dir, "gists:", *have->gists ? have->gists : "none", *want->gists ? want->gists : "none")) ||
        (st = text_compare(dir, "--adapter", *have->adapter ? have->adapter : "none", *want->adapter ? want->adapter : "none")) ||
        (st = text_compare(dir, "K/V type", dtype_name(have->kv_type), dtype_name(want->kv_type))) ||
        (st = text_compare(dir, "--dtype", dtype_name(have->act), dtype_name(want->act))))
        return st;
    return sink_compare(dir, have, want);
}

/* ---- store.json --------------------------------------------------------------------------------------------------- */

static bool text_get(const cJSON *o, const char *key, char *out, size_t cap) {
    const char *s = json_get_str(o, key);
    if (!s || strlen(s) >= cap) return false;
    snprintf(out, cap, "%s", s);
    return true;
}

static bool type_get(const cJSON *o, const char *key, dtype_t *out) {
    const char *s = json_get_str(o, key);
    for (int t = 0; s && t < DT_COUNT; t++) {
        *out = (dtype_t)t;
        if (!strcmp(s, dtype_name(*out))) return true;
    }
    return false;
}

static status_t sink_get(const char *path, const cJSON *o, store_profile_t *out) {
    const cJSON *list = json_get(o, "sink");
    int64_t n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1;
    if (n < 0 || n > PROFILE_SINK_MAX) return status_fail(ST_INPUT, "%s: the list of sink ids is missing or too long", path);
    int32_t *sink;
    status_t st = mem_alloc(&sink, (size_t)n, sizeof *sink, "the sink's ids");
    if (st) return st;
    out->sink = sink;
    out->n_sink = n;
    for (const cJSON *v = list->child; v; v = v->next) {
        if (!cJSON_IsNumber(v) || !(v->valuedouble >= INT32_MIN && v->valuedouble <= INT32_MAX))
            return status_fail(ST_INPUT, "%s: a sink id is no number", path);
        *sink++ = (int32_t)v->valuedouble;
    }
    return ST_OK;
}

static status_t fields_get(const char *path, const cJSON *o, store_profile_t *out) {
    if (json_get(o, "gists") && !text_get(o, "gists", out->gists, sizeof out->gists))
        return status_fail(ST_INPUT, "%s: gists is no text, or a longer one than this program knows", path);
    if (json_get(o, "adapter") && !text_get(o, "adapter", out->adapter, sizeof out->adapter))
        return status_fail(ST_INPUT, "%s: adapter is no hash", path);
    if (text_get(o, "model", out->model_name, sizeof out->model_name) &&
        text_get(o, "fingerprint", out->model_fingerprint, sizeof out->model_fingerprint) &&
        text_get(o, "layout", out->layout, sizeof out->layout) && text_get(o, "align", out->align, sizeof out->align) &&
        text_get(o, "backend", out->backend, sizeof out->backend) && type_get(o, "kv_type", &out->kv_type) &&
        type_get(o, "act", &out->act) && json_get_i64(o, "n_layer", &out->n_layer) && json_get_i64(o, "n_kv_head", &out->n_kv_head) &&
        json_get_i64(o, "d_head", &out->d_head) && json_get_i64(o, "n_vocab", &out->n_vocab) && json_get_i64(o, "segment", &out->segment))
        return sink_get(path, o, out);
    return status_fail(ST_INPUT, "%s: a setting is missing or of the wrong type", path);
}

status_t profile_parse(const char *path, const char *text, size_t bytes, profile_state_t *state, store_profile_t *out) {
    lines_t lines = {text, bytes, 0, 0};
    line_t line;
    cJSON *o = NULL;
    int64_t version = 0;
    *out = (store_profile_t){0};
    *state = PROFILE_DAMAGED;
    if (lines_next(&lines, &line) != LINE_GOOD || line.bytes != bytes) {
        status_fail(ST_INPUT, "%s is damaged: its checksum does not match; encode again with the settings of the store to repair it", path);
        return ST_OK;
    }
    status_t st = json_parse(text, bytes, path, &o);
    const char *format = json_get_str(o, "precis");
    if (!st && (!format || strcmp(format, "store") || !json_get_i64(o, "version", &version)))
        st = status_fail(ST_INPUT, "%s is no store.json of Precis; use another --store", path);
    if (!st && version != STORE_VERSION) {
        st = status_fail(ST_INPUT,
                         "%s: format version %" PRId64 ", this program reads %d; use the program that wrote it, or another --store", path,
                         version, STORE_VERSION);
        cJSON_Delete(o);
        return st;
    }
    if (!st) st = fields_get(path, o, out);
    if (!st) st = profile_check(out, path);
    cJSON_Delete(o);
    if (st) profile_free(out);
    if (!st) *state = PROFILE_GOOD;
    return st == ST_FAIL ? st : ST_OK;
}

status_t profile_read(const char *dir, profile_state_t *state, store_profile_t *out) {
    char path[FOLDER_PATH], *text = NULL;
    size_t bytes;
    *out = (store_profile_t){0};
    *state = PROFILE_MISSING;
    status_t st = folder_path(dir, "store.json", path);
    if (st) return st;
    if (!file_exists(path)) {
        status_fail(ST_INPUT, "%s is no store: it has no store.json; name a folder that `precis encode --store` made", dir);
        return ST_OK;
    }
    *state = PROFILE_DAMAGED;
    st = file_read_text(path, PROFILE_BYTES_MAX, &text, &bytes);
    if (!st) st = profile_parse(path, text, bytes, state, out);
    mem_free(text);
    return st;
}

status_t profile_write(const char *dir, const store_profile_t *p) {
    char path[FOLDER_PATH], *text = NULL;
    size_t bytes = 0;
    json_out_t j;
    status_t st = folder_path(dir, "store.json", path);
    if (st) return st;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return status_fail(ST_FAIL, "out of memory for store.json; use a machine with more memory");
    json_begin(&j, f);
    json_open(&j, NULL, '{');
    json_str(&j, "precis", "store");
    json_int(&j, "version", STORE_VERSION);
    json_str(&j, "model", p->model_name);
    json_str(&j, "fingerprint", p->model_fingerprint);
    json_int(&j, "n_layer", p->n_layer);
    json_int(&j, "n_kv_head", p->n_kv_head);
    json_int(&j, "d_head", p->d_head);
    json_int(&j, "n_vocab", p->n_vocab);
    json_str(&j, "layout", p->layout);
    json_int(&j, "segment", p->segment);
    json_str(&j, "align", p->align);
    if (*p->gists) json_str(&j, "gists", p->gists);
    if (*p->adapter) json_str(&j, "adapter", p->adapter);
    json_str(&j, "kv_type", dtype_name(p->kv_type));
    json_str(&j, "act", dtype_name(p->act));
    json_str(&j, "backend", p->backend);
    json_open(&j, "sink", '[');
    for (int64_t i = 0; i < p->n_sink; i++) json_int(&j, NULL, p->sink[i]);
    json_close(&j);
    st = line_finish(&j, f, &text, &bytes);
    if (!st) st = file_write_atomic(path, text, bytes);
    free(text);
    return st;
}
