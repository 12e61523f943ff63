#include "eval/ppl.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/progress.h"
#include "encode/encoder.h"
#include "encode/move.h"
#include "encode/picker.h"
#include "encode/sequence.h"

/* What a window adds, as numbers one after another, so that it travels as they are: SUM_.., then by_head. */
enum {
    SUM_NLL,
    SUM_ENTROPY,
    SUM_KL,
    SUM_SAME,
    SUM_NLL_FULL,
    SUM_CONTEXT,
    SUM_CONTEXT_N = SUM_CONTEXT + PPL_BINS,
    SUM_SCORED = SUM_CONTEXT_N + PPL_BINS,
    SUM_SCORED_N = SUM_SCORED + PPL_BINS,
    SUM_HEADS = SUM_SCORED_N + PPL_BINS
};

/* What one number of pieces needs, made once. */
typedef struct {
    model_t *model;
    const model_config_t *config;
    backend_t *be;
    comm_t *alone;
    const ppl_spec_t *spec;
    encoder_t *encoder;
    context_kv_t ctx;
    attend_t *attend;
    kv_pool_t own;
    piece_t *pieces; /* the pieces that are not empty */
    int n_piece;
    kv_pool_t *spare; /* [n_piece] rows that are computed but not kept */
    kv_pool_t *chain; /* [n_piece] what later pieces see of earlier ones, where they do */
    picker_t *picker; /* blockselect */
    int32_t *tokens;
    double *positions;
    int64_t *out_rows;
    float *logits;     /* [max_row][n_vocab] */
    float *full;       /* [score][n_vocab] of the scored rows under full attention; NULL: not wanted */
    agree_sum_t *rows; /* [score] what each scored row adds */
    double probes_s;   /* spent on full attention and the context's loss */
    double *loss;      /* [window] by_position: of context rows, in the order of the text */
} ppl_job_t;

static double log_softmax_at(const float *logits, int64_t n, int32_t id) {
    float max = logits[0];
    double sum = 0;
    for (int64_t i = 1; i < n; i++) max = fmaxf(max, logits[i]);
    for (int64_t i = 0; i < n; i++) sum += exp((double)logits[i] - (double)max);
    return (double)logits[id] - (double)max - log(sum);
}

/* ---- scored rows ---- */
/* Logits of scored rows at .. at+n-1: each row's loss, and how it agrees with full attention. */
static void rows_score(ppl_job_t *j, const int32_t *window, int64_t at, int64_t n, const float *logits) {
    int64_t first = j->spec->window - j->spec->score - 1, v = j->config->n_vocab;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const float *y = logits + i * v;
        int32_t next = window[first + at + i + 1];
        j->rows[at + i] =
            j->full ? agree_row(j->full + (at + i) * v, y, v, next) : (agree_sum_t){.n = 1, .nll = -log_softmax_at(y, v, next)};
    }
}

/* In the order of the text, so that sums do not depend on passes. */
static void rows_sum(const ppl_job_t *j, double *out) {
    for (int64_t i = 0; i < j->spec->score; i++) {
        const agree_sum_t *r = &j->rows[i];
        int64_t bin = i * PPL_BINS / j->spec->score;
        out[SUM_NLL] += r->nll;
        out[SUM_KL] += r->kl;
        out[SUM_SAME] += r->same;
        out[SUM_NLL_FULL] += r->nll_full;
        out[SUM_SCORED + bin] += r->nll;
        out[SUM_SCORED_N + bin] += 1;
    }
}

static status_t query_pass(ppl_job_t *j, const int32_t *window, double *out) {
    const ppl_spec_t *s = j->spec;
    int64_t n_query = s->score + 1, first = s->window - n_query;
    for (int64_t at = 0; at < n_query;) {
        int64_t n = i64_min(n_query - at, s->max_row),
                scored = i64_min(n, s->score - at); /* the last row predicts what is outside the window */
        for (int64_t i = 0; i < n; i++) {
            j->tokens[i] = window[first + at + i];
            j->positions[i] = (double)(j->ctx.query_position + at + i);
            j->out_rows[i] = i;
        }
        attend_query_t q = {.n = n, .own = j->own, .index = at, .by_head = s->by_head ? out + SUM_HEADS : NULL};
        status_t st =
            attend_forward(j->attend, encoder_workspace(j->encoder), &q, 1, j->tokens, j->positions, scored, j->out_rows, j->logits);
        if (!st && s->rows) st = s->rows(s->rows_ctx, at, scored, j->logits);
        if (st) return st;
        rows_score(j, window, at, scored, j->logits);
        out[SUM_ENTROPY] += q.entropy * (double)n / (double)n_query;
        at += n;
    }
    return ST_OK;
}

/* ---- the window as one sequence: full attention, the context's own loss, streaming ---- */
typedef struct {
    ppl_job_t *job;
    const int32_t *window;
} stream_t;

/* Of rows at .. at+n-1 of the window those that are scored. */
static int64_t scored_part(const ppl_spec_t *s, int64_t *at, int64_t n) {
    int64_t first = s->window - s->score - 1, from = i64_max(*at, first), upto = i64_min(*at + n, first + s->score);
    *at = from;
    return upto - from;
}

static status_t full_rows(void *ctx, int64_t at, int64_t n, const float *logits) {
    stream_t *s = ctx;
    int64_t from = at, v = s->job->config->n_vocab, part = scored_part(s->job->spec, &from, n);
    if (part > 0)
        memcpy(s->job->full + (from - (s->job->spec->window - s->job->spec->score - 1)) * v, logits + (from - at) * v,
               (size_t)(part * v) * sizeof *logits);
    return ST_OK;
}

static status_t full_run(ppl_job_t *j, const int32_t *window) {
    stream_t s = {j, window};
    sequence_spec_t full = {.layout = LAYOUT_FULL,
                            .kept = {.gist = {.window = -1}},
                            .segment = j->spec->window,
                            .max_row = j->spec->max_row};
    return sequence_logits(j->model, j->alone, &full, window, j->spec->window - 1, full_rows, &s);
}

static status_t context_rows(void *ctx, int64_t at, int64_t n, const float *logits) {
    stream_t *s = ctx;
    int64_t v = s->job->config->n_vocab;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) s->job->loss[at + i] = -log_softmax_at(logits + i * v, v, s->window[at + i + 1]);
    return ST_OK;
}

/* The boundary probe: rows of the context predict their next token out of what their layout shows them. */
static status_t context_run(ppl_job_t *j, const int32_t *window, double *out) {
    const ppl_spec_t *s = j->spec;
    stream_t ctx = {j, window};
    const layout_info_t *info = layout_info(s->layout);
    int64_t n = s->window - s->score - 1, segment = info->whole || !j->n_piece ? n : j->pieces[0].n;
    sequence_spec_t q = {.layout = s->layout,
                         .kept = s->kept,
                         .sink = s->sink,
                         .n_sink = s->n_sink,
                         .align = s->align,
                         .segment = segment,
                         .max_row = s->max_row};
    status_t st = sequence_logits(j->model, j->alone, &q, window, n, context_rows, &ctx);
    for (int64_t i = 0; i < n && !st; i++) {
        int64_t bin = i % segment * PPL_BINS / segment;
        out[SUM_CONTEXT + bin] += j->loss[i];
        out[SUM_CONTEXT_N + bin] += 1;
    }
    return st;
}

/* Streaming has no context and query: the window is one stream, and its last rows are scored. */
static status_t stream_rows(void *ctx, int64_t at, int64_t n, const float *logits) {
    stream_t *s = ctx;
    const ppl_spec_t *spec = s->job->spec;
    int64_t from = at, part = scored_part(spec, &from, n), first = spec->window - spec->score - 1;
    if (part <= 0) return ST_OK;
    logits += (from - at) * s->job->config->n_vocab;
    rows_score(s->job, s->window, from - first, part, logits);
    return spec->rows ? spec->rows(spec->rows_ctx, from - first, part, logits) : ST_OK;
}

static status_t stream_run(ppl_job_t *j, const int32_t *window, double *out) {
    const ppl_spec_t *s = j->spec;
    stream_t stream = {j, window};
    sequence_spec_t sequence = {.layout = s->layout, .kept = s->kept, .segment = s->window, .max_row = s->max_row};
    out[SUM_ENTROPY] = (double)NAN;
    return sequence_logits(j->model, j->alone, &sequence, window, s->window, stream_rows, &stream);
}

static status_t pieces_run(ppl_job_t *j, const int32_t *window) {
    const kept_t *kept = &j->spec->kept;
    int64_t at = 0;
    status_t st = ST_OK;
    for (int p = 0; p < j->n_piece; p++) {
        j->pieces[p].tokens = window + at;
        at += j->pieces[p].n;
    }
    if (!j->chain) st = encoder_run(j->encoder, j->pieces, j->n_piece);
    for (int p = 0; p < j->n_piece && !st && j->chain; p++) {
        st = encoder_run(j->encoder, &j->pieces[p], 1);
        if (!st) st = kept_remember(kept, j->encoder, j->model, &j->pieces[p]);
    }
    for (int p = 0; p < j->n_piece && !st && layout_info(j->spec->layout)->joined; p++)
        st = keys_move_all(j->model, &j->ctx.pools[p], j->pieces[p].before);
    for (int p = 0; p < j->n_piece && !st && j->picker; p++)
        st = picker_run(j->picker, &j->pieces[p], &j->ctx.pools[p], j->ctx.counts[p], NULL);
    return st;
}

static status_t window_run(ppl_job_t *j, const int32_t *window, double *out) {
    bool streams = layout_info(j->spec->layout)->streams;
    double begin_s = clock_s();
    status_t st = j->full ? full_run(j, window) : ST_OK;
    if (!st && j->spec->by_position) st = context_run(j, window, out);
    j->probes_s += clock_s() - begin_s;
    if (!st && streams) st = stream_run(j, window, out);
    if (!st && !streams) st = pieces_run(j, window);
    if (!st && !streams) st = query_pass(j, window, out);
    if (!st) rows_sum(j, out);
    return st;
}

/* Pools of piece p: what the query sees of it, and room for rows that it does not. */
static status_t piece_pools(ppl_job_t *j, int p) {
    const ppl_spec_t *s = j->spec;
    const kept_t *k = &s->kept;
    piece_t *piece = &j->pieces[p];
    kv_pool_t *pool = &j->ctx.pools[p];
    int64_t n = piece->n, gists = kept_gists(k, n), raw = kept_raw(k, n);
    bool selects = layout_info(s->layout)->selects;
    status_t st = kv_alloc(j->be, j->config, j->be->act, selects ? pick_rows(k->select.ratio, n) : gists + raw, "K/V of a piece", pool);
    int64_t spare = selects || k->keep == KEEP_GIST ? n : k->keep == KEEP_RAW ? gist_count(&k->gist, n) : 0;
    if (!st && spare) st = kv_alloc(j->be, j->config, j->be->act, spare, "K/V that is not kept", &j->spare[p]);
    if (st) return st;
    piece->pool = spare == n ? j->spare[p] : kept_part(pool, gists, raw);
    if (k->gist.ratio) piece->gist_pool = k->keep == KEEP_RAW ? j->spare[p] : kept_part(pool, 0, gists);
    if (j->chain) j->chain[p] = k->gist.ratio ? piece->gist_pool : piece->pool;
    if (j->chain) piece->chain = j->chain, piece->n_chain = (int)layout_continues(layout_info(s->layout), p);
    return selects ? mem_alloc(&j->ctx.counts[p], (size_t)(j->config->n_layer * j->config->n_kv_head), sizeof(int32_t), "kept rows")
                   : ST_OK;
}

static status_t picker_setup(ppl_job_t *j, int64_t longest, int64_t reserve) {
    const ppl_spec_t *s = j->spec;
    picker_spec_t spec = {.kept = &s->kept,
                          .repeat = s->repeat,
                          .n_repeat = s->n_repeat,
                          .align = s->align,
                          .reserve = reserve,
                          .max_row = s->max_row,
                          .max_tokens = longest};
    status_t st = picker_create(j->model, j->encoder, &spec, &j->picker);
    return st ? st : mem_zalloc(&j->ctx.counts, (size_t)j->n_piece, sizeof *j->ctx.counts, "kept rows");
}

static encoder_spec_t encoder_spec(const ppl_job_t *j, int64_t reserve) {
    const ppl_spec_t *s = j->spec;
    const layout_info_t *info = layout_info(s->layout);
    return (encoder_spec_t){.sink = s->sink,
                            .n_sink = s->n_sink,
                            .n_blank = s->kept.n_blank,
                            .align = info->chained ? ALIGN_SEQUENTIAL
                                     : info->whole ? ALIGN_LEFT
                                                   : s->align,
                            .reserve = reserve,
                            .max_row = s->max_row,
                            .gist = s->kept.gist,
                            .gist_init = s->kept.init,
                            .gist_token = s->kept.token,
                            .recurrent = s->kept.recurrent,
                            .compact = s->kept.compact,
                            .evict = s->kept.keep == KEEP_TAIL,
                            .by_rule = s->attend.by_rule};
}

/* Where the query's positions start, counted from the sink's end. */
static int64_t context_positions(const ppl_job_t *j, int64_t reserve) {
    const ppl_spec_t *s = j->spec;
    int64_t total = 0, gists = 0;
    for (int p = 0; p < j->n_piece; p++) {
        total += j->pieces[p].n;
        gists += gist_count(&s->kept.gist, j->pieces[p].n);
    }
    if (s->kept.compact) return gists;
    return s->align == ALIGN_SEQUENTIAL || layout_info(s->layout)->chained || layout_info(s->layout)->joined ? total : reserve;
}

static status_t job_setup(ppl_job_t *j, int64_t pieces) {
    const ppl_spec_t *s = j->spec;
    int64_t n_context = s->window - s->score - 1, *rows = NULL;
    size_t max = (size_t)s->max_row;
    if (layout_info(s->layout)->whole) pieces = 1;
    status_t st = mem_alloc(&rows, (size_t)pieces, sizeof *rows, "piece sizes");
    if (!st) st = mem_zalloc(&j->pieces, (size_t)pieces, sizeof *j->pieces, "pieces");
    if (!st) st = mem_zalloc(&j->spare, (size_t)pieces, sizeof *j->spare, "pieces");
    if (!st && layout_info(s->layout)->chained) st = mem_zalloc(&j->chain, (size_t)pieces, sizeof *j->chain, "pieces");
    for (int64_t p = 0; !st && p < pieces; p++) {
        int64_t begin, end;
        split_even(n_context, pieces, p, &begin, &end);
        if (end == begin) break;
        rows[j->n_piece] = end - begin;
        j->pieces[j->n_piece++] = (piece_t){.n = end - begin, .before = begin};
    }
    int64_t reserve = layout_reserve(s->reserve, rows, j->n_piece);
    encoder_spec_t e = encoder_spec(j, reserve);
    place_t *places = NULL;
    if (!st) st = encoder_create(j->model, j->alone, &e, &j->encoder);
    if (!st) st = context_deal(j->be, j->alone, rows, j->n_piece, &j->ctx);
    if (!st) {
        j->ctx.owns_pools = true;
        j->ctx.sink = *encoder_sink(j->encoder);
        j->ctx.query_position = s->n_sink + s->kept.n_blank + context_positions(j, reserve);
    }
    if (!st && layout_windows(s->layout)) {
        st = mem_alloc(&places, (size_t)i64_max(1, j->n_piece), sizeof *places, "places of pieces");
        for (int p = 0; !st && p < j->n_piece; p++)
            places[p] = (place_t){e.align, s->n_sink + s->kept.n_blank, j->pieces[p].n, reserve, j->pieces[p].before};
        if (!st) st = context_places(&j->ctx, places);
        mem_free(places);
    }
    if (!st && layout_info(s->layout)->selects) st = picker_setup(j, rows[0], reserve);
    mem_free(rows);
    for (int p = 0; !st && p < j->n_piece; p++) st = piece_pools(j, p);
    if (!st) st = kv_alloc(j->be, j->config, j->be->act, s->score + 1, "K/V of the query", &j->own);
    if (!st) st = attend_create(j->model, j->alone, &j->ctx, &s->attend, s->max_row, 1, &j->attend);
    if (!st) st = mem_alloc(&j->tokens, max, sizeof *j->tokens, "tokens of a pass");
    if (!st) st = mem_alloc(&j->positions, max, sizeof *j->positions, "positions of a pass");
    if (!st) st = mem_alloc(&j->out_rows, max, sizeof *j->out_rows, "rows of a pass");
    if (!st) st = mem_alloc(&j->logits, max * (size_t)j->config->n_vocab, sizeof *j->logits, "logits");
    return st;
}

static void job_teardown(ppl_job_t *j) {
    attend_free(j->attend);
    picker_free(j->picker);
    context_free(&j->ctx);
    for (int p = 0; j->spare && p < j->n_piece; p++) kv_free(j->be, &j->spare[p]);
    mem_free(j->spare);
    mem_free(j->chain);
    encoder_free(j->encoder);
    kv_free(j->be, &j->own);
    mem_free(j->pieces);
    mem_free(j->tokens);
    mem_free(j->positions);
    mem_free(j->out_rows);
    mem_free(j->logits);
    mem_free(j->full);
    mem_free(j->rows);
    mem_free(j->loss);
    if (j->alone) j->alone->ops->close(j->alone);
}

/* What scoring takes, under any layout. */
static status_t rows_setup(ppl_job_t *j) {
    const ppl_spec_t *s = j->spec;
    status_t st = mem_zalloc(&j->rows, (size_t)s->score, sizeof *j->rows, "scored rows");
    if (!st && s->by_position) st = mem_zalloc(&j->loss, (size_t)s->window, sizeof *j->loss, "losses");
    if (!st && s->agree)
        st = mem_alloc(&j->full, (size_t)s->score, (size_t)j->config->n_vocab * sizeof *j->full,
                       "logits of the scored rows; use a smaller --score");
    return st;
}

/* K/V that a query sees, and that pieces see of each other. */
static void bytes_count(const ppl_job_t *j, ppl_row_t *row) {
    const ppl_spec_t *s = j->spec;
    const layout_info_t *info = layout_info(s->layout);
    int64_t each = (int64_t)(2 * kv_bytes(j->config, j->be->act, 1)), seen = 0;
    row->kv_bytes = row->move_bytes = 0;
    if (info->streams) {
        row->kv_bytes = each * i64_min(s->window, s->kept.n_blank + s->kept.gist.window);
        return;
    }
    for (int p = 0; p < j->n_piece; p++) {
        row->kv_bytes += each * j->ctx.pools[p].n_row;
        for (int i = 0; i < (int)layout_continues(info, p); i++) seen += j->chain[i].n_row;
    }
    row->kv_bytes += each * (s->n_sink + s->kept.n_blank);
    row->move_bytes = each * seen;
}

/* Window w was run by rank w % size as its w / size-th: brings all to rank 0 and adds them up in window order. */
static status_t sum_up(comm_t *comm, const double *mine, int64_t width, int64_t n_window, double *sum) {
    double *all = NULL;
    int64_t *bytes = NULL;
    status_t st = mem_alloc(&all, (size_t)(n_window * width), sizeof *all, "results");
    if (!st) st = mem_alloc(&bytes, (size_t)comm->size, sizeof *bytes, "results");
    st = comm_agree(comm, st);
    for (int r = 0; !st && r < comm->size; r++) bytes[r] = (n_window - r + comm->size - 1) / comm->size * width * (int64_t)sizeof *all;
    if (!st) st = comm->ops->gather(comm, 0, mine, all, bytes);
    for (int64_t w = 0; !st && comm->rank == 0 && w < n_window; w++) {
        int64_t r = w % comm->size, at = w / comm->size * width;
        for (int64_t i = 0; i < r; i++) at += bytes[i] / (int64_t)sizeof *all;
        for (int64_t i = 0; i < width; i++) sum[i] += all[at + i];
    }
    mem_free(all);
    mem_free(bytes);
    return st;
}

static status_t row_fill(const ppl_spec_t *spec, const model_config_t *c, const double *sum, int64_t n_window, ppl_row_t *row) {
    int64_t heads = c->n_layer * c->n_head;
    row->n_window = n_window;
    row->n_token = n_window * spec->score;
    row->nll = sum[SUM_NLL];
    row->ppl = exp(row->nll / (double)i64_max(1, row->n_token));
    row->entropy = sum[SUM_ENTROPY] / (double)n_window;
    row->agree = (agree_sum_t){.n = row->n_token,
                               .n_next = row->n_token,
                               .kl = sum[SUM_KL],
                               .same = sum[SUM_SAME],
                               .nll = row->nll,
                               .nll_full = sum[SUM_NLL_FULL]};
    for (int b = 0; b < PPL_BINS; b++) {
        row->context[b].n = (int64_t)sum[SUM_CONTEXT_N + b];
        row->context[b].nll = sum[SUM_CONTEXT + b];
        row->scored[b].n = (int64_t)sum[SUM_SCORED_N + b];
        row->scored[b].nll = sum[SUM_SCORED + b];
    }
    if (!spec->by_head) return ST_OK;
    status_t st = mem_alloc(&row->by_head, (size_t)heads, sizeof *row->by_head, "entropy by head");
    for (int64_t x = 0; x < heads && !st; x++) row->by_head[x] = sum[SUM_HEADS + x] / (double)(n_window * (spec->score + 1));
    return st;
}

status_t ppl_run(model_t *m, comm_t *comm, const ppl_spec_t *spec, const int32_t *tokens, int64_t n_window, int64_t pieces,
                 ppl_row_t *row) {
    ppl_job_t j = {.model = m, .config = model_config(m), .be = model_backend(m), .spec = spec};
    int64_t n_mine = (n_window - comm->rank + comm->size - 1) / comm->size;
    int64_t width = SUM_HEADS + (spec->by_head ? j.config->n_layer * j.config->n_head : 0);
    double *mine = NULL, *sum = NULL, begin_s = clock_s();
    progress_t progress;
    *row = (ppl_row_t){.pieces = pieces};
    progress_begin(&progress, "ppl", "windows", n_mine, spec->progress && comm->rank == 0);
    status_t st = comm_self_create(&j.alone);
    if (!st) st = mem_zalloc(&mine, (size_t)(i64_max(1, n_mine) * width), sizeof *mine, "results");
    if (!st) st = mem_zalloc(&sum, (size_t)width, sizeof *sum, "results");
    if (!st) st = rows_setup(&j);
    if (!st && n_mine > 0 && !layout_info(spec->layout)->streams) st = job_setup(&j, pieces);
    if (!st) bytes_count(&j, row);
    for (int64_t i = 0; !st && i < n_mine; i++) {
        st = window_run(&j, tokens + (i * comm->size + comm->rank) * spec->window, mine + i * width);
        progress_update(&progress, i + 1);
    }
    progress_end(&progress);
    job_teardown(&j);
    st = comm_agree(comm, st);
    if (!st) st = sum_up(comm, mine, width, n_window, sum);
    if (!st && comm->rank == 0) st = row_fill(spec, j.config, sum, n_window, row);
    mem_free(mine);
    mem_free(sum);
    row->seconds = clock_s() - begin_s - j.probes_s;
    return comm_agree(comm, st);
}
