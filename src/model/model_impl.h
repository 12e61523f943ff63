/* Inside of model_t, for this room only: weights.c fills it, forward.c reads it. */
#ifndef MODEL_IMPL_H
#define MODEL_IMPL_H

#include "model/file_impl.h"

typedef struct {
    linear_t *qkv, *o, *gate_up, *down; /* q, k and v rows, then gate and up rows, are one matrix each */
    float *attn_norm, *ffn_norm;        /* [B] [d_model] */
    float *qkv_bias;                    /* [B] [(n_head + 2 n_kv_head) d_head], or NULL */
    float *q_norm, *k_norm;             /* [B] [d_head], or NULL */
} layer_t;

struct model {
    const model_file_t *file;
    model_config_t config;
    backend_t *be;
    comm_t *comm;
    void *memory; /* [B] all packed weights, from `skip` on */
    size_t skip;
    size_t bytes;
    layer_t *layers;
    void *embed;      /* [B] [n_vocab][d_model] of type be->act */
    linear_t *head;   /* the output rows */
    float *out_norm;  /* [B] [d_model] */
    double *inv_freq; /* host [d_rot / 2] */
    double load_s;
};

#endif
