/* Inside of model_t, for this room only: weights.c fills it, forward.c reads it. */
#ifndef MODEL_IMPL_H
#define MODEL_IMPL_H

#include "model/adapter.h"
#include "model/file_impl.h"

/* A layer's matrices, as they are packed. */
typedef enum { GROUP_QKV, GROUP_O, GROUP_GATE_UP, GROUP_DOWN, GROUP_COUNT } group_t;

typedef struct {
    linear_t *qkv, *o, *gate_up, *down; /* q, k and v rows, then gate and up rows, are one matrix each */
    float *attn_norm, *ffn_norm;        /* [B] [d_model] */
    float *qkv_bias;                    /* [B] [(n_head + 2 n_kv_head) d_head], or NULL */
    float *q_norm, *k_norm;             /* [B] [d_head], or NULL */
    linear_t *gist_qkv;                 /* of gist rows, in place of qkv; NULL: the same */
    struct {
        linear_t *a, *b; /* gist rows add b (a x); NULL: nothing */
    } low[GROUP_COUNT];
} layer_t;

struct model {
    const model_file_t *file;
    const adapter_t *adapter; /* NULL: none */
    int64_t low_rank;         /* rows of the widest low[].a; 0: there is none */
    model_config_t config;
    backend_t *be;
    comm_t *comm;
    char mixed[160]; /* which ranks have unlike backends; empty: all are alike */
    bool shared;     /* the ranks of the node have one copy of the weights together */
    void *memory;    /* [B] all packed weights, from `skip` on */
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
