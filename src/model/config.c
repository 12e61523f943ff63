/* Architectures, and the check that every configuration passes whatever file it came from. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/arch.h"

static const arch_t archs[] = {
    {"llama", .gguf_pairs = true},                                  /* Llama 2, 3, 3.1, 3.2, SmolLM2; Mistral's GGUF files too */
    {"mistral", .gguf_pairs = true, .kv_heads = 8, .window = 4096}, /* config.json of Mistral: a Llama with a window in some versions */
    {"qwen2", .qkv_bias = true, .window_flag = true, .kv_heads = 32, .window_from = 28}, /* 2.5, too */
    {"qwen3", .qk_norm = true, .window_flag = true, .kv_heads = 32, .d_head = 128, .window_from = 28},
};
enum { N_ARCH = sizeof archs / sizeof *archs };

/* Far above any real model, low enough that no product of two of them leaves int64_t. */
static const int64_t MAX_LAYER = 1024, MAX_HEAD = 4096, MAX_HEAD_DIM = 1024, MAX_DIM = 1 << 20, MAX_VOCAB = 1 << 24;
static const int64_t MAX_CTX = (int64_t)1 << 40, MAX_PRODUCT = (int64_t)1 << 40;

const char *printable(const char *s, size_t n, char *buf, size_t cap) {
    size_t i = 0;
    for (; i < n && i + 1 < cap; i++) buf[i] = s[i] >= 32 && s[i] < 127 ? s[i] : '?';
    buf[i] = 0;
    return buf;
}

const char *rope_scaling_name(rope_scaling_t s) {
    static const char *const names[ROPE_COUNT] = {"none", "linear", "llama3", "yarn", "dynamic", "longrope"};
    return names[s];
}

status_t arch_find(const char *name, size_t n, const char *path, const arch_t **out) {
    for (int i = 0; i < N_ARCH; i++)
        if (strlen(archs[i].name) == n && !memcmp(archs[i].name, name, n)) {
            *out = &archs[i];
            return ST_OK;
        }
    char known[128] = "", shown[64];
    for (int i = 0; i < N_ARCH; i++) snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", archs[i].name);
    return status_fail(ST_INPUT, "%s: architecture \"%s\" is not one we can run (%s); use a model of one of these", path,
                       printable(name, n, shown, sizeof shown), known);
}

void arch_apply(const arch_t *a, model_config_t *c) {
    snprintf(c->arch, sizeof c->arch, "%s", a->name);
    c->qkv_bias = a->qkv_bias;
    c->qk_norm = a->qk_norm;
}

static status_t check_sizes(const model_config_t *c, const char *path) {
    const struct {
        const char *name;
        int64_t value, max;
    } sizes[] = {
        {"vocabulary", c->n_vocab, MAX_VOCAB},       {"layers", c->n_layer, MAX_LAYER},     {"query heads", c->n_head, MAX_HEAD},
        {"key/value heads", c->n_kv_head, MAX_HEAD}, {"model width", c->d_model, MAX_DIM},  {"head width", c->d_head, MAX_HEAD_DIM},
        {"feed-forward width", c->d_ff, MAX_DIM},    {"context length", c->n_ctx, MAX_CTX},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].max)
            return status_fail(ST_INPUT, "%s: %s is %lld, must be 1 to %lld; the file is damaged or no model of this kind", path,
                               sizes[i].name, (long long)sizes[i].value, (long long)sizes[i].max);
    const struct {
        const char *name;
        int64_t a, b;
    } products[] = {
        {"embedding", c->n_vocab, c->d_model},
        {"q projection", c->n_head * c->d_head, c->d_model},
        {"feed-forward", 2 * c->d_ff, c->d_model},
    };
    for (size_t i = 0; i < sizeof products / sizeof *products; i++)
        if (products[i].a * products[i].b >= MAX_PRODUCT)
            return status_fail(ST_INPUT, "%s: the %s weights would be %lld x %lld, which is more than any model; the file is damaged", path,
                               products[i].name, (long long)products[i].a, (long long)products[i].b);
    return ST_OK;
}

static bool positive(double x) { return isfinite(x) && x > 0; }

static bool factors_good(const float *f, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!positive((double)f[i])) return false;
    return true;
}

static status_t check_stretch(const model_config_t *c, const char *path) {
    const char *why = NULL;
    bool yarn = c->rope_scaling == ROPE_YARN;
    if ((yarn || c->rope_scaling == ROPE_DYNAMIC) && !(positive(c->rope_factor) && c->rope_factor >= 1))
        why = "the factor must be 1 or more";
    else if (c->rope_scaling == ROPE_DYNAMIC && c->d_rot < 4)
        why = "heads must have 4 elements or more";
    else if (yarn && !(c->rope_theta > 1))
        why = "theta must be above 1";
    else if (yarn && !(positive(c->rope_low) && positive(c->rope_high)))
        why = "beta_fast and beta_slow must be above 0";
    else if ((yarn || c->rope_scaling == ROPE_LONG) && !(c->rope_old_ctx > 0 && c->rope_old_ctx <= MAX_CTX))
        why = "the original context must be 1 or more";
    else if (c->rope_scaling == ROPE_LONG && !(factors_good(c->rope_short, c->d_rot / 2) && factors_good(c->rope_long, c->d_rot / 2)))
        why = "every short and long factor must be above 0";
    if (why) return status_fail(ST_INPUT, "%s: %s rope scaling: %s; the file is damaged", path, rope_scaling_name(c->rope_scaling), why);
    if (!positive(c->rope_attention))
        return status_fail(ST_INPUT, "%s: rope attention factor is %g, must be above 0; the file is damaged", path, c->rope_attention);
    return ST_OK;
}

static status_t check_rope(const model_config_t *c, const char *path) {
    if (c->d_head % 2)
        return status_fail(ST_INPUT, "%s: head width %lld is odd, so cannot be rotated; the file is damaged", path, (long long)c->d_head);
    if (c->d_rot != c->d_head)
        return status_fail(ST_INPUT, "%s: %lld of %lld elements of a head are rotated; only whole heads are supported", path,
                           (long long)c->d_rot, (long long)c->d_head);
    if (!positive(c->rope_theta))
        return status_fail(ST_INPUT, "%s: rope theta is %g, must be above 0; the file is damaged", path, c->rope_theta);
    if (c->rope_scaling == ROPE_LINEAR && !positive(c->rope_factor))
        return status_fail(ST_INPUT, "%s: linear rope scaling factor is %g, must be above 0; the file is damaged", path, c->rope_factor);
    /* A GGUF file has the factors themselves as a tensor, and rope_factor 0. */
    if (c->rope_scaling == ROPE_LLAMA3 && c->rope_factor != 0 &&
        !(positive(c->rope_factor) && positive(c->rope_low) && positive(c->rope_high) && c->rope_high > c->rope_low && c->rope_old_ctx > 0))
        return status_fail(ST_INPUT,
                           "%s: llama3 rope scaling with factor %g, low %g, high %g, old context %lld makes no sense; the file is damaged",
                           path, c->rope_factor, c->rope_low, c->rope_high, (long long)c->rope_old_ctx);
    return check_stretch(c, path);
}

status_t config_rope_length(model_config_t *c, const char *path, int64_t length) {
    if (c->rope_scaling != ROPE_DYNAMIC && c->rope_scaling != ROPE_LONG)
        return status_fail(ST_USAGE,
                           "--rope-length: %s has rope scaling \"%s\", whose frequencies do not depend on the length; leave it out", path,
                           rope_scaling_name(c->rope_scaling));
    c->rope_length = length;
    return ST_OK;
}

status_t config_check(const model_config_t *c, const char *path) {
    status_t st = check_sizes(c, path);
    if (st) return st;
    if (c->n_head % c->n_kv_head)
        return status_fail(ST_INPUT, "%s: %lld query heads cannot be shared out over %lld key/value heads; the file is damaged", path,
                           (long long)c->n_head, (long long)c->n_kv_head);
    if (!(c->norm_eps >= 0 && c->norm_eps < 1))
        return status_fail(ST_INPUT, "%s: norm epsilon is %g, must be 0 to 1; the file is damaged", path, c->norm_eps);
    if (c->window < 0)
        return status_fail(ST_INPUT, "%s: sliding window is %lld, must not be negative; the file is damaged", path, (long long)c->window);
    return check_rope(c, path);
}
