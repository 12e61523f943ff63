/* What an encoding will take, before it runs: bytes per rank, in the store and on the wire, and the balance of the work. Arithmetic alone.
 */
#ifndef ENCODE_PLAN_H
#define ENCODE_PLAN_H

#include "encode/encode.h"

typedef struct {
    int n_rank, ranks_per_node;
    int64_t n_document, n_token, n_segment, longest_document, segment, n_sink;
    bool chained;
    dtype_t act, kv_type;
    int64_t max_row;
    size_t packed_bytes; /* weights of a node, as model_file_packed_bytes says */
} encode_plan_in_t;

typedef struct {
    size_t weights_node, weights_rank;   /* shared by the ranks of a node; a rank's share of it */
    size_t workspace, kv_buffers, round; /* of one rank */
    size_t rank_total;                   /* peak of rank 0, its share of the weights included */
    size_t store;                        /* K/V and token ids on disk, all ranks */
    size_t wire;                         /* received by all ranks together while encoding: rounds and the sink */
    size_t query_wire_row;               /* partial results that each rank receives for one query row, all layers */
    double flops;                        /* of the whole encoding */
} encode_plan_t;

void encode_plan(const model_config_t *c, const encode_plan_in_t *in, encode_plan_t *out);

#endif
