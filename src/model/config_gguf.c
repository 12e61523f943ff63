/* Dimensions from GGUF metadata: keys are "<architecture>.<name>", and two facts are in the tensors alone (the vocabulary's size, and
 * whether the output rows are the embedding's). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/arch.h"
#include "model/config.h"

typedef struct {
    const gguf_t *g;
    const char *path, *arch;
    char key[128];
} keys_t;

static const char *key_of(keys_t *k, const char *name) {
    snprintf(k->key, sizeof k->key, "%s.%s", k->arch, name);
    return k->key;
}

static bool get_i64(keys_t *k, const char *name, int64_t *out) { return gguf_get_i64(k->g, key_of(k, name), out); }
static bool get_f64(keys_t *k, const char *name, double *out) { return gguf_get_f64(k->g, key_of(k, name), out); }

/* A key of the wrong type must not pass for an absent one. */
static bool is_there(keys_t *k, const char *name) {
    size_t want = strlen(key_of(k, name)), n;
    const char *key;
    char text[8];
    for (int64_t i = 0; i < gguf_keys(k->g); i++) {
        gguf_key_text(k->g, i, &key, &n, text, sizeof text);
        if (n == want && !memcmp(key, k->key, n)) return true;
    }
    return false;
}
static status_t may_i64(keys_t *k, const char *name, int64_t *out) {
    if (get_i64(k, name, out) || !is_there(k, name)) return ST_OK;
    return status_fail(ST_INPUT, "%s: key %s is no whole number; the file is damaged", k->path, key_of(k, name));
}
static status_t may_f64(keys_t *k, const char *name, double *out) {
    if (get_f64(k, name, out) || !is_there(k, name)) return ST_OK;
    return status_fail(ST_INPUT, "%s: key %s is no number; the file is damaged", k->path, key_of(k, name));
}

static status_t need_i64(keys_t *k, const char *name, int64_t *out) {
    if (get_i64(k, name, out)) return ST_OK;
    return status_fail(ST_INPUT, "%s: no whole number under key %s; the file is damaged or was converted by a broken program", k->path,
                       key_of(k, name));
}

/* A number, or an array of n_layer equal ones. */
static status_t same_i64(keys_t *k, const char *name, int64_t fallback, int64_t *out) {
    if (get_i64(k, name, out)) return ST_OK;
    int64_t n = gguf_array_n(k->g, key_of(k, name)), first = 0, v = 0;
    if (n < 0 && fallback > 0) {
        *out = fallback;
        return ST_OK;
    }
    if (n < 1) return need_i64(k, name, out);
    for (int64_t i = 0; i < n; i++) {
        if (!gguf_array_i64(k->g, k->key, i, &v))
            return status_fail(ST_INPUT, "%s: key %s is no list of whole numbers; the file is damaged", k->path, k->key);
        if (i == 0) first = v;
        if (v != first)
            return status_fail(ST_INPUT, "%s: key %s differs between layers (%lld and %lld), which is not supported; use another model",
                               k->path, k->key, (long long)first, (long long)v);
    }
    *out = first;
    return ST_OK;
}

static status_t heads_from(keys_t *k, model_config_t *c) {
    status_t st = same_i64(k, "attention.head_count", 0, &c->n_head);
    if (!st) st = same_i64(k, "attention.head_count_kv", c->n_head, &c->n_kv_head);
    if (st) return st;
    if ((st = may_i64(k, "attention.key_length", &c->d_head))) return st;
    if (!is_there(k, "attention.key_length")) {
        if (c->n_head < 1 || c->d_model % c->n_head)
            return status_fail(ST_INPUT, "%s: width %lld is no multiple of %lld heads and there is no key %s; the file is damaged", k->path,
                               (long long)c->d_model, (long long)c->n_head, key_of(k, "attention.key_length"));
        c->d_head = c->d_model / c->n_head;
    }
    int64_t d_value = c->d_head;
    if ((st = may_i64(k, "attention.value_length", &d_value))) return st;
    if (d_value != c->d_head)
        return status_fail(ST_INPUT, "%s: keys of %lld and values of %lld elements; they must be equal: use another model", k->path,
                           (long long)c->d_head, (long long)d_value);
    c->d_rot = c->d_head;
    return may_i64(k, "rope.dimension_count", &c->d_rot);
}

/* Keys that would change the arithmetic and that no converter of our architectures writes with another value. */
static status_t refuse_yarn_extras(keys_t *k) {
    static const struct {
        const char *name;
        double usual;
    } keys[] = {{"rope.scaling.yarn_ext_factor", 1}, {"rope.scaling.yarn_log_multiplier", 0}, {"rope.scaling.yarn_attn_factor", 1}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        double v = keys[i].usual;
        status_t st = may_f64(k, keys[i].name, &v);
        if (st) return st;
        if (v != keys[i].usual)
            return status_fail(ST_INPUT, "%s: key %s is %g, only %g is supported; use another model", k->path, key_of(k, keys[i].name), v,
                               keys[i].usual);
    }
    return ST_OK;
}

static status_t yarn_from(keys_t *k, model_config_t *c) {
    double factor = 1;
    c->rope_old_ctx = c->n_ctx;
    c->rope_whole = true;
    c->rope_high = 32;
    c->rope_low = 1;
    status_t st = may_i64(k, "rope.scaling.original_context_length", &c->rope_old_ctx);
    if (!st) st = may_f64(k, "rope.scaling.yarn_beta_fast", &c->rope_high);
    if (!st) st = may_f64(k, "rope.scaling.yarn_beta_slow", &c->rope_low);
    if (!st) st = may_f64(k, "rope.scaling.attn_factor", &factor);
    if (!st) st = refuse_yarn_extras(k);
    c->rope_attention = factor * (c->rope_factor > 1 ? 1 + 0.1 * log(c->rope_factor) : 1);
    return st;
}

static status_t long_factors(keys_t *k, const char *name, int64_t n, float *out) {
    const tensor_t *t = gguf_find(k->g, name);
    if (!t || t->n_dim != 1 || t->dims[0] != n || n > ROPE_MAX_HALF || enc_row_bytes(t->enc, n) == 0)
        return status_fail(ST_INPUT, "%s: no tensor %s of %lld numbers, half of the head's width; the file is damaged", k->path, name,
                           (long long)n);
    return tensor_read_rows(t, 0, 1, out);
}

static status_t long_from(keys_t *k, model_config_t *c) {
    c->rope_old_ctx = c->n_ctx;
    status_t st = may_i64(k, "rope.scaling.original_context_length", &c->rope_old_ctx);
    if (!st) st = may_f64(k, "rope.scaling.attn_factor", &c->rope_attention);
    if (!st) st = long_factors(k, "rope_factors_short.weight", c->d_rot / 2, c->rope_short);
    return st ? st : long_factors(k, "rope_factors_long.weight", c->d_rot / 2, c->rope_long);
}

/* rope.scaling.type, or what older files say instead: a linear factor of its own, tensors that divide the frequencies. */
static status_t scaling_of(keys_t *k, rope_scaling_t *out) {
    static const rope_scaling_t known[] = {ROPE_NONE, ROPE_LINEAR, ROPE_YARN, ROPE_LONG};
    const char *type;
    size_t n;
    char shown[64];
    bool tensors = gguf_find(k->g, "rope_factors_short.weight") || gguf_find(k->g, "rope_factors_long.weight");
    *out = tensors ? ROPE_LONG : is_there(k, "rope.scale_linear") ? ROPE_LINEAR : ROPE_NONE;
    if (!gguf_get_str(k->g, key_of(k, "rope.scaling.type"), &type, &n)) return ST_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const char *name = rope_scaling_name(known[i]);
        if (strlen(name) != n || memcmp(name, type, n)) continue;
        *out = known[i] == ROPE_NONE && tensors ? ROPE_LONG : known[i];
        if (tensors && *out != ROPE_LONG)
            return status_fail(ST_INPUT, "%s: %s rope scaling beside tensors rope_factors_* is not supported; use another model", k->path,
                               name);
        return ST_OK;
    }
    return status_fail(ST_INPUT, "%s: rope scaling \"%s\" is not supported (none, linear, yarn, longrope are); use another model", k->path,
                       printable(type, n, shown, sizeof shown));
}

static status_t rope_from(keys_t *k, model_config_t *c) {
    c->rope_theta = 10000;
    c->rope_attention = 1;
    status_t st = may_f64(k, "rope.freq_base", &c->rope_theta);
    if (!st) st = scaling_of(k, &c->rope_scaling);
    if (st) return st;
    if (c->rope_scaling == ROPE_LINEAR || c->rope_scaling == ROPE_YARN) {
        if (!get_f64(k, "rope.scaling.factor", &c->rope_factor) && !get_f64(k, "rope.scale_linear", &c->rope_factor))
            return status_fail(ST_INPUT, "%s: %s rope scaling without key %s; the file is damaged", k->path,
                               rope_scaling_name(c->rope_scaling), key_of(k, "rope.scaling.factor"));
    }
    if (gguf_find(k->g, "rope_freqs.weight")) { /* Llama 3.1: the factors themselves */
        if (c->rope_scaling != ROPE_NONE)
            return status_fail(ST_INPUT, "%s: %s rope scaling beside a tensor rope_freqs.weight is not supported; use another model",
                               k->path, rope_scaling_name(c->rope_scaling));
        c->rope_scaling = ROPE_LLAMA3;
        c->rope_factor = 0;
    }
    if (c->rope_scaling == ROPE_YARN) return yarn_from(k, c);
    return c->rope_scaling == ROPE_LONG ? long_from(k, c) : ST_OK;
}

status_t config_from_gguf(const gguf_t *g, const char *path, model_config_t *out) {
    const char *name, *model_name;
    size_t n;
    const arch_t *arch;
    if (!gguf_get_str(g, "general.architecture", &name, &n))
        return status_fail(ST_INPUT, "%s: no key general.architecture; this is no language model in GGUF form", path);
    status_t st = arch_find(name, n, path, &arch);
    if (st) return st;
    model_config_t c = {0};
    keys_t k = {.g = g, .path = path, .arch = arch->name};
    arch_apply(arch, &c);
    if (gguf_get_str(g, "general.name", &model_name, &n)) printable(model_name, n, c.name, sizeof c.name);
    int64_t experts = 0;
    if ((st = may_i64(&k, "expert_count", &experts))) return st;
    if (experts > 0)
        return status_fail(ST_INPUT, "%s: a mixture of %lld experts is not supported; use a dense model", path, (long long)experts);
    if ((st = need_i64(&k, "embedding_length", &c.d_model)) || (st = need_i64(&k, "block_count", &c.n_layer)) ||
        (st = need_i64(&k, "context_length", &c.n_ctx)) || (st = same_i64(&k, "feed_forward_length", 0, &c.d_ff)) ||
        (st = heads_from(&k, &c)) || (st = rope_from(&k, &c)))
        return st;
    if (!get_f64(&k, "attention.layer_norm_rms_epsilon", &c.norm_eps))
        return status_fail(ST_INPUT, "%s: no number under key %s; the file is damaged", path,
                           key_of(&k, "attention.layer_norm_rms_epsilon"));
    if ((st = may_i64(&k, "attention.sliding_window", &c.window))) return st;
    const tensor_t *embed = gguf_find(g, "token_embd.weight");
    if (!embed || embed->n_dim != 2)
        return status_fail(ST_INPUT,
                           "%s: no tensor token_embd.weight of two dimensions; the file is damaged or holds only a part of a model", path);
    c.n_vocab = embed->dims[0];
    c.tied = gguf_find(g, "output.weight") == NULL;
    if ((st = config_check(&c, path))) return st;
    *out = c;
    return ST_OK;
}
