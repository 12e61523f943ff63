/* Inside of model_file_t, for this room only. */
#ifndef MODEL_FILE_IMPL_H
#define MODEL_FILE_IMPL_H

#include "io/safetensors.h"
#include "model/bind.h"
#include "model/model.h"

struct model_file {
    char *path;
    model_config_t config;
    gguf_t *gguf;           /* one GGUF file (or a split one), or */
    safetensors_t **shards; /* the .safetensors files of a folder */
    int64_t n_shard;
    tokenizer_t *tokenizer;
    char *tokenizer_fault; /* why there is none, where a file was meant to hold one */
    weight_t *weights;     /* [bind_count] */
    bool random;           /* no file: weights are made up (random.c) */
    tensor_t *made;        /* shapes of the weights that there are then */
    char *names;
};

static inline const weight_t *file_weight(const model_file_t *f, weight_id_t id, int64_t layer) {
    return &f->weights[bind_index(id, layer)];
}

#endif
