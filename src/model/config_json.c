/* Dimensions from the config.json of an HF folder. Two generations are met: rope_theta and rope_scaling side by side, and (newer) both
 * inside rope_parameters. A key that is there but of the wrong type is an error, never taken as absent; null is absent. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "io/file.h"
#include "io/json.h"
#include "model/arch.h"
#include "model/config.h"

static const size_t MAX_CONFIG_BYTES = 16 << 20;

typedef struct {
    const cJSON *o;
    const char *path;
} reader_t;

static bool has(reader_t r, const char *key) {
    const cJSON *v = json_get(r.o, key);
    return v && !cJSON_IsNull(v);
}

static status_t bad_type(reader_t r, const char *key, const char *wanted) {
    return status_fail(ST_INPUT, "%s: \"%s\" must be %s; repair the file", r.path, key, wanted);
}

/* Leaves *out as it is when the key is absent. */
static status_t may_i64(reader_t r, const char *key, int64_t *out) {
    return !has(r, key) || json_get_i64(r.o, key, out) ? ST_OK : bad_type(r, key, "a whole number");
}
static status_t may_f64(reader_t r, const char *key, double *out) {
    return !has(r, key) || json_get_f64(r.o, key, out) ? ST_OK : bad_type(r, key, "a number");
}
static status_t may_bool(reader_t r, const char *key, bool *out) {
    return !has(r, key) || json_get_bool(r.o, key, out) ? ST_OK : bad_type(r, key, "true or false");
}
static status_t may_str(reader_t r, const char *key, const char **out) {
    if (!has(r, key)) return ST_OK;
    *out = json_get_str(r.o, key);
    return *out ? ST_OK : bad_type(r, key, "a string");
}
static status_t need_i64(reader_t r, const char *key, int64_t *out) {
    return json_get_i64(r.o, key, out) ? ST_OK : bad_type(r, key, "there and a whole number");
}
static status_t need_f64(reader_t r, const char *key, double *out) {
    return json_get_f64(r.o, key, out) ? ST_OK : bad_type(r, key, "there and a number");
}

static status_t dims_from(reader_t r, const arch_t *arch, model_config_t *c) {
    status_t st;
    if ((st = need_i64(r, "hidden_size", &c->d_model)) || (st = need_i64(r, "num_hidden_layers", &c->n_layer)) ||
        (st = need_i64(r, "num_attention_heads", &c->n_head)) || (st = need_i64(r, "intermediate_size", &c->d_ff)) ||
        (st = need_i64(r, "vocab_size", &c->n_vocab)) || (st = need_i64(r, "max_position_embeddings", &c->n_ctx)) ||
        (st = need_f64(r, "rms_norm_eps", &c->norm_eps)) || (st = may_bool(r, "tie_word_embeddings", &c->tied)))
        return st;
    bool null_kv = json_get(r.o, "num_key_value_heads") != NULL; /* null is one for each query head, whatever the architecture */
    c->n_kv_head = arch->kv_heads && !null_kv ? arch->kv_heads : c->n_head;
    c->d_head = arch->d_head;
    if ((st = may_i64(r, "num_key_value_heads", &c->n_kv_head)) || (st = may_i64(r, "head_dim", &c->d_head))) return st;
    if (!has(r, "head_dim") && !arch->d_head) {
        if (c->n_head < 1 || c->d_model % c->n_head)
            return status_fail(ST_INPUT,
                               "%s: hidden_size %lld is no multiple of num_attention_heads %lld and there is no head_dim; repair the file",
                               r.path, (long long)c->d_model, (long long)c->n_head);
        c->d_head = c->d_model / c->n_head;
    }
    c->d_rot = c->d_head;
    return ST_OK;
}

static status_t factors_from(reader_t s, const char *key, int64_t n, float *out) {
    const cJSON *list = json_get(s.o, key), *v;
    int64_t i = 0;
    if (!cJSON_IsArray(list)) return bad_type(s, key, "there and a list of numbers");
    for (v = list->child; v; v = v->next, i++) {
        if (!cJSON_IsNumber(v)) return bad_type(s, key, "a list of numbers");
        if (i < n) out[i] = (float)v->valuedouble;
    }
    if (i == n) return ST_OK;
    return status_fail(ST_INPUT, "%s: \"%s\" has %lld numbers, must have %lld, half of the head's width; repair the file", s.path, key,
                       (long long)i, (long long)n);
}

/* Attention factors as transformers works them out where the file gives none. */
static double yarn_mscale(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

static status_t yarn_from(reader_t s, model_config_t *c) {
    double fast = 0, slow = 0, m = 0, m_all = 0;
    status_t st;
    c->rope_whole = true;
    if ((st = may_f64(s, "beta_fast", &fast)) || (st = may_f64(s, "beta_slow", &slow)) || (st = may_f64(s, "mscale", &m)) ||
        (st = may_f64(s, "mscale_all_dim", &m_all)) || (st = may_bool(s, "truncate", &c->rope_whole)))
        return st;
    c->rope_high = fast != 0 ? fast : 32;
    c->rope_low = slow != 0 ? slow : 1;
    c->rope_attention =
        m != 0 && m_all != 0 ? yarn_mscale(c->rope_factor, m) / yarn_mscale(c->rope_factor, m_all) : yarn_mscale(c->rope_factor, 1);
    return may_f64(s, "attention_factor", &c->rope_attention);
}

static status_t long_from(reader_t s, model_config_t *c) {
    double old = (double)c->rope_old_ctx;
    if (c->d_rot / 2 > ROPE_MAX_HALF) return ST_OK; /* config_check names the size */
    c->rope_attention = c->rope_factor > 1 && old > 1 ? sqrt(1 + log(c->rope_factor) / log(old)) : 1;
    status_t st = factors_from(s, "short_factor", c->d_rot / 2, c->rope_short);
    if (!st) st = factors_from(s, "long_factor", c->d_rot / 2, c->rope_long);
    return st ? st : may_f64(s, "attention_factor", &c->rope_attention);
}

static status_t llama3_from(reader_t s, model_config_t *c) {
    status_t st = need_f64(s, "low_freq_factor", &c->rope_low);
    if (!st) st = need_f64(s, "high_freq_factor", &c->rope_high);
    if (!st && !(c->rope_factor > 0))
        st = status_fail(ST_INPUT, "%s: rope factor is %g, must be above 0; repair the file", s.path, c->rope_factor);
    return st;
}

static status_t none_from(reader_t s, model_config_t *c) {
    (void)s, (void)c;
    return ST_OK;
}

/* The scalings: name, whether there must be a "factor" (else the ratio of the contexts), and what else is read. */
static const struct {
    const char *name;
    rope_scaling_t scaling;
    bool factor, old_ctx;
    status_t (*read)(reader_t s, model_config_t *c);
} scalings[] = {
    {"default", ROPE_NONE, .read = none_from},
    {"linear", ROPE_LINEAR, .factor = true, .read = none_from},
    {"dynamic", ROPE_DYNAMIC, .factor = true, .read = none_from},
    {"llama3", ROPE_LLAMA3, .factor = true, .old_ctx = true, .read = llama3_from},
    {"yarn", ROPE_YARN, .old_ctx = true, .read = yarn_from},
    {"longrope", ROPE_LONG, .old_ctx = true, .read = long_from},
};
enum { N_SCALING = sizeof scalings / sizeof *scalings };

/* s: rope_scaling or rope_parameters; r: all of the file. */
static status_t scaling_from(reader_t r, reader_t s, model_config_t *c) {
    const char *type = "default";
    char shown[64], known[128] = "";
    status_t st;
    int i = 0;
    if ((st = may_str(s, "type", &type)) || (st = may_str(s, "rope_type", &type))) return st;
    for (int k = 0; k < N_SCALING; k++)
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", k ? ", " : "", scalings[k].name);
    while (i < N_SCALING && strcmp(scalings[i].name, type)) i++;
    if (i == N_SCALING)
        return status_fail(ST_INPUT, "%s: rope scaling \"%s\" is not supported (%s are); use another model", s.path,
                           printable(type, strlen(type), shown, sizeof shown), known);
    c->rope_scaling = scalings[i].scaling;
    if (scalings[i].old_ctx) {
        c->rope_old_ctx = c->n_ctx;
        if ((st = may_i64(s, "original_max_position_embeddings", &c->rope_old_ctx)) ||
            (st = may_i64(r, "original_max_position_embeddings", &c->rope_old_ctx)))
            return st;
        if (c->rope_old_ctx > 0) c->rope_factor = (double)c->n_ctx / (double)c->rope_old_ctx;
    }
    st = scalings[i].factor ? need_f64(s, "factor", &c->rope_factor) : may_f64(s, "factor", &c->rope_factor);
    return st ? st : scalings[i].read(s, c);
}

static status_t whole_heads(reader_t r) {
    double rotated = 1;
    status_t st = may_f64(r, "partial_rotary_factor", &rotated);
    if (st || rotated == 1) return st;
    return status_fail(ST_INPUT, "%s: partial_rotary_factor %g is not supported; use another model", r.path, rotated);
}

static status_t rope_from(reader_t r, model_config_t *c) {
    static const char *const places[] = {"rope_scaling", "rope_parameters"};
    status_t st = may_f64(r, "rope_theta", &c->rope_theta);
    if (!st) st = whole_heads(r);
    for (int i = 0; i < 2 && !st; i++) {
        if (!has(r, places[i])) continue;
        reader_t s = {json_get(r.o, places[i]), r.path};
        if (!cJSON_IsObject(s.o)) return bad_type(r, places[i], "an object");
        if ((st = may_f64(s, "rope_theta", &c->rope_theta)) || (st = whole_heads(s))) return st;
        st = scaling_from(r, s, c);
    }
    return st;
}

/* Newer files say for each layer whether it has the window. */
static status_t layer_types(reader_t r, model_config_t *c) {
    const cJSON *list = json_get(r.o, "layer_types"), *v;
    int64_t n = 0, sliding = 0;
    if (!cJSON_IsArray(list)) return bad_type(r, "layer_types", "a list of strings");
    for (v = list->child; v; v = v->next, n++) {
        const char *type = cJSON_IsString(v) ? v->valuestring : "?";
        char shown[64];
        sliding += !strcmp(type, "sliding_attention");
        if (strcmp(type, "sliding_attention") && strcmp(type, "full_attention"))
            return status_fail(ST_INPUT,
                               "%s: layer type \"%s\" is not supported (full_attention and sliding_attention are); use another model",
                               r.path, printable(type, strlen(type), shown, sizeof shown));
    }
    if (n != c->n_layer)
        return status_fail(ST_INPUT, "%s: \"layer_types\" has %lld entries for %lld layers; repair the file", r.path, (long long)n,
                           (long long)c->n_layer);
    if (sliding && sliding < n)
        return status_fail(ST_INPUT, "%s: a sliding window in %lld of %lld layers is not supported; use another model", r.path,
                           (long long)sliding, (long long)n);
    if (sliding && c->window <= 0)
        return status_fail(ST_INPUT,
                           "%s: \"layer_types\" has a sliding window in every layer, but there is no \"sliding_window\"; repair the file",
                           r.path);
    if (!sliding) c->window = 0;
    return ST_OK;
}

static status_t window_from(reader_t r, const arch_t *arch, model_config_t *c) {
    bool used = !arch->window_flag;
    int64_t first = arch->window_from;                              /* the first layer that has the window */
    if (!json_get(r.o, "sliding_window")) c->window = arch->window; /* null is none */
    status_t st = may_i64(r, "sliding_window", &c->window);
    if (!st && arch->window_flag) st = may_bool(r, "use_sliding_window", &used);
    if (!st && arch->window_flag) st = may_i64(r, "max_window_layers", &first);
    if (st) return st;
    if (!used || first >= c->n_layer) c->window = 0;
    if (has(r, "layer_types")) return layer_types(r, c);
    if (c->window && first > 0)
        return status_fail(ST_INPUT, "%s: a sliding window in layers %lld and above only is not supported; use another model", r.path,
                           (long long)first);
    return ST_OK;
}

/* Things that change the arithmetic and that we do not have. */
static status_t refuse_others(reader_t r, const arch_t *arch) {
    static const char *const biases[] = {"attention_bias", "mlp_bias"};
    const char *act = "silu";
    char shown[64];
    status_t st = may_str(r, "hidden_act", &act);
    if (st) return st;
    if (strcmp(act, "silu"))
        return status_fail(ST_INPUT, "%s: activation \"%s\" is not supported (silu is); use another model", r.path,
                           printable(act, strlen(act), shown, sizeof shown));
    for (int i = 0; i < 2; i++) {
        bool on = false;
        if ((st = may_bool(r, biases[i], &on))) return st;
        if (on && !(arch->qkv_bias && i == 0))
            return status_fail(ST_INPUT, "%s: %s is not supported in architecture %s; use another model", r.path, biases[i], arch->name);
    }
    if (has(r, "quantization_config"))
        return status_fail(
            ST_INPUT, "%s: weights quantised in the HF way (quantization_config) cannot be read; use the original weights or a GGUF file",
            r.path);
    return ST_OK;
}

static status_t config_from(reader_t r, model_config_t *c) {
    const char *type = NULL, *name = "";
    const arch_t *arch;
    status_t st = may_str(r, "model_type", &type);
    if (st) return st;
    if (!type) return status_fail(ST_INPUT, "%s: no \"model_type\"; this is no config.json of a language model", r.path);
    if ((st = arch_find(type, strlen(type), r.path, &arch))) return st;
    arch_apply(arch, c);
    c->rope_theta = 10000;
    c->rope_attention = 1;
    if ((st = refuse_others(r, arch)) || (st = dims_from(r, arch, c)) || (st = rope_from(r, c)) || (st = window_from(r, arch, c)) ||
        (st = may_str(r, "_name_or_path", &name)))
        return st;
    printable(name, strlen(name), c->name, sizeof c->name);
    return config_check(c, r.path);
}

status_t config_from_json(const char *path, model_config_t *out) {
    char *text = NULL;
    size_t bytes;
    cJSON *tree = NULL;
    model_config_t c = {0};
    status_t st = file_read_text(path, MAX_CONFIG_BYTES, &text, &bytes);
    if (st) goto out;
    if ((st = json_parse(text, bytes, path, &tree))) goto out;
    if (!cJSON_IsObject(tree)) {
        st = status_fail(ST_INPUT, "%s: not a JSON object; this is no config.json of a language model", path);
        goto out;
    }
    if ((st = config_from((reader_t){tree, path}, &c))) goto out;
    *out = c;
out:
    cJSON_Delete(tree);
    mem_free(text);
    return st;
}
