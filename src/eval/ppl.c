#include "eval/ppl.h"

#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/progress.h"
#include "encode/encoder.h"
#include "encode/move.h"
#include "encode/picker.h"
#include "encode/sequence.h"

typedef struct {
    double nll, entropy;
} window_result_t;

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
    float *logits; /* [max_row][n_vocab] */
} ppl_job_t;

static double log_softmax_at(const float *logits, int64_t n, int32_t id) {
    float max = logits[0];
    double sum = 0;
    for (int64_t i = 1; i < n; i++) max = fmaxf(max, logits[i]);
    for (int64_t i = 0; i < n; i++) sum += exp((double)logits[i] - (double)max);
    return (double)logits[id] - (double)max - log(sum);
}

static status_t query_pass(ppl_job_t *j, const int32_t *window, window_result_t *out) {
    const ppl_spec_t *s = j->spec;
    int64_t n_query = s->score + 1, first = s->window - n_query;
    *out = (window_result_t){0, 0};
    for (int64_t at = 0; at < n_query;) {
        int64_t n = i64_min(n_query - at, s->max_row),
                scored = i64_min(n, s->score - at); /* the last row predicts what is outside the window */
        for (int64_t i = 0; i < n; i++) {
            j->tokens[i] = window[first + at + i];
            j->positions[i] = (double)(j->ctx.query_position + at + i);
            j->out_rows[i] = i;
        }
        attend_query_t q = {.n = n, .own = j->own, .index = at};
        status_t st =
            attend_forward(j->attend, encoder_workspace(j->encoder), &q, 1, j->tokens, j->positions, scored, j->out_rows, j->logits);
        if (!st && s->rows) st = s->rows(s->rows_ctx, at, scored, j->logits);
        if (st) return st;
        double nll = 0;
#pragma omp parallel for schedule(static) ordered
        for (int64_t i = 0; i < scored; i++) {
            double lp = log_softmax_at(j->logits + i * j->config->n_vocab, j->config->n_vocab, window[first + at + i + 1]);
#pragma omp ordered
            nll -= lp;
        }
        out->nll += nll;
        out->entropy += q.entropy * (double)n / (double)n_query;
        at += n;
    }
    return ST_OK;
}

/* Streaming has no context and query: the window is one stream, and its last rows are scored. */
typedef struct {
    const ppl_spec_t *spec;
    const int32_t *window;
    int64_t n_vocab;
    double *loss; /* [score] */
} stream_t;

static status_t stream_rows(void *ctx, int64_t at, int64_t n, const float *logits) {
    stream_t *s = ctx;
    int64_t first = s->spec->window - s->spec->score - 1, from = i64_max(at, first), upto = i64_min(at + n, first + s->spec->score);
    if (from >= upto) return ST_OK;
    logits += (from - at) * s->n_vocab;
#pragma omp parallel for schedule(static)
    for (int64_t t = from; t < upto; t++)
        s->loss[t - first] = -log_softmax_at(logits + (t - from) * s->n_vocab, s->n_vocab, s->window[t + 1]);
    return s->spec->rows ? s->spec->rows(s->spec->rows_ctx, from - first, upto - from, logits) : ST_OK;
}

static status_t stream_run(ppl_job_t *j, const int32_t *window, window_result_t *out) {
    const ppl_spec_t *s = j->spec;
    stream_t stream = {.spec = s, .window = window, .n_vocab = j->config->n_vocab};
    sequence_spec_t sequence = {.layout = s->layout, .kept = s->kept, .segment = s->window, .max_row = s->max_row};
    status_t st = mem_zalloc(&stream.loss, (size_t)s->score, sizeof *stream.loss, "losses");
    if (!st) st = sequence_logits(j->model, j->alone, &sequence, window, s->window, stream_rows, &stream);
    *out = (window_result_t){0, (double)NAN};
    for (int64_t i = 0; i < s->score && !st; i++) out->nll += stream.loss[i];
    mem_free(stream.loss);
    return st;
}

static status_t window_run(ppl_job_t *j, const int32_t *window, window_result_t *out) {
    const kept_t *kept = &j->spec->kept;
    if (layout_info(j->spec->layout)->streams) return stream_run(j, window, out);
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
    return st ? st : query_pass(j, window, out);
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
    if (!st && !s->kept.gist.ratio && !layout_info(s->layout)->selects) {
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
    if (j->alone) j->alone->ops->close(j->alone);
}

/* Window w was run by rank w % size as its w / size-th: brings all to rank 0 and adds them up in window order. */
static status_t sum_up(comm_t *comm, const ppl_spec_t *spec, const window_result_t *mine, int64_t n_window, ppl_row_t *row) {
    window_result_t *all = NULL;
    int64_t *bytes = NULL;
    status_t st = mem_alloc(&all, (size_t)n_window, sizeof *all, "results");
    if (!st) st = mem_alloc(&bytes, (size_t)comm->size, sizeof *bytes, "results");
    st = comm_agree(comm, st);
    for (int r = 0; !st && r < comm->size; r++) bytes[r] = (n_window - r + comm->size - 1) / comm->size * (int64_t)sizeof *all;
    if (!st) st = comm->ops->gather(comm, 0, mine, all, bytes);
    for (int64_t w = 0; !st && comm->rank == 0 && w < n_window; w++) {
        int64_t r = w % comm->size, at = 0;
        for (int64_t i = 0; i < r; i++) at += bytes[i] / (int64_t)sizeof *all;
        row->nll += all[at + w / comm->size].nll;
        row->entropy += all[at + w / comm->size].entropy / (double)n_window;
    }
    row->n_window = n_window;
    row->n_token = n_window * spec->score;
    row->ppl = exp(row->nll / (double)i64_max(1, row->n_token));
    mem_free(all);
    mem_free(bytes);
    return st;
}

status_t ppl_run(model_t *m, comm_t *comm, const ppl_spec_t *spec, const int32_t *tokens, int64_t n_window, int64_t pieces,
                 ppl_row_t *row) {
    ppl_job_t j = {.model = m, .config = model_config(m), .be = model_backend(m), .spec = spec};
    int64_t n_mine = (n_window - comm->rank + comm->size - 1) / comm->size;
    window_result_t *mine = NULL;
    double begin_s = clock_s();
    progress_t progress;
    *row = (ppl_row_t){.pieces = pieces};
    progress_begin(&progress, "ppl", "windows", n_mine, spec->progress && comm->rank == 0);
    status_t st = comm_self_create(&j.alone);
    if (!st) st = mem_alloc(&mine, (size_t)i64_max(1, n_mine), sizeof *mine, "results");
    if (!st && n_mine > 0 && !layout_info(spec->layout)->streams) st = job_setup(&j, pieces);
    for (int64_t i = 0; !st && i < n_mine; i++) {
        st = window_run(&j, tokens + (i * comm->size + comm->rank) * spec->window, &mine[i]);
        progress_update(&progress, i + 1);
    }
    progress_end(&progress);
    job_teardown(&j);
    st = comm_agree(comm, st);
    if (!st) st = sum_up(comm, spec, mine, n_window, row);
    mem_free(mine);
    row->seconds = clock_s() - begin_s;
    return comm_agree(comm, st);
}
