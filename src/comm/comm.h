/* What ranks say to each other. comm_self.c is one rank; mpi/comm_mpi.c many: the code above is the same.
 *
 * Collectives are called by all ranks in the same order. Counts are int64_t bytes and may pass 2^31 (the MPI side sends in pieces).
 * Nobody waits for a rank that failed: comm_agree at the end of each phase spreads the worst status and its message. Inside a phase a rank
 * that cannot go on finishes its part of the collectives or calls comm_abort.
 */
#ifndef COMM_COMM_H
#define COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct comm comm_t;

/* A short message outside the collectives: progress, and "please stop". */
typedef enum { NOTE_PROGRESS, NOTE_STOP, NOTE_DONE } note_kind_t;
typedef struct {
    int32_t kind, from;
    int64_t a, b;
} note_t;

/* One direction of a message between two ranks: `count` blocks of `bytes` bytes, one every `stride` bytes from p on. */
typedef struct {
    int peer;
    void *p; /* host memory; [B] for a comm_device_t */
    int64_t bytes, stride, count;
} comm_part_t;
typedef struct comm_exchange comm_exchange_t;

typedef struct {
    const char *name; /* "self", "mpi" */
    status_t (*bcast)(comm_t *, int root, void *p, int64_t bytes);
    /* Each rank gives bytes_each[rank] bytes; recv gets all, rank after rank. In place is not allowed. */
    status_t (*all_gather)(comm_t *, const void *send, void *recv, const int64_t *bytes_each);
    status_t (*gather)(comm_t *, int root, const void *send, void *recv /* root only */, const int64_t *bytes_each);
    status_t (*max_i64)(comm_t *, int64_t *v, int64_t n); /* element-wise maximum over ranks; exact */
    status_t (*sum_i64)(comm_t *, int64_t *v,
                        int64_t n); /* exact, so order does not matter; floats are merged by their owners in a fixed order instead */
    status_t (*barrier)(comm_t *);
    /* Messages that travel while others compute. All ranks start the same exchanges in the same order, also when they have nothing in one.
     * The i-th part that rank a sends to b meets the i-th that b receives from a, of the same shape in bytes and count. Memory must stay as
     * it is until exchange_wait, which also takes the handle away (NULL is done already). Nobody sends to itself. */
    status_t (*exchange_start)(comm_t *, const comm_part_t *send, int n_send, const comm_part_t *recv, int n_recv, comm_exchange_t **out);
    status_t (*exchange_wait)(comm_t *, comm_exchange_t *);
    void (*exchange_poke)(comm_t *); /* lets messages go on that need this thread for it; never blocks */
    /* Memory shared by the ranks of a node: *out is the same bytes on each of them. node_barrier orders writes before reads. */
    status_t (*shared_alloc)(comm_t *, size_t bytes, void *out_pp); /* collective over the node */
    void (*shared_free)(comm_t *, void *p);                         /* collective over the node; NULL ok */
    status_t (*node_barrier)(comm_t *);
    /* Notes: posted at once, never block; polled by the receiver. In-flight notes must be drained before comm_close (send NOTE_DONE, see
     * encode). */
    status_t (*note_send)(comm_t *, int to, note_t note);
    bool (*note_poll)(comm_t *, note_t *out); /* true: one was taken */
    void (*abort)(comm_t *, status_t code);   /* ends every rank of the job; does not return */
    void (*close)(comm_t *);
} comm_ops_t;

struct comm {
    const comm_ops_t *ops;
    int rank, size;
    int node_rank, node_size; /* among the ranks that share memory */
    int n_node;
    struct comm_device *device; /* carries device memory between ranks, or NULL: then it goes through the host. Closed before the comm */
    int64_t sent_bytes;         /* bytes this rank put on the wire through collectives, for the plan's figure */
};

/* What moves device memory itself (NCCL): exchanges as above, in the order of the backend's operations: a start waits, on the device, for
 * what was issued before it, and what is issued after a wait comes after the messages. The host does not wait. */
typedef struct comm_device comm_device_t;
typedef struct {
    const char *name;
    status_t (*exchange_start)(comm_device_t *, const comm_part_t *send, int n_send, const comm_part_t *recv, int n_recv,
                               comm_exchange_t **out);
    status_t (*exchange_wait)(comm_device_t *, comm_exchange_t *);
    status_t (*all_gather)(comm_device_t *, const void *send, void *recv, int64_t bytes_each); /* the same from all: what to compare with */
    /* Seconds that the backend's operations stood still for messages in the waits since `timed` was set or this was last asked. Waits for
     * them. */
    status_t (*stalled)(comm_device_t *, double *seconds);
    void (*close)(comm_device_t *);
} comm_device_ops_t;
struct comm_device {
    const comm_device_ops_t *ops;
    comm_t *comm;
    bool timed;  /* waits are timed, until stalled is asked */
    bool beside; /* exchanges from now on travel beside computing: they take little of the device, and longer */
    int n_leave; /* multiprocessors that the computing beside them should leave to them (backend_ops_t.leave) */
};

status_t comm_self_create(comm_t **out);
/* Worst status over all ranks, with the message of the lowest rank that has it; "rank R: " is put before it when size > 1. Collective. */
status_t comm_agree(comm_t *c, status_t mine);

#endif
