/* Measurements of a whole program path on made-up models: encoding, decoding, single operations. Each run checks itself against the plain
 * reference first and gives its rate beside ceilings of the same machine, measured in the same call. Nothing here prints.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include "encode/kept.h"
#include "model/model.h"

/* Dimensions of known models, by name: "tiny", "smollm2" (135M), "1b" (Llama 3.2), "8b" (Llama 3.1). NULL: unknown. */
const model_config_t *bench_shape(const char *name);

typedef struct {
    double flops, bytes; /* matrix products in flop/s; copies, bytes read and written per s */
} bench_ceiling_t;

/* ---- where the time goes ---------------------------------------------------------------------------------------------- */
/* Wraps a backend's operations so that each is timed to its end. Slower than running freely: waits after every operation. */
enum { PROFILE_OPS = 16 };
typedef struct {
    const char *name;
    double seconds;
    int64_t calls;
} profile_line_t;
void bench_profile_begin(backend_t *be);
/* Back to normal; lines by falling time, at most PROFILE_OPS. */
int bench_profile_end(backend_t *be, profile_line_t *lines);

/* ---- encoding ----------------------------------------------------------------------------------------------------------- */
typedef struct {
    layout_method_t layout; /* pce, full or unigist */
    gist_spec_t gist;
    int64_t segment, n_segment; /* tokens of each; full and unigist: one document of n_segment x segment */
    int64_t n_sink, max_row;
    bool to_host; /* K/V go to pinned host memory, beside the encoding of the next pass */
    int repeats;
    bool profile;
} bench_encode_t;
typedef struct {
    int64_t tokens, rows;        /* raw tokens; rows with gists, through the model */
    double median_s, best_s;     /* of the whole corpus */
    double linear, attention;    /* flops that the layout asks for */
    double kv_bytes;             /* that leave the device, or stay */
    double error, limit;         /* of K/V against the reference, relative; what it may be */
    size_t weights, work, pools; /* bytes in backend memory */
    size_t left, total;          /* of backend memory, before any of it; SIZE_MAX: the host's */
    bool valid;
    bench_ceiling_t ceiling;
    int n_line;
    profile_line_t lines[PROFILE_OPS];
    double profiled_s;
} bench_encoded_t;
status_t bench_encode(const model_config_t *c, backend_t *be, comm_t *comm, const bench_encode_t *b, bench_encoded_t *out);

/* ---- one document over ranks ---------------------------------------------------------------------------------------------- */
enum { SHARD_SIZES = 3 }; /* messages of 16, 64 and 256 MB */
typedef struct {
    gist_spec_t gist;        /* unigist; ratio 0: full attention in slices of `segment` tokens */
    int64_t tokens, segment; /* of the document; of a slice */
    int64_t n_sink, max_row;
    int repeats;
} bench_shard_t;
typedef struct {
    double seconds, compute_s, wire_s; /* medians, of the slowest rank: all of it, the computing alone, the messages alone */
    double stalled_least_s,
        stalled_s;               /* the ranks' devices stood still for messages or for their senders: the least, the most; < 0: not seen */
    int64_t sent, planned, ring; /* K/V bytes of all ranks: measured, planned, and what ring attention would send */
    int64_t most;                /* sent by one rank */
    double exchange_bytes_s[SHARD_SIZES], gather_bytes_s[SHARD_SIZES]; /* received per rank and second; 0: no all-gather to compare with */
    char digest[33];                                                   /* of the kept K/V: the same at every number of ranks */
} bench_sharded_t;
/* Collective. One rank encodes as the job does, without sharding. */
status_t bench_shard(const model_config_t *c, backend_t *be, comm_t *comm, const bench_shard_t *b, bench_sharded_t *out);

/* ---- decoding ----------------------------------------------------------------------------------------------------------- */
typedef struct {
    int64_t context, segment; /* rows of K/V that the query sees, in pools of `segment` rows */
    int64_t slots, steps;     /* prompts side by side; tokens decoded for each */
    int repeats;
    bool profile;
} bench_query_t;
typedef struct {
    double step_s, best_s;         /* of one step: median over all steps, and the best */
    double weight_bytes, kv_bytes; /* read once in a step */
    double error, limit;           /* of logits against the reference */
    bool valid;
    bench_ceiling_t ceiling;
    int n_line;
    profile_line_t lines[PROFILE_OPS];
    double profiled_s;
} bench_queried_t;
status_t bench_query(const model_config_t *c, backend_t *be, comm_t *comm, const bench_query_t *b, bench_queried_t *out);

/* ---- single operations --------------------------------------------------------------------------------------------------- */
typedef struct {
    char name[48], shape[48];
    double median_s, flops, bytes; /* of one call */
    double error, limit;           /* against cpu_ref on a smaller problem of the same kind */
} bench_op_t;
typedef status_t (*bench_op_fn)(void *ctx, const bench_op_t *op);
/* Every operation at the shapes of `c` with `rows` rows, one after the other. */
status_t bench_ops(const model_config_t *c, backend_t *be, int64_t rows, int repeats, bench_op_fn each, void *ctx);

/* ---- shared ---------------------------------------------------------------------------------------------------------------- */
/* ||a - b|| / ||b|| over n numbers of the types; NaN when either holds one. */
double bench_distance(dtype_t type_a, const void *a, dtype_t type_b, const void *b, size_t n);
double bench_median(double *s, int n); /* sorts s */
/* What a bf16 (or f32) run may differ from f32, relative. */
double bench_limit(dtype_t act);

#endif
