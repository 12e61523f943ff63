/* Dimensions from the config.json of an HF folder. Two generations are met: rope_theta and rope_scaling side by side, and (newer) both
 * inside rope_parameters. A key that is there but of the wrong type is an error, never taken as absent; null is absent. */
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

static status_t dims_from(reader_t r, model_config_t *c) {
    status_t st;
    if ((st = need_i64(r, "hidden_size", &c->d_model)) || (st = need_i64(r, "num_hidden_layers", &c->n_layer)) ||
        (st = need_i64(r, "num_attention_heads", &c->n_head)) || (st = need_i64(r, "intermediate_size", &c->d_ff)) ||
        (st = need_i64(r, "vocab_size", &c->n_vocab)) || (st = need_i64(r, "max_position_embeddings", &c->n_ctx)) ||
        (st = need_f64(r, "rms_norm_eps", &c->norm_eps)) || (st = may_bool(r, "tie_word_embeddings", &c->tied)))
        return st;
    c->n_kv_head = c->n_head;
    if ((st = may_i64(r, "num_key_value_heads", &c->n_kv_head)) || (st = may_i64(r, "head_dim", &c->d_head))) return st;
    if (!has(r, "head_dim")) {
        if (c->n_head < 1 || c->d_model % c->n_head)
            return status_fail(ST_INPUT,
                               "%s: hidden_size %lld is no multiple of num_attention_heads %lld and there is no head_dim; repair the file",
                               r.path, (long long)c->d_model, (long long)c->n_head);
        c->d_head = c->d_model / c->n_head;
    }
    c->d_rot = c->d_head;
    return ST_OK;
}

/* s: rope_scaling or rope_parameters; may be absent. */
static status_t scaling_from(reader_t s, model_config_t *c) {
    const char *type = "default";
    char shown[64];
    status_t st;
    if (!s.o) return ST_OK;
    if ((st = may_str(s, "type", &type)) || (st = may_str(s, "rope_type", &type))) return st;
    if (!strcmp(type, "default")) return ST_OK;
    if (!strcmp(type, "linear")) {
        c->rope_scaling = ROPE_LINEAR;
        return need_f64(s, "factor", &c->rope_factor);
    }
    if (!strcmp(type, "llama3")) {
        c->rope_scaling = ROPE_LLAMA3;
        if ((st = need_f64(s, "factor", &c->rope_factor)) || (st = need_f64(s, "low_freq_factor", &c->rope_low)) ||
            (st = need_f64(s, "high_freq_factor", &c->rope_high)) ||
            (st = need_i64(s, "original_max_position_embeddings", &c->rope_old_ctx)))
            return st;
        return c->rope_factor > 0
                   ? ST_OK
                   : status_fail(ST_INPUT, "%s: rope factor is %g, must be above 0; repair the file", s.path, c->rope_factor);
    }
    return status_fail(ST_INPUT, "%s: rope scaling \"%s\" is not supported (default, linear, llama3 are); use another model", s.path,
                       printable(type, strlen(type), shown, sizeof shown));
}

static status_t rope_from(reader_t r, model_config_t *c) {
    static const char *const places[] = {"rope_scaling", "rope_parameters"};
    status_t st = may_f64(r, "rope_theta", &c->rope_theta);
    for (int i = 0; i < 2 && !st; i++) {
        if (!has(r, places[i])) continue;
        reader_t s = {json_get(r.o, places[i]), r.path};
        double rotated = 1;
        if (!cJSON_IsObject(s.o)) return bad_type(r, places[i], "an object");
        if ((st = may_f64(s, "rope_theta", &c->rope_theta)) || (st = may_f64(s, "partial_rotary_factor", &rotated))) return st;
        if (rotated != 1) return status_fail(ST_INPUT, "%s: partial_rotary_factor %g is not supported; use another model", r.path, rotated);
        st = scaling_from(s, c);
    }
    return st;
}

static status_t window_from(reader_t r, const arch_t *arch, model_config_t *c) {
    bool used = !arch->window_flag;
    int64_t first = 0; /* the first layer that has the window */
    status_t st = may_i64(r, "sliding_window", &c->window);
    if (!st && arch->window_flag) st = may_bool(r, "use_sliding_window", &used);
    if (!st && arch->window_flag) st = may_i64(r, "max_window_layers", &first);
    if (st) return st;
    if (!used || first >= c->n_layer) c->window = 0;
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
    if ((st = refuse_others(r, arch)) || (st = dims_from(r, c)) || (st = rope_from(r, c)) || (st = window_from(r, arch, c)) ||
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
