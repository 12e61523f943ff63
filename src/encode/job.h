/* Inside of the encoding job, for its own files only: encode.c runs rounds, share.c encodes what is this rank's, notes.c is what ranks say
 * meanwhile, known.c finds what need not be encoded, speed.c how fast ranks are beside each other,
 * room.c where K/V lie. */
#ifndef ENCODE_JOB_H
#define ENCODE_JOB_H

#include "base/progress.h"
#include "encode/encode.h"
#include "encode/encoder.h"
#include "encode/picker.h"
#include "encode/sharded.h"

typedef struct job job_t;

/* early.c: a segment whose K/V leave before all of it is computed. */
enum { EARLY_PARTS = 4 };
typedef struct {
    job_t *job;
    const round_t *round;
    const round_item_t *of;
    kv_pool_t pool;                             /* where they are on the device */
    status_t (*settle)(job_t *job, void *with); /* gives what was before to the writer; NULL: nothing was */
    void *settle_ctx;
    bool open; /* the store has its place */
    store_item_t item;
    char *k, *v;                       /* where they will be on the host */
    int64_t gists, raw;                /* kept rows that left */
    int layers;                        /* or layers */
    store_part_t leaving[EARLY_PARTS]; /* on their way to the host */
    int64_t ticket[EARLY_PARTS];
    int n_leaving;
} early_t;

/* Segments that went through the encoder in one go and are not with the writer yet: on a device their K/V are still on their way out. */
typedef struct {
    const round_t *round;
    const int64_t *mine; /* [n] items of the round */
    int64_t n, tokens;
    int turn; /* its buffers */
    int64_t ticket;
    kv_pool_t *kept; /* [n] */
    early_t early;
} group_t;

/* What --profile tells: marks before and behind what the device computes, and how long the host waited. */
typedef struct {
    int64_t *marks; /* [n], in pairs */
    int64_t n, cap;
    double tokens_s, copies_s, store_s;
} watch_t;

/* names.c. Rank 0: ids of documents that this run has met, with the hashes of their texts. */
typedef struct {
    hash_t id, text;
} name_t;
typedef struct {
    name_t *slot; /* [cap], a power of two; no more than half are taken */
    int64_t n, cap;
    bool told;
} names_t;
status_t names_mark(names_t *t, const round_t *r); /* warns, once, when two texts have one id */
void names_free(names_t *t);

struct job {
    model_t *model;
    backend_t *be;
    const model_config_t *config;
    comm_t *comm;
    const encode_spec_t *spec;
    encode_report_t *report;
    encoder_t *encoder;
    store_writer_t *writer;
    store_t *before; /* rank 0: what the store held at the start */
    hash_t *added;   /* rank 0: sorted addresses that this run has met */
    int64_t n_added, cap_added;
    names_t names;
    kv_pool_t buffer[2]; /* K/V of the batch being encoded and of the one being written: [rows] of all pieces one after another */
    int64_t buffer_rows, host_rows;
    kv_pool_t scratch; /* rows that are computed but not kept: raw ones, or gists */
    bool spilled;      /* both lie in host memory, buffer[0] being over host[0]: a document's K/V are larger than the device (room.c) */
    /* blockselect */
    picker_t *picker;
    ids_t repeat;         /* what it asks for */
    int64_t picker_rows;  /* longest segment that it takes */
    int32_t *lists[2];    /* lists of kept rows, of the batch being encoded and of the one being written */
    int64_t cap_lists[2]; /* numbers */
    bool chained;         /* segments continue those before them in their document */
    int turn;
    char *host[2]; /* host copies of K, then V, of host_rows rows when the backend's memory is not ours: of a batch, or of a chain's segment
                    */
    group_t held;  /* n == 0: none */
    progress_t progress;
    bool stopping, failed_elsewhere;
    int64_t done_ranks, tokens_done, segments_done;
    double *speed;                 /* [size] of the ranks beside each other; NULL: all alike */
    int64_t kv_sent, kv_sent_plan; /* by this rank, for documents that all ranks share */
    bool released;
    watch_t watch;
};

/* known.c. Rank 0: items that the store holds, or that came earlier, need no encoding. */
status_t known_mark(job_t *j, round_t *r);
/* Every rank reads back its part of what is stored; segments whose bytes changed are dropped and so encoded again. Collective. */
status_t known_verify(job_t *j, int64_t *n_bad);

/* watch.c. A mark before and behind operations; the waits, timed; and what comes of them, into the report. */
status_t watch_mark(job_t *j);
status_t watch_store(job_t *j);
status_t watch_copies(job_t *j, int64_t ticket);
status_t watch_report(job_t *j);

/* speed.c: fills j->speed. Collective. */
status_t speed_find(job_t *j);

/* notes.c */
status_t notes_stop(job_t *j);                                   /* asks all ranks to stop */
status_t notes_take(job_t *j);                                   /* what has come so far */
status_t notes_done(job_t *j, int64_t tokens, int64_t segments); /* this rank encoded so many */
/* Waits until all ranks are done with the round. */
status_t notes_settle(job_t *j);

/* batch.c: independent segments, as many as fit a pass. begin starts a batch and ends the one before; end gives what is held to the writer.
 */
status_t batch_begin(job_t *j, const round_t *r, const int64_t *mine, int64_t n);
status_t batch_end(job_t *j);
/* early.c. May it be? Then early_rows is called behind the passes of its piece, or early_layer behind layers of its document (ctx: what
 * early_of gives). Where it came to that (`open`), `rest` stands for the copies of a segment encoded in passes, and `end` for its way to
 * the writer; or it is left off. */
bool early_may(const job_t *j);
early_t early_of(job_t *j, const round_t *r, const round_item_t *it, const kv_pool_t *pool);
status_t early_rows(void *ctx, int64_t raw, int64_t gists);
status_t early_layer(void *ctx, int layer);
status_t early_rest(early_t *e);
status_t early_end(early_t *e);
status_t early_leave_off(early_t *e);
/* What both ways of writing need: K/V buffers for `rows` rows, of which `each` go out at a time, host[b] for them (on a device, before the
 * first copy), the part of buffer b that holds n rows from row `at`, scratch rows, pools. */
status_t buffer_fit(job_t *j, int64_t rows, int64_t each);
status_t host_fit(job_t *j, int b);
kv_pool_t buffer_piece(job_t *j, int b, int64_t at, int64_t n);
status_t scratch_fit(job_t *j, int64_t tokens);
/* Scratch rows for segments of `tokens` tokens in all. */
int64_t scratch_rows(const kept_t *k, int64_t tokens);
void piece_pools(job_t *j, const kv_pool_t *kept, int64_t n, int64_t *spare, piece_t *p);
/* A segment as the store takes it; k and v: of all layers, where they lie on the host. */
store_item_t batch_item(const job_t *j, const round_t *r, const round_item_t *it, dtype_t type, const void *k, const void *v,
                        const int32_t *list);
/* blockselect: the choice of rows for segments of so many tokens, and the rows of encoded pieces that stay: in list b and, where the others
 * go, packed into kept. */
picker_spec_t batch_picker(const job_t *j, int64_t longest);
status_t batch_pick(job_t *j, int b, const piece_t *pieces, kv_pool_t *kept, int64_t n);

/* room.c. Where a document's K/V go whose rows are kept, or needed for a segment at a time: to the device, or to the host where they do not
 * fit (told; ST_FAIL with the numbers where two layers of them do not fit either). What buffer_fit and scratch_fit then make lies there. */
status_t room_choose(job_t *j, int64_t n_token, int64_t kept, int64_t scratch);
/* The same for a document that all ranks share, of which this one keeps so many rows: decided here, and done when all ranks have agreed
 * to. Where it does not fit, `fits` is false. */
typedef struct {
    bool fits, spilled, anew; /* anew: buffers that are there are given back */
    int64_t n_token;
    int size;
    double work, kept, room, total; /* bytes */
} room_t;
status_t room_share(job_t *j, const shard_t *plan, int64_t kept, room_t *out);
status_t room_take(job_t *j, const room_t *r);
/* Would a segment of so many tokens fit the device beside the one that is being written? */
bool room_for(const job_t *j, int64_t n);
status_t room_device(job_t *j); /* back to the device */
/* Buffers and scratch rows given back. */
void room_free(job_t *j);

/* share.c. A document that all ranks share, from item `first` on: each writes the segments whose last row it has. *shared is false where
 * that is left to --shard auto and it does not fit every rank's device: nothing is done then. Collective. */
status_t share_document(job_t *j, const round_t *r, int64_t first, bool *shared);
/* Encodes this rank's units (first items of segments, or of chains) and writes them. */
status_t share_encode(job_t *j, const round_t *r, const int64_t *mine, int64_t n);

#endif
