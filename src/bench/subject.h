/* What is measured: a model of a known shape with random weights, and token ids at random. */
#ifndef BENCH_SUBJECT_H
#define BENCH_SUBJECT_H

#include "comm/comm.h"
#include "model/model.h"

typedef struct {
    model_file_t *file;
    model_t *model;
    int32_t *tokens, *sink; /* [n_token], [n_sink]; the same on every rank */
} subject_t;

/* Collective. On failure too, subject_close. */
status_t subject_open(const model_config_t *c, backend_t *be, comm_t *comm, int64_t n_token, int64_t n_sink, subject_t *s);
void subject_close(subject_t *s);

#endif
