#include "encode/wire.h"

#include <string.h>

#include "base/mem.h"

void wire_free(wire_t *w, backend_t *be) {
    mem_free(w->host);
    mem_free(w->recv);
    be->ops->host_free(be, w->memory);
    *w = (wire_t){0};
}

/* The same blocks, one behind another in host memory. */
static comm_part_t packed(const comm_part_t *p, char *at) {
    return (comm_part_t){.peer = p->peer, .p = at, .bytes = p->bytes, .stride = p->bytes, .count = p->count};
}

static status_t staging_fit(wire_t *w, backend_t *be, int n, size_t bytes) {
    status_t st = ST_OK;
    if (n > w->cap) {
        st = mem_grow(&w->host, 2 * (size_t)n, sizeof *w->host, "messages of an exchange");
        if (!st) st = mem_grow(&w->recv, 2 * (size_t)n, sizeof *w->recv, "messages of an exchange");
        if (st) return st;
        w->cap = 2 * n;
    }
    if (bytes <= w->bytes) return ST_OK;
    be->ops->host_free(be, w->memory);
    w->memory = NULL;
    w->bytes = 0;
    st = be->ops->host_alloc(be, bytes, "an exchange on the host", &w->memory);
    if (!st) w->bytes = bytes;
    return st;
}

static status_t staged_start(wire_t *w, backend_t *be, comm_t *comm, const comm_part_t *send, int n_send, const comm_part_t *recv,
                             int n_recv) {
    size_t bytes = 0;
    for (int i = 0; i < n_send; i++) bytes += (size_t)(send[i].bytes * send[i].count);
    for (int i = 0; i < n_recv; i++) bytes += (size_t)(recv[i].bytes * recv[i].count);
    status_t st = staging_fit(w, be, n_send + n_recv, bytes);
    if (st) return st;
    char *at = w->memory;
    int64_t ticket = 0;
    for (int i = 0; i < n_send && !st; i++) {
        w->host[i] = packed(&send[i], at);
        for (int64_t b = 0; b < send[i].count && !st; b++, at += send[i].bytes)
            st = be->ops->copy_out_start(be, at, (char *)send[i].p + b * send[i].stride, (size_t)send[i].bytes, &ticket);
    }
    if (n_send && !st) st = be->ops->copy_out_wait(be, ticket);
    for (int i = 0; i < n_recv; i++) {
        w->host[n_send + i] = packed(&recv[i], at);
        at += recv[i].bytes * recv[i].count;
    }
    if (n_recv) memcpy(w->recv, recv, (size_t)n_recv * sizeof *recv);
    w->n_send = n_send;
    w->n_recv = n_recv;
    return st ? st : comm->ops->exchange_start(comm, w->host, n_send, w->host + n_send, n_recv, &w->exchange);
}

status_t wire_start(wire_t *w, backend_t *be, comm_t *comm, const comm_part_t *send, int n_send, const comm_part_t *recv, int n_recv) {
    w->exchange = NULL;
    w->n_recv = 0;
    if (be->host_memory) return comm->ops->exchange_start(comm, send, n_send, recv, n_recv, &w->exchange);
    if (comm->device) return comm->device->ops->exchange_start(comm->device, send, n_send, recv, n_recv, &w->exchange);
    return staged_start(w, be, comm, send, n_send, recv, n_recv);
}

status_t wire_wait(wire_t *w, backend_t *be, comm_t *comm) {
    bool device = !be->host_memory && comm->device;
    status_t st = device ? comm->device->ops->exchange_wait(comm->device, w->exchange) : comm->ops->exchange_wait(comm, w->exchange);
    w->exchange = NULL;
    for (int i = 0; i < w->n_recv && !st; i++) {
        const comm_part_t *to = &w->recv[i], *from = &w->host[w->n_send + i];
        for (int64_t b = 0; b < to->count && !st; b++)
            st = be->ops->copy_in(be, (char *)to->p + b * to->stride, (char *)from->p + b * from->stride, (size_t)to->bytes);
    }
    w->n_recv = 0;
    return st;
}
