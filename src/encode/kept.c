#include "encode/kept.h"

#include <stdio.h>
#include <string.h>

static const char *const keep_names[] = {"raw", "gist", "both"};

kv_pool_t kept_part(const kv_pool_t *p, int64_t first, int64_t n) {
    kv_pool_t part = *p;
    size_t skip = (size_t)(first * p->row_stride) * dtype_bytes(p->type);
    part.k = (char *)p->k + skip;
    part.v = (char *)p->v + skip;
    part.n_row = n;
    return part;
}

void kept_text(const kept_t *k, char *out, size_t cap) {
    char window[32], init[32];
    *out = 0;
    if (!k->gist.ratio) return;
    if (k->gist.window < 0)
        snprintf(window, sizeof window, "all");
    else
        snprintf(window, sizeof window, "%lld", (long long)k->gist.window);
    if (k->init == GIST_TOKEN)
        snprintf(init, sizeof init, "%d", k->token);
    else
        snprintf(init, sizeof init, "%s", k->init == GIST_UNIT ? "unit" : "mean");
    snprintf(out, cap, "ratio %lld window %s%s init %s keep %s", (long long)k->gist.ratio, window, k->gist.at_end ? " at end" : "", init,
             keep_names[k->keep]);
}

bool kept_parse(const char *text, kept_t *out) {
    long long ratio;
    char window[32], init[32], keep[16];
    *out = (kept_t){.keep = KEEP_RAW};
    if (!*text) return true;
    const char *at_end = strstr(text, " at end");
    char plain[128];
    snprintf(plain, sizeof plain, "%.*s%s", at_end ? (int)(at_end - text) : (int)strlen(text), text, at_end ? at_end + 7 : "");
    if (sscanf(plain, "ratio %lld window %31s init %31s keep %15s", &ratio, window, init, keep) != 4 || ratio < 1) return false;
    out->gist = (gist_spec_t){.ratio = ratio, .window = -1, .at_end = at_end != NULL};
    long long w;
    if (strcmp(window, "all")) {
        if (sscanf(window, "%lld", &w) != 1 || w < 0) return false;
        out->gist.window = w;
    }
    out->init = !strcmp(init, "mean") ? GIST_MEAN : !strcmp(init, "unit") ? GIST_UNIT : GIST_TOKEN;
    if (out->init == GIST_TOKEN && sscanf(init, "%d", &out->token) != 1) return false;
    for (int i = 0; i < 3; i++)
        if (!strcmp(keep, keep_names[i])) {
            out->keep = (keep_t)i;
            return true;
        }
    return false;
}
