#include "query/interleave.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "encode/encoder.h"

struct interleave {
    model_t *model;
    comm_t *alone;
    encoder_t *encoder;
    kv_pool_t gists;
    int32_t *tokens; /* [max_token] */
    int64_t n, max_token, n_vocab;
    float *logits; /* where the last row's go */
};

/* Passes come in order, so the last row is the one that stays. */
static status_t take_row(void *ctx, int64_t at, int64_t n, const float *logits) {
    interleave_t *s = ctx;
    if (at + n == s->n) memcpy(s->logits, logits + (n - 1) * s->n_vocab, (size_t)s->n_vocab * sizeof *logits);
    return ST_OK;
}

status_t interleave_create(model_t *m, const interleave_spec_t *spec, int64_t max_token, interleave_t **out) {
    const gist_spec_t *g = &spec->kept->gist;
    backend_t *be = model_backend(m);
    interleave_t *s = NULL;
    *out = NULL;
    status_t st = mem_zalloc(&s, 1, sizeof *s, "a sequence under way");
    if (st) return st;
    *s = (interleave_t){.model = m, .max_token = max_token, .n_vocab = model_config(m)->n_vocab};
    encoder_spec_t e = {.sink = spec->sink,
                        .n_sink = spec->n_sink,
                        .n_blank = spec->kept->n_blank,
                        .align = ALIGN_LEFT,
                        .reserve = max_token,
                        .max_row = i64_max(spec->max_row, g->ratio + 1),
                        .gist = *g,
                        .gist_init = spec->kept->init,
                        .gist_token = spec->kept->token,
                        .evict = true,
                        .rows = take_row,
                        .rows_ctx = s};
    if (!(st = comm_self_create(&s->alone))) st = encoder_create(m, s->alone, &e, &s->encoder);
    if (!st) st = mem_alloc(&s->tokens, (size_t)max_token, sizeof *s->tokens, "tokens of a sequence");
    if (!st) st = kv_alloc(be, model_config(m), be->act, i64_max(1, gist_count(g, max_token)), "K/V of gists", &s->gists);
    if (st)
        interleave_free(s);
    else
        *out = s;
    return st;
}

void interleave_free(interleave_t *s) {
    if (!s) return;
    encoder_free(s->encoder);
    kv_free(model_backend(s->model), &s->gists);
    if (s->alone) s->alone->ops->close(s->alone);
    mem_free(s->tokens);
    mem_free(s);
}

void interleave_begin(interleave_t *s) { s->n = 0; }

status_t interleave_feed(interleave_t *s, const int32_t *tokens, int64_t n, float *logits) {
    int64_t before = s->n;
    if (n > s->max_token - before)
        return status_fail(ST_FAIL, "a sequence of %lld tokens grows to more than the %lld it was made for; please report this",
                           (long long)before, (long long)s->max_token);
    memcpy(s->tokens + before, tokens, (size_t)n * sizeof *tokens);
    s->n += n;
    s->logits = logits;
    piece_t p = {.tokens = s->tokens, .n = s->n, .gist_pool = s->gists, .unwanted = s->n - 1};
    return before ? encoder_more(s->encoder, &p, before) : encoder_run(s->encoder, &p, 1);
}

/* ---- generation ------------------------------------------------------------------------------------------------- */
typedef struct {
    interleave_t *s;
    const generate_spec_t *how;
    const int32_t *end;
    int n_end;
    float *logits, *prob;
    int32_t *order;
} writer_t;

static status_t write_one(writer_t *w, generation_t *g, int64_t number) {
    rng_t rng = {w->how->seed + (uint64_t)g->number};
    double begin = clock_s();
    g->ids = (ids_t){0};
    g->ended = false;
    g->mass = NULL;
    g->entropy = (double)NAN;
    interleave_begin(w->s);
    status_t st = interleave_feed(w->s, g->prompt, g->n_prompt, w->logits);
    for (g->n_forward = 1; !st && g->ids.n < w->how->max_tokens; g->n_forward++) {
        int32_t id = sample_token(w->logits, w->s->n_vocab, w->how->temperature, w->how->top_p, &rng, w->prob, w->order);
        if (!g->ids.n) g->first_token_s = clock_s() - begin;
        if ((g->ended = token_ends(w->end, w->n_end, id))) break;
        st = ids_push(&g->ids, id);
        if (!st && w->how->token) st = w->how->token(w->how->token_ctx, number, id);
        if (!st && g->ids.n < w->how->max_tokens) st = interleave_feed(w->s, &id, 1, w->logits);
    }
    g->total_s = clock_s() - begin;
    return st;
}

static status_t write_all(writer_t *w, generation_t *all, int64_t n, generated_fn done, void *done_ctx) {
    status_t st = mem_alloc(&w->logits, (size_t)w->s->n_vocab, sizeof *w->logits, "logits");
    if (!st) st = mem_alloc(&w->prob, (size_t)w->s->n_vocab, sizeof *w->prob, "probabilities");
    if (!st) st = mem_alloc(&w->order, (size_t)w->s->n_vocab, sizeof *w->order, "probabilities");
    for (int64_t i = 0; i < n && !st; i++) {
        st = write_one(w, &all[i], i);
        if (!st) st = done(done_ctx, &all[i]);
    }
    mem_free(w->logits);
    mem_free(w->prob);
    mem_free(w->order);
    return st;
}

status_t interleave_generate(model_t *m, comm_t *comm, const interleave_spec_t *spec, const generate_spec_t *how, const int32_t *tokens_end,
                             int n_end, generation_t *all, int64_t n, generated_fn done, void *done_ctx) {
    writer_t w = {.how = how, .end = tokens_end, .n_end = n_end};
    int64_t longest = 1;
    status_t st = ST_OK;
    for (int64_t i = 0; i < n; i++) longest = i64_max(longest, all[i].n_prompt + how->max_tokens);
    if (comm->rank == 0) {
        st = interleave_create(m, spec, longest, &w.s);
        if (!st) st = write_all(&w, all, n, done, done_ctx);
        interleave_free(w.s);
    }
    return comm_agree(comm, st);
}
