/* Ids of documents that this run has met, in a table by hash: of two documents of one id the store keeps the last alone, which is right
 * where a text was edited between two runs, and a loss that must be told where one corpus has both. */
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "encode/job.h"

/* The place of an id: its own, or a free one (hash of the text 0, which no text has by more than chance). */
static name_t *place(const names_t *t, hash_t id) {
    int64_t i = (int64_t)(id.lo & (uint64_t)(t->cap - 1));
    while ((t->slot[i].text.lo || t->slot[i].text.hi) && !hash_equal(t->slot[i].id, id)) i = (i + 1) & (t->cap - 1);
    return &t->slot[i];
}

static status_t grow(names_t *t) {
    names_t more = {.n = t->n, .cap = t->cap ? 2 * t->cap : 64, .told = t->told};
    status_t st = mem_zalloc(&more.slot, (size_t)more.cap, sizeof *more.slot, "ids of documents");
    if (st) return st;
    for (int64_t i = 0; i < t->cap; i++)
        if (t->slot[i].text.lo || t->slot[i].text.hi) *place(&more, t->slot[i].id) = t->slot[i];
    names_free(t);
    *t = more;
    return ST_OK;
}

status_t names_mark(names_t *t, const round_t *r) {
    for (int64_t i = 0; i < r->n_doc; i++) {
        const store_document_t *d = &r->docs[i];
        status_t st = 2 * t->n < t->cap ? ST_OK : grow(t);
        if (st) return st;
        name_t *at = place(t, hash_bytes(d->id, strlen(d->id)));
        bool met = at->text.lo || at->text.hi;
        if (met && !hash_equal(at->text, d->text_hash) && !t->told) {
            log_warn(
                "%s: another text of this run has the id \"%s\", too, and of one id the store keeps the last alone; give each an \"id\" of "
                "its own (further ones are not reported)",
                d->source, d->id);
            t->told = true;
        }
        t->n += !met;
        *at = (name_t){hash_bytes(d->id, strlen(d->id)), d->text_hash};
    }
    return ST_OK;
}

void names_free(names_t *t) {
    mem_free(t->slot);
    *t = (names_t){0};
}
