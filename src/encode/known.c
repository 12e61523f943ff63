/* What need not be encoded: segments that the store holds, unharmed, and twins. */
#include <stdlib.h>

#include "base/mem.h"
#include "encode/job.h"

static int by_address(const void *a, const void *b) { return hash_compare(*(const hash_t *)a, *(const hash_t *)b); }

status_t known_mark(job_t *j, round_t *r) {
    int64_t fresh = 0;
    for (int64_t i = 0; i < r->n_item; i++) {
        round_item_t *it = &r->items[i];
        if (store_find(j->before, it->address) ||
            (j->n_added && bsearch(&it->address, j->added, (size_t)j->n_added, sizeof(hash_t), by_address)))
            it->todo = 0;
        fresh += it->todo;
    }
    if (!fresh) return ST_OK;
    status_t st = mem_room(&j->added, j->n_added + fresh - 1, &j->cap_added, sizeof *j->added, "known addresses");
    if (st) return st;
    /* sort the round's own to find twins inside it: the first of them stays */
    hash_t *mine = j->added + j->n_added;
    int64_t n = 0;
    for (int64_t i = 0; i < r->n_item; i++)
        if (r->items[i].todo) mine[n++] = r->items[i].address;
    qsort(mine, (size_t)n, sizeof *mine, by_address);
    int64_t unique = 0;
    for (int64_t i = 0; i < n; i++)
        if (!i || !hash_equal(mine[i], mine[i - 1])) mine[unique++] = mine[i];
    if (unique < n) {
        uint8_t *seen = NULL;
        st = mem_zalloc(&seen, (size_t)unique, 1, "twins");
        if (st) return st;
        for (int64_t i = 0; i < r->n_item; i++) {
            if (!r->items[i].todo) continue;
            hash_t *at = bsearch(&r->items[i].address, mine, (size_t)unique, sizeof *mine, by_address);
            if (seen[at - mine]++) r->items[i].todo = 0;
        }
        mem_free(seen);
    }
    j->n_added += unique;
    qsort(j->added, (size_t)j->n_added, sizeof *j->added, by_address);
    return ST_OK;
}

status_t known_verify(job_t *j, int64_t *n_bad) {
    store_t *s = NULL;
    comm_t *c = j->comm;
    status_t st = store_open(j->spec->store_dir, true, &s);
    int64_t n = st ? 0 : store_n_segment(s), bad = 0, *counts = NULL;
    hash_t *mine = NULL, *all = NULL;
    if (!st) st = mem_alloc(&mine, (size_t)n, sizeof *mine, "damaged segments");
    if (!st) st = mem_zalloc(&counts, (size_t)c->size, sizeof *counts, "damaged segments");
    if (!st && j->spec->verify) {
#pragma omp parallel for schedule(dynamic)
        for (int64_t i = c->rank; i < n; i += c->size)
            if (store_verify(s, store_segment(s, i))) {
#pragma omp critical
                mine[bad++] = store_segment(s, i)->address;
            }
    }
    if (!st) counts[c->rank] = bad * (int64_t)sizeof *mine;
    st = comm_agree(c, st);
    if (!st) st = c->ops->sum_i64(c, counts, c->size);
    int64_t total = 0;
    for (int r = 0; !st && r < c->size; r++) total += counts[r];
    *n_bad = total / (int64_t)sizeof *mine;
    if (!st) st = mem_alloc(&all, (size_t)i64_max(total, 1), 1, "damaged segments");
    if (!st) st = c->ops->gather(c, 0, mine, all, counts);
    store_close(s);
    if (!st && total && c->rank == 0) st = store_drop(j->spec->store_dir, all, *n_bad);
    mem_free(mine);
    mem_free(all);
    mem_free(counts);
    return comm_agree(c, st);
}
