/* One document through the model on all ranks at once, bit for bit as one rank would (layout/shard.h says who does what).
 *
 *     shard_t plan;
 *     st = encoder_shard(e, segment, n_segment, raw_kept, comm->size, &plan);
 *     ... memory for the segments that shard_writer gives to this rank ...
 *     st = encoder_run_sharded(e, comm, &plan, &document);
 *     shard_free(&plan);
 *
 * A rank holds the rows it works on, of all layers only what it keeps, and of others two layers of what its rows see. Each layer's
 * attention is the ordinary one over the same pools as on one rank, run when what it sees has come: so nothing about sums changes.
 */
#ifndef ENCODE_SHARDED_H
#define ENCODE_SHARDED_H

#include "encode/encoder.h"
#include "encode/under_way.h"
#include "layout/shard.h"

/* For measurements: all of it; the computing without the messages (K/V of others are then whatever was there); the messages alone. */
typedef enum { SHARD_ALL, SHARD_COMPUTE, SHARD_WIRE } shard_part_t;

typedef struct {
    shard_part_t part;
    const int32_t *tokens; /* all of the document's */
    const int64_t *at;     /* [n_segment] numbers of the segments' first rows, for the spec's `rows`; NULL when none are wanted */
    /* [n_segment] where K/V of the segments that this rank writes go, all layers: of the last n_row raw rows, and of the gists. n_row 0:
     * nowhere. NULL: nothing is kept. */
    const kv_pool_t *raw, *gists;
    bool spilled;            /* that is in host memory (kv_alloc_host), since the device is too small. Each rank may do as it must */
    bool (*stop)(void *ctx); /* asked between layers on every rank; one yes stops all. NULL: to the end */
    void *stop_ctx;
    status_t (*after)(void *ctx, int layer); /* K/V of a layer, and of all before, will be where they go behind what the device was asked;
                                                NULL: nobody is told */
    void *after_ctx;
    under_way_t
        *under_way;    /* where a stop saves what was done, and a run before this one may have; with the caller's parts. NULL: nowhere */
    int64_t sent;      /* out: bytes of K/V that this rank sent */
    int from, stopped; /* out: layers that were done before; layers done when it was stopped, -1: none; 0: it was not */
} sharded_t;

/* The plan for a document whose segments begin at segment[0..n_segment), and end at segment[n_segment]. raw_kept: all raw rows will be. */
status_t encoder_shard(const encoder_t *e, const int64_t *segment, int64_t n_segment, bool raw_kept, int size, shard_t *out);
/* Bytes of K/V that a rank sends for it, all layers. */
int64_t encoder_shard_bytes(const encoder_t *e, const shard_t *plan, int rank);
/* Bytes of this rank's device for it beside what it keeps: two layers of what its rows see, and the rows under way. */
status_t encoder_shard_memory(encoder_t *e, comm_t *comm, const shard_t *plan, size_t *bytes);
/* Collective. Of `stopped` and `from` > 0 all ranks know the same. The encoder's spec must say `sharded`; compact positions are not done. A
 * failure in the middle ends the job, since others would wait. */
status_t encoder_run_sharded(encoder_t *e, comm_t *comm, const shard_t *plan, sharded_t *d);

#endif
