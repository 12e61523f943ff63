/* The communicator of a process that is alone: every collective is a copy or nothing. */
#include "comm/comm.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* Notes to oneself: a ring that grows. */
typedef struct {
    comm_t comm; /* first: the two pointers are the same */
    note_t *notes;
    size_t cap, first, count;
} self_t;

static status_t self_bcast(comm_t *c, int root, void *p, int64_t bytes) {
    (void)c, (void)root, (void)p, (void)bytes;
    return ST_OK;
}

static status_t self_all_gather(comm_t *c, const void *send, void *recv, const int64_t *bytes_each) {
    (void)c;
    if (bytes_each[0] > 0) memcpy(recv, send, (size_t)bytes_each[0]);
    return ST_OK;
}

static status_t self_gather(comm_t *c, int root, const void *send, void *recv, const int64_t *bytes_each) {
    (void)root;
    return self_all_gather(c, send, recv, bytes_each);
}

static status_t self_reduce(comm_t *c, int64_t *v, int64_t n) {
    (void)c, (void)v, (void)n;
    return ST_OK;
}

static status_t self_barrier(comm_t *c) {
    (void)c;
    return ST_OK;
}

static status_t self_exchange_start(comm_t *c, const comm_part_t *send, int n_send, const comm_part_t *recv, int n_recv,
                                    comm_exchange_t **out) {
    (void)c, (void)send, (void)recv;
    *out = NULL;
    return n_send || n_recv ? status_fail(ST_FAIL, "an exchange with a rank that is not there; report this as a bug") : ST_OK;
}

static status_t self_exchange_wait(comm_t *c, comm_exchange_t *e) {
    (void)c, (void)e;
    return ST_OK;
}

static void self_exchange_poke(comm_t *c) { (void)c; }

static status_t self_shared_alloc(comm_t *c, size_t bytes, void *out_pp) {
    (void)c;
    return mem_alloc(out_pp, bytes, 1, "memory shared by a node's ranks");
}

static void self_shared_free(comm_t *c, void *p) {
    (void)c;
    mem_free(p);
}

static status_t self_note_send(comm_t *c, int to, note_t note) {
    self_t *s = (self_t *)c;
    (void)to;
    if (s->count == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 16;
        note_t *bigger;
        status_t st = mem_alloc(&bigger, cap, sizeof *bigger, "notes");
        if (st) return st;
        for (size_t i = 0; i < s->count; i++) bigger[i] = s->notes[(s->first + i) % s->cap];
        mem_free(s->notes);
        s->notes = bigger;
        s->cap = cap;
        s->first = 0;
    }
    note.from = 0;
    s->notes[(s->first + s->count++) % s->cap] = note;
    return ST_OK;
}

static bool self_note_poll(comm_t *c, note_t *out) {
    self_t *s = (self_t *)c;
    if (s->count == 0) return false;
    *out = s->notes[s->first];
    s->first = (s->first + 1) % s->cap;
    s->count--;
    return true;
}

/* Alone there is nobody to tell: the process ends as it would have with this code. _Exit, for other threads may be at work. */
static void self_abort(comm_t *c, status_t code) {
    (void)c;
    _Exit(code);
}

static void self_close(comm_t *c) {
    self_t *s = (self_t *)c;
    if (!s) return;
    mem_free(s->notes);
    mem_free(s);
}

static const comm_ops_t self_ops = {
    .name = "self",
    .bcast = self_bcast,
    .all_gather = self_all_gather,
    .gather = self_gather,
    .max_i64 = self_reduce,
    .sum_i64 = self_reduce,
    .barrier = self_barrier,
    .exchange_start = self_exchange_start,
    .exchange_wait = self_exchange_wait,
    .exchange_poke = self_exchange_poke,
    .shared_alloc = self_shared_alloc,
    .shared_free = self_shared_free,
    .node_barrier = self_barrier,
    .note_send = self_note_send,
    .note_poll = self_note_poll,
    .abort = self_abort,
    .close = self_close,
};

status_t comm_self_create(comm_t **out) {
    self_t *s;
    *out = NULL;
    status_t st = mem_zalloc(&s, 1, sizeof *s, "a communicator");
    if (st) return st;
    s->comm = (comm_t){.ops = &self_ops, .size = 1, .node_size = 1, .n_node = 1};
    *out = &s->comm;
    return ST_OK;
}
