#include "encode/kept.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "encode/move.h"

static const char *const keep_names[] = {"raw", "gist", "both", "tail"}, *const budget_names[] = {"uniform", "head"};

kv_pool_t kept_part(const kv_pool_t *p, int64_t first, int64_t n) {
    kv_pool_t part = *p;
    size_t skip = (size_t)(first * p->row_stride) * dtype_bytes(p->type);
    part.k = (char *)p->k + skip;
    part.v = (char *)p->v + skip;
    part.n_row = n;
    return part;
}

/* From their places among n raw rows to places one after another. */
static status_t compact(const kept_t *k, model_t *m, kv_pool_t *gists, int64_t n) {
    double *distance = NULL;
    status_t st = mem_alloc(&distance, (size_t)gists->n_row, sizeof *distance, "distances");
    for (int64_t u = 0; u < gists->n_row && !st; u++) distance[u] = (double)(u - gist_order(&k->gist, KIND_GIST, u, n));
    if (!st) st = keys_move(m, gists, distance);
    mem_free(distance);
    return st;
}

/* The gist of an edit stands behind the sink and the edit; its key goes back to where nothing is rotated. */
static status_t unrotate(encoder_t *e, model_t *m, piece_t *p) { return keys_move_all(m, &p->gist_pool, -(encoder_sink(e)->n_row + p->n)); }

status_t kept_remember(const kept_t *k, encoder_t *e, model_t *m, piece_t *p) {
    if (k->gist.single) return unrotate(e, m, p);
    if (k->recurrent) return encoder_remember(e, p);
    return k->compact ? compact(k, m, &p->gist_pool, p->n) : ST_OK;
}

static void init_text(const kept_t *k, char *out, size_t cap) {
    if (k->init == GIST_TOKEN)
        snprintf(out, cap, "%d", k->token);
    else
        snprintf(out, cap, "%s", k->init == GIST_UNIT ? "unit" : k->init == GIST_ADAPTER ? "adapter" : "mean");
}

void kept_text(const kept_t *k, char *out, size_t cap) {
    char window[32] = "all", init[32];
    size_t at = 0;
    *out = 0;
    if (!k->gist.ratio && !k->n_blank && !k->select.ratio) return;
    init_text(k, init, sizeof init);
    if (k->gist.window >= 0) snprintf(window, sizeof window, "%lld", (long long)k->gist.window);
    if (k->gist.ratio)
        at = (size_t)snprintf(out, cap, "ratio %lld window %s%s ", (long long)k->gist.ratio, window,
                              k->gist.single   ? " gists one"
                              : k->gist.at_end ? " at end"
                                               : "");
    if (k->select.ratio)
        at += (size_t)snprintf(out + at, cap - at, "ratio %lld score %s budget %s ", (long long)k->select.ratio, score_name(k->select.by),
                               budget_names[k->select.budget]);
    if (k->gist.ratio || k->n_blank) at += (size_t)snprintf(out + at, cap - at, "init %s ", init);
    at += (size_t)snprintf(out + at, cap - at, "keep %s", keep_names[k->keep]);
    if (k->compact) at += (size_t)snprintf(out + at, cap - at, " positions compact");
    if (k->n_blank) snprintf(out + at, cap - at, " sinks %lld", (long long)k->n_blank);
}

static bool number_parse(const char *text, int64_t least, int64_t *out) {
    char *end;
    long long v = strtoll(text, &end, 10);
    *out = v;
    return end != text && !*end && v >= least && v <= INT32_MAX;
}

static bool init_parse(const char *text, kept_t *out) {
    int64_t token = 0;
    out->init = !strcmp(text, "mean")      ? GIST_MEAN
                : !strcmp(text, "unit")    ? GIST_UNIT
                : !strcmp(text, "adapter") ? GIST_ADAPTER
                                           : GIST_TOKEN;
    if (out->init == GIST_TOKEN && !number_parse(text, 0, &token)) return false;
    out->token = (int32_t)token;
    return true;
}

static bool keep_parse(const char *text, kept_t *out) {
    for (int i = 0; i < 4; i++)
        if (!strcmp(text, keep_names[i])) {
            out->keep = (keep_t)i;
            return true;
        }
    return false;
}

/* After "score" the ratio that stood before it is that of the selection. */
static bool score_parse(const char *text, kept_t *out) {
    out->select.ratio = out->gist.ratio;
    out->gist.ratio = 0;
    return out->select.ratio > 0 && score_find(text, &out->select.by);
}

static bool budget_parse(const char *text, kept_t *out) {
    out->select.budget = !strcmp(text, "head") ? BUDGET_HEAD : BUDGET_UNIFORM;
    return !strcmp(text, budget_names[out->select.budget]);
}

static bool word_parse(const char *key, const char *value, kept_t *out) {
    if (!strcmp(key, "ratio")) return number_parse(value, 1, &out->gist.ratio);
    if (!strcmp(key, "window")) return !strcmp(value, "all") || number_parse(value, 0, &out->gist.window);
    if (!strcmp(key, "at")) return (out->gist.at_end = !strcmp(value, "end"));
    if (!strcmp(key, "gists")) return (out->gist.single = out->gist.at_end = !strcmp(value, "one"));
    if (!strcmp(key, "init")) return init_parse(value, out);
    if (!strcmp(key, "keep")) return keep_parse(value, out);
    if (!strcmp(key, "score")) return score_parse(value, out);
    if (!strcmp(key, "budget")) return budget_parse(value, out);
    if (!strcmp(key, "positions")) return (out->compact = !strcmp(value, "compact"));
    return !strcmp(key, "sinks") && number_parse(value, 1, &out->n_blank);
}

bool kept_parse(const char *text, kept_t *out) {
    char copy[128], *rest;
    *out = (kept_t){.gist = {.window = -1}, .keep = KEEP_RAW};
    if (strlen(text) >= sizeof copy) return false;
    strcpy(copy, text);
    for (const char *key = strtok_r(copy, " ", &rest); key; key = strtok_r(NULL, " ", &rest)) {
        const char *value = strtok_r(NULL, " ", &rest);
        if (!value || !word_parse(key, value, out)) return false;
    }
    return true;
}
