/* Removing what no document needs: segments of documents that were edited, and second copies. */
#include <stdlib.h>

#include "base/mem.h"
#include "store/profile.h"
#include "store/reader.h"
#include "store/repair.h"

typedef struct {
    hash_t *addresses;
    int64_t n;
} wanted_t; /* sorted */

static int address_compare(const void *a, const void *b) { return hash_compare(*(const hash_t *)a, *(const hash_t *)b); }

/* What documents refer to, and the sink, which all of them stand on. */
static status_t wanted_collect(const store_t *s, wanted_t *w) {
    int64_t n = 1, at = 0;
    for (int64_t i = 0; i < s->documents.n; i++) n += s->documents.records[i].doc.n_segment;
    status_t st = mem_alloc(&w->addresses, (size_t)n, sizeof *w->addresses, "the segments in use");
    if (st) return st;
    w->addresses[at++] = store_address(&s->profile, s->profile.sink, s->profile.n_sink, NULL);
    for (int64_t i = 0; i < s->documents.n; i++) {
        const store_document_t *d = &s->documents.records[i].doc;
        for (int64_t k = 0; k < d->n_segment; k++) w->addresses[at++] = d->segments[k];
    }
    qsort(w->addresses, (size_t)n, sizeof *w->addresses, address_compare);
    w->n = n;
    return ST_OK;
}

/* Wanted, and the copy that counts? */
static bool is_kept(const store_t *s, const wanted_t *w, const store_segment_t *seg) {
    if (!bsearch(&seg->address, w->addresses, (size_t)w->n, sizeof *w->addresses, address_compare)) return false;
    const store_segment_t *counts = store_find(s, seg->address);
    return counts && counts->file == seg->file && counts->tokens_offset == seg->tokens_offset;
}

static status_t file_prune(const store_t *s, int i, const wanted_t *w, int64_t *n_removed) {
    const store_file_t *f = &s->folder.files[i];
    int64_t n = f->n_segment, n_keep = 0, n_kept = n;
    bool *keep;
    status_t st = mem_alloc(&keep, (size_t)n, sizeof *keep, "a list of segments");
    if (st) return st;
    for (int64_t k = 0; k < n; k++) n_keep += keep[k] = is_kept(s, w, &f->segments[k]);
    if (n_keep < n) st = file_rewrite(&s->folder, i, &s->profile, keep, &n_kept);
    if (!st) *n_removed += n - n_kept;
    mem_free(keep);
    return st;
}

static status_t folder_bytes(const char *dir, int64_t *bytes) {
    folder_t folder;
    status_t st = folder_list(dir, &folder);
    if (st) return st;
    for (int i = 0; i < folder.n_file; i++) *bytes += folder.files[i].data_bytes > 0 ? folder.files[i].data_bytes : 0;
    folder_free(&folder);
    return ST_OK;
}

status_t store_prune(const char *dir, int64_t *n_removed, int64_t *freed_bytes) {
    store_t *s;
    wanted_t wanted = {0};
    int64_t n = 0, before = 0, after = 0;
    status_t st = store_check_idle(dir, IDLE_WAIT_S);
    if (!st) st = store_open(dir, false, &s);
    if (st) return st;
    if (s->n_segment && !s->documents.n) {
        st = status_fail(ST_INPUT,
                         "%s has segments and no documents: pruning would remove all of it; finish encoding first, or remove the folder",
                         dir);
        goto out;
    }
    if ((st = wanted_collect(s, &wanted)) || (st = folder_bytes(dir, &before))) goto out;
    for (int i = 0; !st && i < s->folder.n_file; i++) st = file_prune(s, i, &wanted, &n);
    if (!st) st = documents_rewrite(dir, &s->documents);
    if (!st) st = folder_bytes(dir, &after);
    if (st) goto out;
    if (n_removed) *n_removed = n;
    if (freed_bytes) *freed_bytes = before - after;
out:
    mem_free(wanted.addresses);
    store_close(s);
    return st;
}
