#include "encode/score.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "encode/expect.h"
#include "model/embedding.h"

enum { SINK_POOL, SEGMENT_POOL, OWN_POOL, N_POOL };
enum { LAST_ROWS = 64, NEIGHBOURS = 5, KEY_BLOCK = 256, LOGITS = 1 << 22 /* of a product at a time */ };

struct scorer {
    model_t *model;
    backend_t *be;
    const model_config_t *config;
    score_spec_t spec;
    encoder_t *encoder;
    int32_t *repeat;
    kv_pool_t pools[N_POOL]; /* the sink, the segment at hand, rows that reconstruct adds */
    layout_t layout;
    int32_t *tokens;
    double *positions;
    float *lse_dev; /* [B] [max_row][n_head] */
    float *lse;     /* host [max_row][n_head] */
    void *queries;  /* host [max_row][n_head][d_head], in the backend's type */
    void *raw;      /* host: rows of a head, in the backend's type */
    float *keys;    /* host [n][d_head] of one head */
    /* logits by the backend's matrix products: lines are rows times heads of a group */
    int64_t max_line;
    void *packed; /* [B] keys of a head */
    size_t packed_bytes;
    char *line;       /* host [max_line][d_head], in the backend's type */
    void *line_dev;   /* [B] */
    float *y, *y_dev; /* host and [B] [max_line][n] */
    /* SCORE_EXPECTED */
    expect_t *expect;
    float *q;       /* host [max_row][n_head][d_head] */
    float *turns;   /* [max_row or EXPECT_POSITIONS][d_rot] */
    float *lengths; /* [n] of one head's values */
    /* the segment at hand */
    int64_t n, from, n_row; /* its rows; index of the pass's first row (rows again); rows of the pass */
    float *score;
};

const char score_repeat_text[] = "\n\nRepeat the previous context exactly.";
static const char *const names[] = {"knorm", "snapkv", "observed", "expected", "reconstruct"};

const char *score_name(score_method_t m) { return names[m]; }

bool score_find(const char *name, score_method_t *out) {
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (!strcmp(name, names[i])) {
            *out = (score_method_t)i;
            return true;
        }
    return false;
}

static bool attends(score_method_t m) { return m == SCORE_SNAPKV || m == SCORE_OBSERVED || m == SCORE_RECONSTRUCT; }

static int64_t lines_most(const model_config_t *c, const score_spec_t *s) {
    return i64_min(s->max_row * (c->n_head / c->n_kv_head), i64_max(64, LOGITS / i64_max(s->max_tokens, 1)));
}

static status_t lines_setup(scorer_t *s) {
    const model_config_t *c = s->config;
    const backend_ops_t *ops = s->be->ops;
    int64_t n = s->spec.max_tokens;
    s->max_line = lines_most(c, &s->spec);
    size_t lines = (size_t)s->max_line, line = (size_t)c->d_head * dtype_bytes(s->be->act);
    status_t st = ops->alloc(s->be, lines * line, "queries of a head", &s->line_dev);
    if (!st) st = ops->alloc(s->be, lines * (size_t)n * sizeof *s->y, "logits", &s->y_dev);
    if (!st) st = mem_alloc(&s->line, lines, line, "queries of a head");
    return st || s->be->host_memory ? st : mem_alloc(&s->y, lines * (size_t)n, sizeof *s->y, "logits");
}

static status_t expect_setup(scorer_t *s, size_t rows) {
    size_t turns = rows > EXPECT_POSITIONS ? rows : EXPECT_POSITIONS;
    status_t st = expect_create(s->config, &s->expect);
    if (!st) st = mem_alloc(&s->q, rows, (size_t)(s->config->n_head * s->config->d_head) * sizeof *s->q, "queries of a pass");
    if (!st) st = mem_alloc(&s->turns, turns, (size_t)s->config->d_rot * sizeof *s->turns, "rope angles");
    return st ? st : mem_alloc(&s->lengths, (size_t)s->spec.max_tokens, sizeof *s->lengths, "lengths of values");
}

size_t scorer_bytes(const model_config_t *c, dtype_t act, const score_spec_t *s) {
    size_t n = (size_t)s->max_tokens, rows = (size_t)s->max_row, d = (size_t)c->d_head, cells = rows * (size_t)c->n_head;
    size_t lines = (size_t)lines_most(c, s), total = 2 * n * d * sizeof(float); /* rows and keys of a head */
    if (s->method == SCORE_KNORM) return total;                                 /* no row goes through again */
    total += cells * (d * dtype_bytes(act) + 2 * sizeof(float));                /* queries and totals of a pass */
    if (attends(s->method))
        total += lines * (2 * d * dtype_bytes(act) + n * sizeof(float)) + n * d * sizeof(float); /* logits, packed keys */
    if (s->method == SCORE_EXPECTED) total += cells * d * sizeof(float) + expect_bytes(c);
    return total;
}

size_t scorer_device_bytes(const model_config_t *c, dtype_t act, const score_spec_t *s) {
    size_t n = (size_t)s->max_tokens, d = (size_t)c->d_head, lines = (size_t)lines_most(c, s);
    size_t totals = (size_t)(s->max_row * c->n_head) * sizeof(float);
    return totals + (attends(s->method) ? lines * (d * dtype_bytes(act) + n * sizeof(float)) + n * d * sizeof(float) : 0);
}

int64_t scorer_kv_rows(const score_spec_t *s) { return s->method == SCORE_RECONSTRUCT ? s->n_repeat + s->max_tokens : 0; }

status_t scorer_create(model_t *m, encoder_t *e, const score_spec_t *spec, scorer_t **out) {
    scorer_t *s = NULL;
    status_t st = mem_zalloc(&s, 1, sizeof *s, "scores");
    *out = NULL;
    if (st) return st;
    const model_config_t *c = s->config = model_config(m);
    size_t rows = (size_t)spec->max_row, cells = rows * (size_t)c->n_head, d = (size_t)c->d_head;
    s->model = m;
    s->be = model_backend(m);
    s->spec = *spec;
    s->encoder = e;
    s->pools[SINK_POOL] = *encoder_sink_seen(e);
    if (scorer_kv_rows(spec)) st = encoder_pool(e, scorer_kv_rows(spec), "K/V of a segment read again", &s->pools[OWN_POOL]);
    if (!st && spec->method == SCORE_EXPECTED) st = expect_setup(s, rows);
    if (!st) st = mem_alloc(&s->repeat, (size_t)spec->n_repeat, sizeof *s->repeat, "a prompt");
    if (!st && spec->n_repeat) memcpy(s->repeat, spec->repeat, (size_t)spec->n_repeat * sizeof *s->repeat);
    if (!st) st = mem_alloc(&s->tokens, rows, sizeof *s->tokens, "tokens of a pass");
    if (!st) st = mem_alloc(&s->positions, rows, sizeof *s->positions, "positions of a pass");
    if (!st) st = s->be->ops->alloc(s->be, cells * sizeof(float), "row totals", &s->lse_dev);
    if (!st) st = mem_alloc(&s->lse, cells, sizeof *s->lse, "row totals");
    if (!st) st = mem_alloc(&s->queries, cells * d, dtype_bytes(s->be->act), "queries of a pass");
    if (!st) st = mem_alloc(&s->raw, (size_t)spec->max_tokens * d, sizeof(float), "rows of a head");
    if (!st && attends(spec->method)) st = lines_setup(s);
    if (!st) st = mem_alloc(&s->keys, (size_t)spec->max_tokens * d, sizeof *s->keys, "keys of a head");
    if (st)
        scorer_free(s);
    else
        *out = s;
    return st;
}

void scorer_free(scorer_t *s) {
    if (!s) return;
    encoder_pool_free(s->encoder, &s->pools[OWN_POOL]);
    s->be->ops->free(s->be, s->lse_dev);
    layout_free(&s->layout);
    mem_free(s->repeat);
    mem_free(s->tokens);
    mem_free(s->positions);
    mem_free(s->lse);
    mem_free(s->queries);
    mem_free(s->q);
    mem_free(s->raw);
    mem_free(s->line);
    mem_free(s->y);
    s->be->ops->free(s->be, s->packed);
    s->be->ops->free(s->be, s->line_dev);
    s->be->ops->free(s->be, s->y_dev);
    mem_free(s->keys);
    mem_free(s->turns);
    mem_free(s->lengths);
    expect_free(s->expect);
    mem_free(s);
}

/* A head's rows of k or v, into s->keys. */
static status_t rows_read(scorer_t *s, const void *rows, int64_t layer, int64_t head) {
    const kv_pool_t *p = &s->pools[SEGMENT_POOL];
    size_t n = (size_t)(s->n * s->config->d_head), at = (size_t)(layer * p->layer_stride + head * p->head_stride) * dtype_bytes(p->type);
    status_t st = s->be->ops->copy_out(s->be, s->raw, (const char *)rows + at, n * dtype_bytes(p->type));
    if (!st) dtype_convert(DT_F32, s->keys, p->type, s->raw, n);
    return st;
}

static status_t keys_read(scorer_t *s, int64_t layer, int64_t head) { return rows_read(s, s->pools[SEGMENT_POOL].k, layer, head); }

static float length(const float *x, int64_t n) {
    float sum = 0;
    for (int64_t e = 0; e < n; e++) sum += x[e] * x[e];
    return sqrtf(sum);
}

/* The pass's queries, less the segment's first rows, to what is expected. */
static void queries_add(scorer_t *s, int64_t layer) {
    const model_config_t *c = s->config;
    int64_t skip = i64_min(s->n_row, i64_max(0, EXPECT_FIRST - s->from));
    if (!layer) model_rope(s->model, s->n_row, s->positions, s->turns);
    expect_add(s->expect, layer, s->n_row - skip, s->q + skip * c->n_head * c->d_head, s->turns + skip * c->d_rot);
}

/* The head's keys as a matrix for the backend's products. */
static status_t keys_pack(scorer_t *s, int64_t layer, int64_t head, linear_t **out) {
    const model_config_t *c = s->config;
    linear_shape_t shape = {.n_out = s->n, .n_in = c->d_head};
    size_t bytes = s->be->ops->linear_bytes(s->be, shape);
    status_t st = keys_read(s, layer, head);
    if (!st && bytes > s->packed_bytes) {
        s->be->ops->free(s->be, s->packed);
        s->packed = NULL;
        st = s->be->ops->alloc(s->be, bytes, "keys of a head", &s->packed);
        s->packed_bytes = st ? 0 : bytes;
    }
    if (!st) st = s->be->ops->linear_pack(s->be, shape, s->packed, 0, s->n, DT_F32, s->keys);
    return st ? st : s->be->ops->linear_open(s->be, shape, s->packed, out);
}

/* Lines are the pass's rows times the query heads of a K/V head. Logits y [n][keys] of lines from `first` on: what they give to each row.
 */
static void lines_score(const scorer_t *s, const float *logits, int64_t layer, int64_t head, int64_t first, int64_t n) {
    const model_config_t *c = s->config;
    int64_t group = c->n_head / c->n_kv_head;
    float scale = 1.0f / sqrtf((float)c->d_head), *restrict out = s->score + (layer * c->n_kv_head + head) * s->n;
    bool all = s->spec.method == SCORE_RECONSTRUCT;
#pragma omp parallel for schedule(dynamic)
    for (int64_t j = 0; j < s->n; j += KEY_BLOCK)
        for (int64_t l = 0; l < n; l++) {
            int64_t t = (first + l) / group, upto = i64_min(s->n, j + KEY_BLOCK);
            const float *restrict y = logits + l * s->n;
            float lse = s->lse[t * c->n_head + head * group + (first + l) % group];
            if (!all) upto = i64_min(upto, s->from + t + 1);
            if (all)
                for (int64_t i = j; i < upto; i++) { /* the probability's logarithm */
                    float p = y[i] * scale - lse;
                    out[i] = p > out[i] ? p : out[i];
                }
            else
                for (int64_t i = j; i < upto; i++) out[i] += expf(y[i] * scale - lse);
        }
}

/* What the pass's queries, on the host in s->raw, give to the segment's rows of a K/V head. */
static status_t head_score(scorer_t *s, int64_t layer, int64_t head) {
    const model_config_t *c = s->config;
    const backend_ops_t *ops = s->be->ops;
    int64_t group = c->n_head / c->n_kv_head, lines = s->n_row * group, d = c->d_head;
    size_t cell = dtype_bytes(s->be->act), line = (size_t)d * cell;
    linear_t *keys = NULL;
    status_t st = keys_pack(s, layer, head, &keys);
    for (int64_t at = 0, n; at < lines && !st; at += n) {
        n = i64_min(s->max_line, lines - at);
        for (int64_t l = 0; l < n; l++) {
            int64_t t = (at + l) / group, h = head * group + (at + l) % group;
            memcpy(s->line + (size_t)l * line, (const char *)s->queries + (size_t)((t * c->n_head + h) * d) * cell, line);
        }
        st = ops->copy_in(s->be, s->line_dev, s->line, (size_t)n * line);
        if (!st) st = ops->linear(s->be, keys, n, s->line_dev, s->y_dev, false);
        if (!st && !s->be->host_memory) st = ops->copy_out(s->be, s->y, s->y_dev, (size_t)(n * s->n) * sizeof *s->y);
        if (!st) lines_score(s, s->be->host_memory ? s->y_dev : s->y, layer, head, at, n);
    }
    if (keys) ops->linear_close(s->be, keys);
    return st;
}

/* The pass's attention in a layer, and what its queries give to the segment's rows. */
static status_t score_layer(void *self, const batch_t *b, int layer, const void *q, void *o) {
    scorer_t *s = self;
    const model_config_t *c = s->config;
    size_t cells = (size_t)(s->n_row * c->n_head);
    status_t st = forward_attention(s->model, b, layer, q, o, s->lse_dev);
    if (!st) st = s->be->ops->copy_out(s->be, s->lse, s->lse_dev, cells * sizeof *s->lse);
    if (!st) st = s->be->ops->copy_out(s->be, s->queries, q, cells * (size_t)c->d_head * dtype_bytes(s->be->act));
    if (!st && s->expect) {
        dtype_convert(DT_F32, s->q, s->be->act, s->queries, cells * (size_t)c->d_head);
        queries_add(s, layer);
    }
    for (int64_t head = 0; head < c->n_kv_head && !st && attends(s->spec.method); head++) st = head_score(s, layer, head);
    return st;
}

static status_t pass_run(scorer_t *s) {
    batch_t b = {.n_row = s->n_row,
                 .tokens = s->tokens,
                 .positions = s->positions,
                 .n_pool = N_POOL,
                 .n_run = s->layout.n_run,
                 .n_span = s->layout.n_span,
                 .pools = s->pools,
                 .runs = s->layout.runs,
                 .spans = s->layout.spans,
                 .attend = score_layer,
                 .attend_ctx = s};
    return encoder_forward(s->encoder, b);
}

/* Rows from .. n-1 of the segment once more; their K/V are there. */
static status_t rows_again(scorer_t *s, const piece_t *p, int64_t from) {
    status_t st = ST_OK;
    int64_t n_sink = s->pools[SINK_POOL].n_row;
    for (s->from = from; s->from < p->n && !st; s->from += s->n_row) {
        s->n_row = i64_min(s->spec.max_row, p->n - s->from);
        for (int64_t i = 0; i < s->n_row; i++) {
            s->tokens[i] = p->tokens[s->from + i];
            s->positions[i] = (double)layout_position(s->spec.align, n_sink, s->from + i, p->n, s->spec.reserve, p->before);
        }
        layout_clear(&s->layout);
        st = layout_segment(&s->layout, SINK_POOL, n_sink, SEGMENT_POOL, s->from, s->n_row, s->config->window);
        s->layout.runs[0].pool = -1;
        if (!st) st = pass_run(s);
    }
    return st;
}

/* The position right behind a segment, where a query would start. */
static int64_t position_behind(const scorer_t *s, const piece_t *p) {
    int64_t taken = s->spec.align == ALIGN_SEQUENTIAL ? p->before + p->n
                    : s->spec.align == ALIGN_LEFT     ? p->n /* what else its store holds is of no matter */
                                                      : i64_max(s->spec.reserve, p->n);
    return s->pools[SINK_POOL].n_row + taken;
}

static status_t expect_finish(scorer_t *s, const piece_t *p) {
    const model_config_t *c = s->config;
    double positions[EXPECT_POSITIONS];
    for (int i = 0; i < EXPECT_POSITIONS; i++) positions[i] = (double)(position_behind(s, p) + i);
    model_rope(s->model, EXPECT_POSITIONS, positions, s->turns);
    for (int64_t x = 0; x < c->n_layer * c->n_kv_head; x++) {
        int64_t layer = x / c->n_kv_head, head = x % c->n_kv_head;
        status_t st = rows_read(s, s->pools[SEGMENT_POOL].v, layer, head);
        for (int64_t i = 0; i < s->n && !st; i++) s->lengths[i] = length(s->keys + i * c->d_head, c->d_head);
        if (!st) st = keys_read(s, layer, head);
        if (!st) st = expect_score(s->expect, layer, head, s->n, s->keys, s->lengths, s->turns, s->score + x * s->n);
        if (st) return st;
    }
    return ST_OK;
}

/* The prompt and the segment's tokens, behind the segment. */
static status_t read_again(scorer_t *s, const piece_t *p) {
    int64_t n = s->spec.n_repeat + p->n, n_sink = s->pools[SINK_POOL].n_row, first = position_behind(s, p);
    status_t st = ST_OK;
    for (int64_t at = 0; at < n && !st; at += s->n_row) {
        s->n_row = i64_min(s->spec.max_row, n - at);
        for (int64_t i = 0; i < s->n_row; i++) {
            int64_t row = at + i;
            s->tokens[i] = row < s->spec.n_repeat ? s->repeat[row] : p->tokens[row - s->spec.n_repeat];
            s->positions[i] = (double)(first + row);
        }
        layout_clear(&s->layout);
        st = layout_segment(&s->layout, SINK_POOL, i64_min(n_sink, SCORE_FIRST), OWN_POOL, at, s->n_row, 0);
        if (!st) st = layout_add_span(&s->layout, span_all(SEGMENT_POOL, 0, p->n));
        if (!st) st = pass_run(s);
    }
    return st;
}

static status_t key_norms(scorer_t *s) {
    const model_config_t *c = s->config;
    for (int64_t x = 0; x < c->n_layer * c->n_kv_head; x++) {
        status_t st = keys_read(s, x / c->n_kv_head, x % c->n_kv_head);
        if (st) return st;
        for (int64_t i = 0; i < s->n; i++) s->score[x * s->n + i] = -length(s->keys + i * c->d_head, c->d_head);
    }
    return ST_OK;
}

/* Mean over NEIGHBOURS rows, with nothing beyond the ends; the last rows stay. */
static void snap_finish(float *score, int64_t n, float *scratch) {
    memcpy(scratch, score, (size_t)n * sizeof *score);
    for (int64_t i = 0; i < n; i++) {
        float sum = 0;
        for (int64_t j = i64_max(0, i - NEIGHBOURS / 2); j <= i64_min(n - 1, i + NEIGHBOURS / 2); j++) sum += scratch[j];
        score[i] = i >= n - LAST_ROWS ? INFINITY : sum;
    }
}

static void finish(scorer_t *s) {
    const model_config_t *c = s->config;
    for (int64_t x = 0; x < c->n_layer * c->n_kv_head; x++) {
        float *score = s->score + x * s->n;
        if (s->spec.method == SCORE_SNAPKV) snap_finish(score, s->n, s->keys);
        for (int64_t i = 0; i < s->n && s->spec.method == SCORE_OBSERVED; i++) score[i] /= (float)(s->n - i);
        if (!s->pools[SINK_POOL].n_row)
            for (int64_t i = 0; i < i64_min(SCORE_FIRST, s->n); i++) score[i] = INFINITY;
    }
}

status_t scorer_run(scorer_t *s, const piece_t *p, float *score) {
    int64_t cells = s->config->n_layer * s->config->n_kv_head * p->n;
    status_t st = ST_OK;
    s->n = p->n;
    s->score = score;
    s->pools[SEGMENT_POOL] = p->pool;
    for (int64_t i = 0; i < cells; i++) score[i] = s->spec.method == SCORE_RECONSTRUCT ? -INFINITY : 0;
    switch (s->spec.method) {
    case SCORE_KNORM:
        st = key_norms(s);
        break;
    case SCORE_SNAPKV:
        st = rows_again(s, p, i64_max(0, p->n - LAST_ROWS));
        break;
    case SCORE_OBSERVED:
        st = rows_again(s, p, 0);
        break;
    case SCORE_EXPECTED:
        expect_begin(s->expect);
        st = rows_again(s, p, 0);
        if (!st) st = expect_finish(s, p);
        break;
    case SCORE_RECONSTRUCT:
        st = read_again(s, p);
        break;
    }
    if (!st) finish(s);
    return st;
}
