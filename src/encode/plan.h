/* What an encoding will take, before it runs: bytes per rank, in the store and on the wire, and the balance of the work. Arithmetic alone.
 */
#ifndef ENCODE_PLAN_H
#define ENCODE_PLAN_H

#include "encode/encode.h"

typedef struct {
    int n_rank, ranks_per_node;
    int64_t n_document, n_token, n_segment, longest_document, segment, n_sink;
    layout_method_t layout;
    kept_t kept;
    /* counted by encode_plan_document */
    int64_t n_row;        /* K/V rows that are stored */
    int64_t n_summary;    /* of them gists, or selected rows: what is gathered, or chooses segments */
    int64_t n_picked;     /* rows that a list says were selected */
    double n_seen;        /* rows of other segments that segments see while they are encoded, each counted for each that sees it */
    int64_t longest_rows; /* stored rows of the longest document */
    dtype_t act, kv_type;
    int64_t max_row;
    size_t packed_bytes; /* weights of a node, as model_file_packed_bytes says */
    size_t file_bytes;   /* of the weights in the model's file */
    size_t device_bytes; /* free on the GPU before the weights are there; 0: no GPU */
} encode_plan_in_t;

typedef struct {
    size_t weights_node, weights_rank;   /* shared by the ranks of a node; a rank's share of it */
    size_t workspace, kv_buffers, round; /* of one rank */
    size_t rank_total;                   /* peak of rank 0, its share of the weights and the program included */
    size_t mapped;                       /* of the model's file, by each rank, while weights are packed: the system takes it back at need */
    size_t resident;  /* what top and getrusage then show of a rank: all of the weights it shares, the file and its own */
    bool shared;      /* the longest document is more than a rank's share, so that all ranks encode it together */
    size_t kv_layers; /* two layers of K/V on the GPU (and rows under way of a shared document), where all of them stay in host memory; 0:
                         they fit, or there is no GPU */
    double kv_room;   /* for K/V on the GPU */
    size_t store;     /* K/V, token ids and lists of kept rows on disk, all ranks */
    size_t kv_raw, kv_kept, kv_summary; /* K/V of all raw rows, as types are stored; of the stored rows; of gists or selected rows alone */
    double kv_seen;                     /* K/V that segments see of others, were each on a rank of its own: moved while encoding */
    size_t wire;                        /* received by all ranks together while encoding: rounds and the sink */
    size_t shared_wire, shared_ring;    /* K/V between ranks when all share the longest document, and by ring attention; 0: they cannot */
    double flops;                       /* of the whole encoding */
} encode_plan_t;

enum { PROGRAM_BYTES = 12 << 20 }; /* code, libraries and the tokenizer, as measured: tests/bench/plan_memory.sh */

/* Adds a document of n tokens. */
void encode_plan_document(encode_plan_in_t *in, int64_t n);
void encode_plan(const model_config_t *c, const encode_plan_in_t *in, encode_plan_t *out);

#endif
