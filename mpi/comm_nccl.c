/* Exchanges on a stream of their own, beside the backend's:
 *
 *     backend   ...keys of step i ──┬──────── attention of other rows ───────┬── attention that needs them
 *                                   issued                                  done
 *     here                          └─ pack ─ send and receive ─ unpack ─────┘
 *
 * Large blocks of a message are sent as they lie. Small ones are one send, however many there are: they are packed into one stretch of
 * memory first, and what several ranks get is packed once. NCCL runs what one group holds at the same time; groups run in order.
 *
 * A send's blocks hold their multiprocessors from when they begin until the other rank's have begun as well and all bytes are over. Beside
 * computing a few of them are fast enough and leave the others to it; where nothing runs beside, as many as NCCL likes.
 */
#include "mpi/comm_nccl.h"

#include <cuda_runtime.h>
#include <string.h>
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes" /* its header's, not ours */
#include <nccl.h>
#pragma GCC diagnostic pop

#include "base/mem.h"

enum { ALIGN = 256, LARGE = 256 << 10 }; /* bytes; blocks from LARGE on are not packed */

struct comm_exchange {
    comm_exchange_t *next; /* among the spare ones */
    cudaEvent_t done;
};

/* What goes to one rank, or comes from it. */
typedef struct {
    char *at; /* in the staging memory, where packed */
    int64_t bytes, offset;
    bool packed, again; /* one stretch in the staging memory; another rank's message that is there already */
} message_t;

typedef struct {
    char *memory;
    size_t bytes;
} staging_t;

typedef struct {
    cudaEvent_t from, to; /* around a wait of the backend's stream */
} stall_t;

typedef struct {
    comm_device_t base;      /* first: the two pointers are the same */
    ncclComm_t wide, narrow; /* of as many blocks as NCCL likes; of few, for messages beside computing, or NULL: the same */
    cudaStream_t backend, stream;
    cudaEvent_t issued;
    message_t *messages; /* [2][size] sent, received */
    staging_t staging[2];
    comm_exchange_t *spare;
    stall_t *stalls; /* [cap_stall] kept, the first n_stall of them since they were last asked */
    int n_stall, cap_stall;
} nccl_t;

static status_t cuda_check(cudaError_t e, const char *what) {
    if (e == cudaSuccess) return ST_OK;
    return status_fail(ST_FAIL, "GPU: %s: %s; run the same command again, with CUDA_LAUNCH_BLOCKING=1 to see where it began", what,
                       cudaGetErrorString(e));
}

static status_t nccl_check(ncclResult_t r, const char *what) {
    if (r == ncclSuccess) return ST_OK;
    return status_fail(ST_FAIL, "NCCL: %s: %s; NCCL_DEBUG=INFO says more; a rank or a link was probably lost: run the same command again",
                       what, ncclGetErrorString(r));
}

/* ---- messages --------------------------------------------------------------------------------------------------- */

/* The next part to or from `peer`, from index i on, or n. */
static int next_part(const comm_part_t *parts, int n, int peer, int i) {
    while (i < n && parts[i].peer != peer) i++;
    return i;
}

static bool same_parts(const comm_part_t *parts, int n, int a, int b) {
    int i = next_part(parts, n, a, 0), j = next_part(parts, n, b, 0);
    for (; i < n && j < n; i = next_part(parts, n, a, i + 1), j = next_part(parts, n, b, j + 1)) {
        const comm_part_t *p = &parts[i], *q = &parts[j];
        if (p->p != q->p || p->bytes != q->bytes || p->count != q->count || p->stride != q->stride) return false;
    }
    return i == n && j == n;
}

/* Sizes and places of the messages; *total: staging memory they take. */
static void messages_lay(const nccl_t *c, const comm_part_t *parts, int n, bool sent, message_t *m, size_t *total) {
    *total = 0;
    for (int r = 0; r < c->base.comm->size; r++) {
        int64_t blocks = 0, least = LARGE;
        m[r] = (message_t){0};
        for (int i = next_part(parts, n, r, 0); i < n; i = next_part(parts, n, r, i + 1)) {
            m[r].bytes += parts[i].bytes * parts[i].count;
            blocks += parts[i].count;
            least = i64_min(least, parts[i].bytes);
        }
        if (!m[r].bytes) continue;
        m[r].packed = blocks > 1 && least < LARGE; /* the same on both sides */
        if (!m[r].packed) continue;
        for (int q = 0; q < r && sent && !m[r].again; q++)
            if (m[q].packed && same_parts(parts, n, q, r)) {
                m[r].again = true;
                m[r].offset = m[q].offset;
            }
        if (m[r].again) continue;
        m[r].offset = (int64_t)*total;
        *total += size_round_up((size_t)m[r].bytes, ALIGN);
    }
}

static status_t staging_fit(nccl_t *c, staging_t *s, size_t bytes) {
    if (bytes <= s->bytes) return ST_OK;
    status_t st = cuda_check(cudaStreamSynchronize(c->stream), "messages");
    if (st) return st;
    cudaFree(s->memory);
    *s = (staging_t){0};
    void *p = NULL;
    if (cudaMalloc(&p, bytes) != cudaSuccess) {
        cudaGetLastError();
        return status_fail(ST_FAIL, "GPU: no memory for messages between ranks: %.2f GiB wanted; use a smaller --batch, or more GPUs",
                           (double)bytes / 0x1p30);
    }
    *s = (staging_t){p, bytes};
    return ST_OK;
}

/* Blocks into the stretch of their message, or out of it. */
static status_t blocks_move(nccl_t *c, const comm_part_t *parts, int n, const message_t *m, bool pack) {
    status_t st = ST_OK;
    for (int r = 0; r < c->base.comm->size; r++) {
        char *at = m[r].at;
        if (!m[r].packed || m[r].again) continue;
        for (int i = next_part(parts, n, r, 0); i < n && !st; i = next_part(parts, n, r, i + 1)) {
            const comm_part_t *p = &parts[i];
            size_t width = (size_t)p->bytes, stride = (size_t)p->stride, count = (size_t)p->count;
            if (!width || !count) continue;
            cudaError_t e = pack ? cudaMemcpy2DAsync(at, width, p->p, stride, width, count, cudaMemcpyDeviceToDevice, c->stream)
                                 : cudaMemcpy2DAsync(p->p, stride, at, width, width, count, cudaMemcpyDeviceToDevice, c->stream);
            st = cuda_check(e, "packing messages");
            at += width * count;
        }
    }
    return st;
}

static void messages_place(nccl_t *c, message_t *m, const staging_t *s) {
    for (int r = 0; r < c->base.comm->size; r++)
        if (m[r].packed) m[r].at = s->memory + m[r].offset;
}

static status_t stretch_go(nccl_t *c, char *p, int64_t bytes, int peer, bool sent) {
    ncclComm_t nccl = c->base.beside && c->narrow ? c->narrow : c->wide;
    if (sent) return nccl_check(ncclSend(p, (size_t)bytes, ncclInt8, peer, nccl, c->stream), "send");
    return nccl_check(ncclRecv(p, (size_t)bytes, ncclInt8, peer, nccl, c->stream), "receive");
}

static status_t message_go(nccl_t *c, const comm_part_t *parts, int n, const message_t *m, int peer, bool sent) {
    status_t st = ST_OK;
    if (!m->bytes) return ST_OK;
    if (sent) c->base.comm->sent_bytes += m->bytes;
    if (m->packed) return stretch_go(c, m->at, m->bytes, peer, sent);
    for (int i = next_part(parts, n, peer, 0); i < n && !st; i = next_part(parts, n, peer, i + 1))
        for (int64_t b = 0; b < parts[i].count && !st; b++)
            if (parts[i].bytes) st = stretch_go(c, (char *)parts[i].p + b * parts[i].stride, parts[i].bytes, peer, sent);
    return st;
}

static status_t messages_go(nccl_t *c, const comm_part_t *send, int n_send, const comm_part_t *recv, int n_recv, const message_t *to,
                            const message_t *from) {
    status_t st = nccl_check(ncclGroupStart(), "a group of messages");
    for (int r = 0; r < c->base.comm->size && !st; r++) {
        st = message_go(c, send, n_send, &to[r], r, true);
        if (!st) st = message_go(c, recv, n_recv, &from[r], r, false);
    }
    status_t ended = nccl_check(ncclGroupEnd(), "a group of messages");
    return st ? st : ended;
}

/* ---- exchanges -------------------------------------------------------------------------------------------------- */

static status_t exchange_get(nccl_t *c, comm_exchange_t **out) {
    comm_exchange_t *e = c->spare;
    *out = NULL;
    if (e) {
        c->spare = e->next;
    } else {
        status_t st = mem_zalloc(&e, 1, sizeof *e, "an exchange");
        if (!st && (st = cuda_check(cudaEventCreateWithFlags(&e->done, cudaEventDisableTiming), "an event"))) mem_free(e);
        if (st) return st;
    }
    *out = e;
    return ST_OK;
}

static status_t nccl_exchange_start(comm_device_t *d, const comm_part_t *send, int n_send, const comm_part_t *recv, int n_recv,
                                    comm_exchange_t **out) {
    nccl_t *c = (nccl_t *)d;
    message_t *to = c->messages, *from = c->messages + d->comm->size;
    size_t bytes[2];
    *out = NULL;
    if (!n_send && !n_recv) return ST_OK;
    messages_lay(c, send, n_send, true, to, &bytes[0]);
    messages_lay(c, recv, n_recv, false, from, &bytes[1]);
    status_t st = staging_fit(c, &c->staging[0], bytes[0]);
    if (!st) st = staging_fit(c, &c->staging[1], bytes[1]);
    if (st) return st;
    messages_place(c, to, &c->staging[0]);
    messages_place(c, from, &c->staging[1]);
    st = cuda_check(cudaEventRecord(c->issued, c->backend), "an event");
    if (!st) st = cuda_check(cudaStreamWaitEvent(c->stream, c->issued, 0), "an event");
    if (!st) st = blocks_move(c, send, n_send, to, true);
    if (!st) st = messages_go(c, send, n_send, recv, n_recv, to, from);
    if (!st) st = blocks_move(c, recv, n_recv, from, false);
    if (!st) st = exchange_get(c, out);
    return st ? st : cuda_check(cudaEventRecord((*out)->done, c->stream), "an event");
}

/* ---- waits ------------------------------------------------------------------------------------------------------ */

static status_t stall_get(nccl_t *c, stall_t **out) {
    if (c->n_stall == c->cap_stall) {
        int cap = c->cap_stall ? 2 * c->cap_stall : 64;
        status_t st = mem_grow(&c->stalls, (size_t)cap, sizeof *c->stalls, "timed waits");
        for (; !st && c->cap_stall < cap; c->cap_stall++) {
            stall_t *s = &c->stalls[c->cap_stall];
            *s = (stall_t){0};
            if (!(st = cuda_check(cudaEventCreate(&s->from), "an event"))) st = cuda_check(cudaEventCreate(&s->to), "an event");
        }
        if (st) return st;
    }
    *out = &c->stalls[c->n_stall++];
    return ST_OK;
}

static status_t nccl_exchange_wait(comm_device_t *d, comm_exchange_t *e) {
    nccl_t *c = (nccl_t *)d;
    stall_t *s = NULL;
    if (!e) return ST_OK;
    e->next = c->spare;
    c->spare = e;
    status_t st = d->timed ? stall_get(c, &s) : ST_OK;
    if (s && !st) st = cuda_check(cudaEventRecord(s->from, c->backend), "an event");
    if (!st) st = cuda_check(cudaStreamWaitEvent(c->backend, e->done, 0), "messages");
    if (s && !st) st = cuda_check(cudaEventRecord(s->to, c->backend), "an event");
    return st;
}

static status_t nccl_stalled(comm_device_t *d, double *seconds) {
    nccl_t *c = (nccl_t *)d;
    status_t st = cuda_check(cudaStreamSynchronize(c->backend), "messages");
    *seconds = 0;
    for (int i = 0; i < c->n_stall && !st; i++) {
        float ms = 0;
        st = cuda_check(cudaEventElapsedTime(&ms, c->stalls[i].from, c->stalls[i].to), "the time of a wait");
        *seconds += ms * 1e-3;
    }
    c->n_stall = 0;
    d->timed = false;
    return st;
}

/* ---- joining ---------------------------------------------------------------------------------------------------- */

/* Both communicators of all ranks. Collective. */
static status_t join(nccl_t *c, int n_cta) {
    comm_t *comm = c->base.comm;
    ncclUniqueId id = {{0}};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    status_t st = comm->rank == 0 ? nccl_check(ncclGetUniqueId(&id), "an id") : ST_OK;
    if ((st = comm_agree(comm, st))) return st;
    if ((st = comm->ops->bcast(comm, 0, &id, sizeof id))) return st;
    st = nccl_check(ncclCommInitRankConfig(&c->wide, comm->size, id, comm->rank, &config), "joining the ranks");
    if ((st = comm_agree(comm, st)) || !n_cta) return st;
    config.maxCTAs = n_cta;
    return comm_agree(comm, nccl_check(ncclCommSplit(c->wide, 0, comm->rank, &c->narrow, &config), "joining the ranks"));
}

static status_t nccl_all_gather(comm_device_t *d, const void *send, void *recv, int64_t bytes_each) {
    nccl_t *c = (nccl_t *)d;
    status_t st = cuda_check(cudaEventRecord(c->issued, c->backend), "an event");
    if (!st) st = cuda_check(cudaStreamWaitEvent(c->stream, c->issued, 0), "an event");
    if (!st) st = nccl_check(ncclAllGather(send, recv, (size_t)bytes_each, ncclInt8, c->wide, c->stream), "all-gather");
    if (!st) st = cuda_check(cudaEventRecord(c->issued, c->stream), "an event");
    if (!st) d->comm->sent_bytes += bytes_each * (d->comm->size - 1);
    return st ? st : cuda_check(cudaStreamWaitEvent(c->backend, c->issued, 0), "an event");
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

static void nccl_close(comm_device_t *d) {
    nccl_t *c = (nccl_t *)d;
    if (!c) return;
    if (c->stream) cudaStreamSynchronize(c->stream);
    if (c->narrow) ncclCommDestroy(c->narrow);
    if (c->wide) ncclCommDestroy(c->wide);
    for (comm_exchange_t *e = c->spare, *next; e; e = next) {
        next = e->next;
        cudaEventDestroy(e->done);
        mem_free(e);
    }
    for (int i = 0; i < 2; i++) cudaFree(c->staging[i].memory);
    for (int i = 0; i < c->cap_stall; i++) {
        if (c->stalls[i].from) cudaEventDestroy(c->stalls[i].from);
        if (c->stalls[i].to) cudaEventDestroy(c->stalls[i].to);
    }
    mem_free(c->stalls);
    if (c->issued) cudaEventDestroy(c->issued);
    if (c->stream) cudaStreamDestroy(c->stream);
    mem_free(c->messages);
    mem_free(c);
}

static const comm_device_ops_t ops = {.name = "nccl",
                                      .exchange_start = nccl_exchange_start,
                                      .exchange_wait = nccl_exchange_wait,
                                      .all_gather = nccl_all_gather,
                                      .stalled = nccl_stalled,
                                      .close = nccl_close};

status_t comm_nccl_create(comm_t *comm, int device, void *stream, int n_cta, comm_device_t **out) {
    nccl_t *c = NULL;
    *out = NULL;
    status_t st = mem_zalloc(&c, 1, sizeof *c, "NCCL");
    if (!st) {
        int least, greatest;
        c->base = (comm_device_t){.ops = &ops, .comm = comm};
        c->backend = stream;
        st = mem_alloc(&c->messages, 2 * (size_t)comm->size, sizeof *c->messages, "messages between ranks");
        if (!st) st = cuda_check(cudaSetDevice(device), "choosing a device");
        if (!st) st = cuda_check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "a stream");
        /* first in line: messages are short, and others wait for them */
        if (!st) st = cuda_check(cudaStreamCreateWithPriority(&c->stream, cudaStreamNonBlocking, greatest), "a stream");
        if (!st) st = cuda_check(cudaEventCreateWithFlags(&c->issued, cudaEventDisableTiming), "an event");
    }
    if (!(st = comm_agree(comm, st))) st = join(c, n_cta);
    if (st) {
        nccl_close(c ? &c->base : NULL);
        return st;
    }
    *out = &c->base;
    return ST_OK;
}
