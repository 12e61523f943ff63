/* What a query sees besides itself: the sink and P segments, each a pool of K/V rows, dealt over the ranks in contiguous ranges.
 *
 * Partial results are merged in two fixed levels: inside a group of consecutive segments, then group after group. The groups depend on P
 * alone, and a rank owns whole groups, so the answer has the same bits on any number of ranks while at most MAX_GROUPS partial results
 * cross the wire per layer.
 */
#ifndef QUERY_CONTEXT_H
#define QUERY_CONTEXT_H

#include "base/mem.h"
#include "comm/comm.h"
#include "encode/kept.h"
#include "layout/window.h"
#include "model/kv.h"
#include "store/store.h"

enum { MAX_GROUPS = 64 };

typedef struct {
    int64_t n_segment;      /* P, over all ranks */
    int64_t *rows;          /* [P] K/V rows of each */
    int64_t group, n_group; /* segments per group; groups */
    int64_t *first_group;   /* [size+1] rank r owns groups first_group[r] .. first_group[r+1]-1 */
    int64_t first, n_local; /* this rank's segments */
    kv_pool_t *pools;       /* [n_local] backend memory, or mapped files on a CPU */
    int32_t **counts;       /* [n_local] of packed pools (encode/pick.h): rows [n_layer][n_kv_head] of each head; NULL: ordinary pools */
    kv_pool_t *raw;         /* [n_local] raw rows of the same segments, for two-level answers; NULL: none */
    kv_pool_t *whole;       /* [n_local] what the pools are parts of, when owned */
    kv_pool_t *packed;      /* [n_local] pools that were packed here, owned; NULL: none */
    kv_pool_t sink;         /* borrowed; n_row = 0 when there is none */
    kv_pool_t zero;         /* entry 0 of a pool of edits (edits.h), owned; n_row = 0 when there is none */
    int64_t query_position; /* where query rows start: n_sink + M */
    place_t *places;        /* [n_local] where the rows of the pools stand, for models with a sliding window; NULL: a query sees all rows */
    bool owns_pools;        /* pools are copies to be freed */
    int64_t n_device;       /* copies from this one on lie in host memory, by plan: device memory is too small for all */
    backend_t *be;
} context_kv_t;

/* Deals segments of the given rows over the ranks; pools are left for the caller to fill. */
status_t context_deal(backend_t *be, comm_t *comm, const int64_t *rows, int64_t n_segment, context_kv_t *out);
void context_free(context_kv_t *c);
/* Sets n_device from what device memory is left, and says so when not all fit. Before any pool is made. */
void context_plan_memory(context_kv_t *c, const model_config_t *config);
/* Memory for local segment i, on the device or the host as planned. */
status_t context_alloc(context_kv_t *c, const model_config_t *config, int64_t i, kv_pool_t *out);
/* all: [n_segment] where the rows of each segment's pool stand. */
status_t context_places(context_kv_t *c, const place_t *all);

/* Every byte of these segments against its checksum, by all threads. */
status_t context_verify(store_t *store, const store_segment_t *const *segments, int64_t n);

/* From a store: segments in the order given. Each rank verifies (when `verify`), maps and, where the backend needs it, copies its own.
 * `kept` says which rows a segment has; its gists or selected rows become the pools, or its raw rows when it has no gists or `raw_only`;
 * with `both` the raw rows come as `raw` too. Collective. */
typedef struct {
    kept_t kept;
    bool verify, raw_only, both;
    model_t *joined; /* its keys move to positions one segment after another; NULL: they stay where they were encoded */
} context_read_t;
status_t context_from_store(backend_t *be, const model_config_t *config, comm_t *comm, store_t *store,
                            const store_segment_t *const *segments, int64_t n, const context_read_t *how, context_kv_t *out);

static inline int64_t context_group_begin(const context_kv_t *c, int64_t g) { return g * c->group; }
static inline int64_t context_group_end(const context_kv_t *c, int64_t g) { return i64_min((g + 1) * c->group, c->n_segment); }

#endif
