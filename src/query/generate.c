/* Slots: each active prompt has one, with K/V rows of its own. A free slot takes the next prompt and runs it through; then all active slots
 * decode one token per pass. */
#include "query/generate.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

typedef struct {
    generation_t *g; /* NULL: free */
    kv_pool_t own;
    int64_t n_own; /* rows in own so far */
    int32_t next;  /* token to feed */
    rng_t rng;
    double begin_s;
} slot_t;

typedef struct {
    model_t *model;
    backend_t *be;
    comm_t *comm;
    const model_config_t *config;
    const context_kv_t *ctx;
    const generate_spec_t *spec;
    const int32_t *end;
    int n_end;
    const generation_t *all;
    attend_t *attend;
    forward_ws_t *ws;
    slot_t *slots;
    int n_slot;
    attend_query_t *queries; /* [n_slot] */
    int *who;                /* [n_slot] slot of each query of a pass */
    int32_t *tokens;         /* [max_row] */
    double *positions;
    int64_t *out_rows; /* [n_slot] */
    float *logits;     /* [n_slot][n_vocab] */
    float *prob;
    int32_t *order;
} generator_t;

/* What a pass gave to one generation. */
static void account(slot_t *s, const attend_query_t *q) {
    generation_t *g = s->g;
    g->entropy += q->entropy;
    g->edits += q->edits * (double)q->n;
    g->n_forward++;
    s->n_own += q->n;
}

/* The next token from a row of logits. Ranks with unlike backends may differ where two tokens are nearly as likely: rank 0's is everyone's.
 */
static status_t choose_token(generator_t *r, slot_t *s, const float *logits, int32_t *id) {
    *id = sample_token(logits, r->config->n_vocab, r->spec->temperature, r->spec->top_p, &s->rng, r->prob, r->order);
    if (!isfinite(logits[*id]) && !model_mixed(r->model))
        return status_fail(ST_INPUT,
                           "the model's logits are no numbers (NaN or infinite): its weights are damaged, or what was stored with them; "
                           "get the model again and encode into another --store");
    return model_mixed(r->model) ? r->comm->ops->bcast(r->comm, 0, id, sizeof *id) : ST_OK;
}

/* Takes it; more is false when the generation has ended. */
static status_t take_token(generator_t *r, slot_t *s, const float *logits, bool *more) {
    generation_t *g = s->g;
    int32_t id;
    status_t st = choose_token(r, s, logits, &id);
    if (st) return st;
    if (g->ids.n == 0) g->first_token_s = clock_s() - s->begin_s;
    g->ended = token_ends(r->end, r->n_end, id);
    st = g->ended ? ST_OK : ids_push(&g->ids, id);
    if (!st && !g->ended && r->spec->token) st = r->spec->token(r->spec->token_ctx, g - r->all, id);
    s->next = id;
    *more = !g->ended && g->ids.n < r->spec->max_tokens;
    return st;
}

static status_t slot_begin(generator_t *r, slot_t *s, generation_t *g) {
    int64_t rows = g->n_prompt + r->spec->max_tokens;
    s->g = g;
    s->n_own = 0;
    s->rng = (rng_t){r->spec->seed + (uint64_t)g->number};
    s->begin_s = clock_s();
    g->ids = (ids_t){0};
    g->ended = false;
    g->entropy = g->edits = 0;
    g->n_forward = 0;
    g->mass = NULL;
    if (s->own.n_row < rows) { /* grows to the longest prompt and stays */
        kv_free(r->be, &s->own);
        status_t st = kv_alloc(r->be, r->config, r->be->act, rows, "the query's K/V", &s->own);
        if (st) return st;
    }
    return r->spec->attend.want_mass ? mem_zalloc(&g->mass, (size_t)i64_max(1, r->ctx->n_local), sizeof(double), "evidence") : ST_OK;
}

static status_t slot_end(generator_t *r, slot_t *s, generated_fn done, void *done_ctx) {
    generation_t *g = s->g;
    double weight = (double)r->config->n_layer * (double)r->config->n_head * (double)s->n_own;
    for (int64_t i = 0; g->mass && i < r->ctx->n_local; i++) g->mass[i] /= weight;
    g->entropy /= (double)i64_max(1, g->n_forward);
    g->edits /= (double)i64_max(1, s->n_own);
    g->total_s = clock_s() - s->begin_s;
    s->g = NULL;
    return done(done_ctx, g);
}

/* The prompt through the model, in chunks of max_row; the last chunk gives the first token. */
static status_t slot_prefill(generator_t *r, slot_t *s, bool *more) {
    generation_t *g = s->g;
    status_t st = ST_OK;
    for (int64_t at = 0; at < g->n_prompt && !st;) {
        int64_t n = i64_min(g->n_prompt - at, r->spec->max_row), last = n - 1;
        bool want = at + n == g->n_prompt && r->spec->max_tokens > 0;
        for (int64_t i = 0; i < n; i++) {
            r->tokens[i] = g->prompt[at + i];
            r->positions[i] = (double)(r->ctx->query_position + at + i);
        }
        attend_query_t q = {.n = n, .own = s->own, .index = at, .mass = g->mass};
        st = attend_forward(r->attend, r->ws, &q, 1, r->tokens, r->positions, want, &last, r->logits);
        account(s, &q);
        at += n;
    }
    *more = false;
    return st || r->spec->max_tokens == 0 ? st : take_token(r, s, r->logits, more);
}

/* One token for every active slot. */
static status_t decode_step(generator_t *r, int *n_query) {
    int n = 0;
    for (int i = 0; i < r->n_slot; i++) {
        slot_t *s = &r->slots[i];
        if (!s->g) continue;
        r->tokens[n] = s->next;
        r->positions[n] = (double)(r->ctx->query_position + s->n_own);
        r->queries[n] = (attend_query_t){.n = 1, .own = s->own, .index = s->n_own, .mass = s->g->mass};
        r->out_rows[n] = n;
        r->who[n++] = i;
    }
    *n_query = n;
    return n ? attend_forward(r->attend, r->ws, r->queries, n, r->tokens, r->positions, n, r->out_rows, r->logits) : ST_OK;
}

static status_t generator_loop(generator_t *r, generation_t *all, int64_t n, generated_fn done, void *done_ctx) {
    int64_t started = 0;
    status_t st = ST_OK;
    for (;;) {
        for (int i = 0; i < r->n_slot && started < n; i++) {
            slot_t *s = &r->slots[i];
            bool more = true;
            while (!s->g && started < n) { /* a prompt may end with its first token */
                st = slot_begin(r, s, &all[started++]);
                if (!st) st = slot_prefill(r, s, &more);
                if (!st && !more) st = slot_end(r, s, done, done_ctx);
                if (st) return st;
            }
        }
        int n_query;
        if ((st = decode_step(r, &n_query))) return st;
        if (!n_query) return ST_OK;
        for (int q = 0; q < n_query; q++) {
            slot_t *s = &r->slots[r->who[q]];
            bool more;
            account(s, &r->queries[q]);
            st = take_token(r, s, r->logits + q * r->config->n_vocab, &more);
            if (!st && !more) st = slot_end(r, s, done, done_ctx);
            if (st) return st;
        }
    }
}

static status_t generator_setup(generator_t *r) {
    size_t rows = (size_t)r->spec->max_row, slots = (size_t)r->n_slot, vocab = (size_t)r->config->n_vocab;
    status_t st = mem_zalloc(&r->slots, slots, sizeof *r->slots, "slots");
    if (!st) st = mem_alloc(&r->queries, slots, sizeof *r->queries, "slots");
    if (!st) st = mem_alloc(&r->who, slots, sizeof *r->who, "slots");
    if (!st) st = mem_alloc(&r->out_rows, slots, sizeof *r->out_rows, "slots");
    if (!st) st = mem_alloc(&r->tokens, rows, sizeof *r->tokens, "tokens of a pass");
    if (!st) st = mem_alloc(&r->positions, rows, sizeof *r->positions, "positions of a pass");
    if (!st) st = mem_alloc(&r->logits, slots * vocab, sizeof *r->logits, "logits");
    if (!st) st = mem_alloc(&r->prob, vocab, sizeof *r->prob, "probabilities");
    if (!st) st = mem_alloc(&r->order, vocab, sizeof *r->order, "probabilities");
    return st ? st : forward_ws_create(r->model, r->spec->max_row, &r->ws);
}

static void generator_teardown(generator_t *r) {
    for (int i = 0; r->slots && i < r->n_slot; i++) kv_free(r->be, &r->slots[i].own);
    attend_free(r->attend);
    forward_ws_free(r->ws);
    mem_free(r->slots);
    mem_free(r->queries);
    mem_free(r->who);
    mem_free(r->out_rows);
    mem_free(r->tokens);
    mem_free(r->positions);
    mem_free(r->logits);
    mem_free(r->prob);
    mem_free(r->order);
}

status_t generate(model_t *m, comm_t *comm, const context_kv_t *ctx, const generate_spec_t *spec, const int32_t *tokens_end, int n_end,
                  generation_t *all, int64_t n, generated_fn done, void *done_ctx) {
    generator_t r = {.model = m,
                     .be = model_backend(m),
                     .comm = comm,
                     .config = model_config(m),
                     .ctx = ctx,
                     .spec = spec,
                     .end = tokens_end,
                     .n_end = n_end,
                     .all = all};
    r.n_slot = (int)i64_max(1, i64_min(i64_min(spec->batch, n), spec->max_row));
    status_t st = comm_agree(comm, generator_setup(&r));
    if (!st) st = attend_create(m, comm, ctx, &spec->attend, spec->max_row, r.n_slot, &r.attend);
    if (!st) st = generator_loop(&r, all, n, done, done_ctx);
    if (st && r.attend && comm->size > 1) { /* the others are inside the steady loop and would wait for ever */
        log_error("%s", status_message());
        comm->ops->abort(comm, st);
    }
    generator_teardown(&r);
    return st;
}
