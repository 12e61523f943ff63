/* Merged groups of all ranks to all ranks: through host memory, or from device to device where the communicator has one. */
#include "base/mem.h"
#include "query/attend_impl.h"

/* Group results of every rank to every rank from device to device, each to its place. */
static status_t share_groups_device(attend_t *a) {
    const context_kv_t *ctx = a->ctx;
    comm_device_t *dev = a->comm->device;
    float *const sums[3] = {a->sums.o, a->sums.lse, a->sums.m};
    const size_t width[3] = {(size_t)a->config->d_head, 1, 1};
    comm_part_t *parts = NULL; /* [2][size][3] */
    comm_exchange_t *exchange;
    int size = a->comm->size, rank = a->comm->rank, n_send = 0, n_recv = 0;
    status_t st = mem_alloc(&parts, 6 * (size_t)size, sizeof *parts, "messages of a query");
    for (int r = 0; r < size && !st; r++)
        for (int i = 0; i < 3 && r != rank; i++) {
            size_t each = (size_t)plane(a) * width[i];
            int64_t mine = ctx->first_group[rank + 1] - ctx->first_group[rank], theirs = ctx->first_group[r + 1] - ctx->first_group[r];
            float *from = sums[i] + (size_t)(a->n_base + ctx->first_group[rank]) * each,
                  *to = sums[i] + (size_t)(a->n_base + ctx->first_group[r]) * each;
            comm_part_t part = {.peer = r, .count = 1};
            part.bytes = part.stride = mine * (int64_t)(each * sizeof(float));
            part.p = from;
            if (mine) parts[n_send++] = part;
            part.bytes = part.stride = theirs * (int64_t)(each * sizeof(float));
            part.p = to;
            if (theirs) parts[3 * size + n_recv++] = part;
        }
    if (!st) st = dev->ops->exchange_start(dev, parts, n_send, parts + 3 * size, n_recv, &exchange);
    if (!st) st = dev->ops->exchange_wait(dev, exchange);
    mem_free(parts);
    return st;
}

/* Group results of every rank to every rank: [o of its groups][lse][m], rank after rank. */
status_t share_groups(attend_t *a) {
    const context_kv_t *ctx = a->ctx;
    int rank = a->comm->rank;
    int64_t d = a->config->d_head;
    size_t cell_bytes = (size_t)plane(a) * sizeof(float), each = cell_bytes * (size_t)(d + 2);
    int64_t first = ctx->first_group[rank], mine = ctx->first_group[rank + 1] - first;
    backend_t *be = a->be;
    if (!be->host_memory && a->comm->device) return share_groups_device(a);
    int64_t own = a->n_base + first;
    const float *part[3] = {a->sums.o + own * plane(a) * d, a->sums.lse + own * plane(a), a->sums.m + own * plane(a)};
    const size_t size[3] = {cell_bytes * (size_t)d, cell_bytes, cell_bytes};
    status_t st = ST_OK;
    char *to = a->wire_send;
    for (int i = 0; !st && i < 3 && mine; i++) {
        st = be->ops->copy_out(be, to, part[i], size[i] * (size_t)mine);
        to += size[i] * (size_t)mine;
    }
    if (st) return st;
    for (int r = 0; r < a->comm->size; r++) a->bytes_each[r] = (ctx->first_group[r + 1] - ctx->first_group[r]) * (int64_t)each;
    if ((st = a->comm->ops->all_gather(a->comm, a->wire_send, a->wire_recv, a->bytes_each))) return st;
    const char *from = a->wire_recv;
    for (int r = 0; r < a->comm->size; r++) {
        int64_t slot = a->n_base + ctx->first_group[r], n = ctx->first_group[r + 1] - ctx->first_group[r];
        float *at[3] = {a->sums.o + slot * plane(a) * d, a->sums.lse + slot * plane(a), a->sums.m + slot * plane(a)};
        for (int i = 0; !st && i < 3; i++) {
            if (n && r != rank) st = be->ops->copy_in(be, at[i], from, size[i] * (size_t)n);
            from += size[i] * (size_t)n;
        }
    }
    return st ? st : be->ops->sync(be);
}
