#include "query/sources.h"

#include <string.h>

#include "base/mem.h"
#include "encode/kept.h"

static bool id_listed(const char *list, const char *id) {
    size_t n = strlen(id);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (!strncmp(at, id, n) && (at[n] == ',' || !at[n])) return true;
    return false;
}

static const store_document_t *document_find(const store_t *store, const char *id, size_t n) {
    for (int64_t i = 0; i < store_n_document(store); i++) {
        const store_document_t *d = store_document(store, i);
        if (strlen(d->id) == n && !memcmp(d->id, id, n)) return d;
    }
    return NULL;
}

/* Every id of the list must be a document. */
static status_t list_check(const store_t *store, const char *dir, const char *docs) {
    for (const char *at = docs; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        size_t n = strcspn(at, ",");
        if (!document_find(store, at, n))
            return status_fail(ST_INPUT, "--docs: %s has no document \"%.*s\"; precis store ls %s lists them", dir,
                               (int)(n < 200 ? n : 200), at, dir);
    }
    return ST_OK;
}

static bool takes(const char *docs, const store_document_t *d) { return !docs || id_listed(docs, d->id); }

status_t sources_open(const store_t *store, const char *dir, const char *docs, sources_t *s) {
    const store_profile_t *p = store_profile(store);
    layout_method_t layout;
    kept_t kept = {0};
    bool whole = layout_find(p->layout, &layout) && layout_info(layout)->chained, left = !strcmp(p->align, "left");
    bool compact = kept_parse(p->gists, &kept) && kept.compact;
    int64_t n = 0;
    *s = (sources_t){0};
    status_t st = list_check(store, dir, docs);
    for (int64_t i = 0; i < store_n_document(store); i++)
        if (takes(docs, store_document(store, i))) n += store_document(store, i)->n_segment;
    if (!st) st = mem_alloc(&s->segments, (size_t)n, sizeof *s->segments, "segments of a query");
    if (!st) st = mem_alloc(&s->doc, (size_t)n, sizeof *s->doc, "segments of a query");
    if (!st) st = mem_alloc(&s->ordinal, (size_t)n, sizeof *s->ordinal, "segments of a query");
    if (!st) st = mem_alloc(&s->before, (size_t)n, sizeof *s->before, "segments of a query");
    for (int64_t i = 0; i < store_n_document(store) && !st; i++) {
        const store_document_t *d = store_document(store, i);
        if (!takes(docs, d)) continue;
        int64_t held = 0, before = 0;
        s->n_doc++;
        for (int64_t k = 0; k < d->n_segment && !st; k++) {
            const store_segment_t *seg = store_find(store, d->segments[k]);
            if (!seg) {
                st = status_fail(ST_INPUT, "%s: document \"%s\" lacks segment %lld of %lld; run the same precis encode command again", dir,
                                 d->id, (long long)k, (long long)d->n_segment);
                break;
            }
            s->segments[s->n] = seg;
            s->doc[s->n] = (int32_t)i;
            s->before[s->n] = before;
            before += seg->n_token;
            s->ordinal[s->n++] = (int32_t)k;
            s->n_token += seg->n_token;
            held += compact ? kept_gists(&kept, seg->n_token) : seg->n_token;
            if (!whole) s->reserve = i64_max(s->reserve, seg->n_token);
        }
        if (whole) s->reserve = i64_max(s->reserve, held);
    }
    if (!st && !whole && !left && s->n) s->reserve = p->segment;
    if (!st && !s->n)
        st = status_fail(ST_INPUT,
                         "%s: holds no document with text; run precis encode with this --store first (or again, if it was stopped)", dir);
    if (st) sources_free(s);
    return st;
}

void sources_free(sources_t *s) {
    mem_free(s->segments);
    mem_free(s->doc);
    mem_free(s->ordinal);
    mem_free(s->before);
    *s = (sources_t){0};
}
