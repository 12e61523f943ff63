/* Every rank tells its backend's name and number type. What is alike over all ranks gives the same bits on all of them; what is alike on a
 * node is packed alike, so one copy of the weights serves all its ranks.
 */
#include "model/mixed.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

typedef struct {
    char backend[28];
    int32_t act;
} kind_t;

static kind_t kind_of(const backend_t *be) {
    kind_t k = {.act = (int32_t)be->act};
    snprintf(k.backend, sizeof k.backend, "%s", be->ops->name);
    return k;
}

static bool kinds_equal(const kind_t *a, const kind_t *b) { return a->act == b->act && !strcmp(a->backend, b->backend); }

/* Ranks of one node look at each other through shared memory. */
static status_t node_alike(comm_t *comm, kind_t mine, bool *alike) {
    kind_t *kinds;
    status_t st = comm_agree(comm, comm->ops->shared_alloc(comm, (size_t)comm->node_size * sizeof *kinds, &kinds));
    if (st) return st;
    kinds[comm->node_rank] = mine;
    st = comm->ops->node_barrier(comm);
    *alike = true;
    for (int r = 0; r < comm->node_size && !st; r++) *alike = *alike && kinds_equal(&kinds[r], &mine);
    status_t met = comm->ops->node_barrier(comm); /* all have looked */
    comm->ops->shared_free(comm, kinds);
    return st ? st : met;
}

status_t mixed_find(model_t *m) {
    comm_t *comm = m->comm;
    kind_t mine = kind_of(m->be), *all = NULL;
    int64_t *bytes = NULL;
    bool alike = true;
    status_t st = mem_alloc(&all, (size_t)comm->size, sizeof *all, "the ranks' backends");
    if (!st) st = mem_alloc(&bytes, (size_t)comm->size, sizeof *bytes, "the ranks' backends");
    st = comm_agree(comm, st);
    for (int r = 0; r < comm->size && !st; r++) bytes[r] = sizeof mine;
    if (!st) st = comm->ops->all_gather(comm, &mine, all, bytes);
    for (int r = 1; r < comm->size && !st && alike; r++) {
        alike = kinds_equal(&all[0], &all[r]);
        if (!alike)
            snprintf(m->mixed, sizeof m->mixed, "rank 0 runs on %s in %s, rank %d on %s in %s", all[0].backend,
                     dtype_name((dtype_t)all[0].act), r, all[r].backend, dtype_name((dtype_t)all[r].act));
    }
    mem_free(all);
    mem_free(bytes);
    if (!st && *m->mixed) st = node_alike(comm, mine, &alike);
    m->shared = m->be->host_memory && alike;
    return st;
}

const char *model_mixed(const model_t *m) { return *m->mixed ? m->mixed : NULL; }
