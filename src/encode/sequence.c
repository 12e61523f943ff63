#include "encode/sequence.h"

#include "base/mem.h"
#include "encode/sharded.h"

typedef struct {
    const sequence_spec_t *spec;
    const layout_info_t *info;
    const gist_spec_t *gist;
    model_t *model;
    backend_t *be;
    encoder_t *encoder;
    kv_pool_t raw, gists; /* of the whole sequence where segments continue each other, else of one segment */
    kv_pool_t *chain;     /* what later segments see of earlier ones */
    int64_t n_segment;
    bool sharded; /* segments that see each other go over all ranks; else rank 0 runs them */
} sequence_t;

static int64_t segment_length(const sequence_spec_t *s, int64_t n) {
    return i64_max(1, layout_info(s->layout)->whole ? n : i64_min(s->segment, n));
}

int64_t sequence_rows(const sequence_spec_t *s, int64_t n) {
    int64_t rows = n, L = segment_length(s, n);
    if (!s->all_rows || layout_info(s->layout)->streams) return rows;
    for (int64_t at = 0; at < n; at += L) rows += gist_count(&s->kept.gist, i64_min(L, n - at));
    return rows + s->n_sink + s->kept.n_blank;
}

static status_t sequence_open(sequence_t *q, comm_t *comm, int64_t n, rows_fn rows, void *ctx) {
    const sequence_spec_t *s = q->spec;
    const model_config_t *c = model_config(q->model);
    int64_t L = segment_length(s, n), g = gist_count(q->gist, L);
    bool evict = q->info->whole && !q->info->streams, keep_raw = q->info->chained && !q->info->gists,
         keep_gists = q->info->chained && q->info->gists;
    encoder_spec_t e = {.sink = s->sink,
                        .n_sink = s->n_sink,
                        .n_blank = s->kept.n_blank,
                        .align = q->info->chained ? ALIGN_SEQUENTIAL
                                 : q->info->whole ? ALIGN_LEFT
                                                  : s->align,
                        .reserve = L,
                        .max_row = i64_max(s->max_row, q->gist->ratio + 1),
                        .gist = *q->gist,
                        .gist_init = s->kept.init,
                        .gist_token = s->kept.token,
                        .recurrent = s->kept.recurrent,
                        .compact = s->kept.compact,
                        .window = q->info->streams ? s->kept.gist.window : 0,
                        .in_cache = q->info->streams,
                        .evict = evict,
                        .sharded = q->sharded,
                        .rows = rows,
                        .rows_ctx = ctx,
                        .all_rows = s->all_rows};
    q->n_segment = i64_ceil_div(n, L);
    status_t st = encoder_create(q->model, comm, &e, &q->encoder);
    if (q->sharded || comm->rank) return st;
    if (!st && !evict) st = kv_alloc(q->be, c, q->be->act, keep_raw ? n : L, "K/V of raw rows", &q->raw);
    if (!st && g) st = kv_alloc(q->be, c, q->be->act, keep_gists ? g * q->n_segment : g, "K/V of gists", &q->gists);
    return st || !q->info->chained ? st : mem_alloc(&q->chain, (size_t)q->n_segment, sizeof *q->chain, "segments of a sequence");
}

static void sequence_close(sequence_t *q) {
    encoder_free(q->encoder);
    kv_free(q->be, &q->raw);
    kv_free(q->be, &q->gists);
    mem_free(q->chain);
}

/* The first tokens of the text are the sink, and their rows are rows like others. */
static sequence_spec_t streaming_spec(const sequence_spec_t *s, const int32_t *tokens, int64_t n) {
    sequence_spec_t mine = *s;
    mine.sink = tokens;
    mine.n_sink = i64_min(s->kept.n_blank, n);
    mine.kept.n_blank = 0;
    mine.all_rows = true;
    return mine;
}

/* All ranks, each its rows. */
static status_t sharded_run(sequence_t *q, comm_t *comm, const int32_t *tokens, int64_t n) {
    const sequence_spec_t *s = q->spec;
    int64_t L = segment_length(s, n), row = s->all_rows ? s->n_sink + s->kept.n_blank : 0, *segment = NULL, *at = NULL;
    shard_t plan = {0};
    status_t st = mem_alloc(&segment, (size_t)q->n_segment + 1, sizeof *segment, "segments of a sequence");
    if (!st) st = mem_alloc(&at, (size_t)q->n_segment, sizeof *at, "segments of a sequence");
    for (int64_t i = 0; i < q->n_segment && !st; i++) {
        segment[i] = i * L;
        segment[i + 1] = i64_min((i + 1) * L, n);
        at[i] = row;
        row += segment[i + 1] - segment[i] + (s->all_rows ? gist_count(q->gist, segment[i + 1] - segment[i]) : 0);
    }
    if (!st) st = encoder_shard(q->encoder, segment, q->n_segment, false, comm->size, &plan);
    st = comm_agree(comm, st);
    sharded_t d = {.tokens = tokens, .at = at};
    if (!st) st = encoder_run_sharded(q->encoder, comm, &plan, &d);
    shard_free(&plan);
    mem_free(segment);
    mem_free(at);
    return st;
}

status_t sequence_logits(model_t *m, comm_t *comm, const sequence_spec_t *s, const int32_t *tokens, int64_t n, rows_fn rows, void *ctx) {
    sequence_t q = {.spec = s, .info = layout_info(s->layout), .gist = &s->kept.gist, .model = m, .be = model_backend(m)};
    sequence_spec_t streaming;
    if (!n) return ST_OK;
    if (q.info->streams) {
        streaming = streaming_spec(s, tokens, n);
        tokens += streaming.n_sink;
        n -= streaming.n_sink;
        q.spec = s = &streaming;
    }
    int64_t L = segment_length(s, n), row = s->all_rows ? s->n_sink + s->kept.n_blank : 0, gists = 0;
    q.sharded = comm->size > 1 && layout_shards(q.info, s->kept.compact, model_config(m)->window);
    status_t st = sequence_open(&q, comm, n, rows, ctx);
    if (!st && q.sharded) st = sharded_run(&q, comm, tokens, n);
    for (int64_t i = 0; i < q.n_segment && !st && !q.sharded && comm->rank == 0; i++) {
        int64_t at = i * L, length = i64_min(L, n - at), own = gist_count(q.gist, length);
        piece_t p = {.tokens = tokens + at, .n = length, .before = at, .at = row};
        if (q.info->chained) p.chain = q.chain, p.n_chain = (int)layout_continues(q.info, i);
        if (!q.info->whole || q.info->streams) p.pool = kept_part(&q.raw, q.info->chained && !q.info->gists ? at : 0, length);
        if (q.gist->ratio) p.gist_pool = kept_part(&q.gists, q.info->chained ? gists : 0, own);
        st = encoder_run(q.encoder, &p, 1);
        if (!st) st = kept_remember(&s->kept, q.encoder, m, &p);
        if (q.chain) q.chain[i] = q.gist->ratio ? p.gist_pool : p.pool;
        gists += own;
        row += s->all_rows ? length + own : length;
    }
    sequence_close(&q);
    return comm_agree(comm, st);
}
