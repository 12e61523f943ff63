#include "bench/subject.h"

#include "base/mem.h"
#include "base/rng.h"

static status_t ids_random(const model_config_t *c, rng_t *rng, int64_t n, int32_t **out) {
    status_t st = mem_alloc(out, (size_t)n, sizeof **out, "token ids");
    for (int64_t i = 0; i < n && !st; i++) (*out)[i] = (int32_t)rng_below(rng, c->n_vocab);
    return st;
}

status_t subject_open(const model_config_t *c, backend_t *be, comm_t *comm, int64_t n_token, int64_t n_sink, subject_t *s) {
    rng_t rng = {1};
    *s = (subject_t){0};
    status_t st = model_file_random(c, &s->file);
    if (!st) st = ids_random(c, &rng, n_token, &s->tokens);
    if (!st) st = ids_random(c, &rng, n_sink, &s->sink);
    if ((st = comm_agree(comm, st))) return st;
    return model_load(s->file, be, comm, &s->model);
}

void subject_close(subject_t *s) {
    model_free(s->model);
    model_file_close(s->file);
    mem_free(s->tokens);
    mem_free(s->sink);
}
