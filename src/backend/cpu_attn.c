/* Attention on the CPU: cuts the rows into tiles, the keys into parts, and hands both to threads. The kernels are in cpu_attn.h.
 *
 *     tile   up to 192 query lines: rows of one run x the query heads that share a K/V head, so that packed K and V serve them all
 *     part   the keys of one span between two multiples of 1024 of the pool's index
 *
 * A tile's parts are computed apart and folded in the order of the list. When there are plenty of tiles a thread does one tile after
 * another; when there are few (decoding), the parts themselves are dealt to threads and folded afterwards. Both are the same operations in
 * the same order, so the bits are the same.
 */
#include <assert.h>
#include <string.h>

#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "base/mem.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
static int thread_id(void) { return omp_get_thread_num(); }
#else
static int thread_id(void) { return 0; }
#endif

enum { PART_KEYS = 1024 };                              /* changing it changes bits */
static const size_t MAX_PART_BYTES = (size_t)256 << 20; /* of states kept between computing and folding parts */

typedef struct {
    const span_t *span;
    int64_t begin, end;
    int tile, block;
    float *state;
} part_t;

/* ---- tiles and parts ----------------------------------------------------------------------------------------------- */

typedef struct {
    attn_job_t job;
    int n_thread, n_tile;
    int64_t n_part;
    attn_tile_t *tiles;
    part_t *parts; /* when parts are dealt to threads */
    char *works;   /* one per thread, work_bytes apart */
    size_t work_bytes;
} call_t;

/* Steps through the parts of a tile that belong to `block`; start with {run->span, INT64_MIN}. */
typedef struct {
    int span;
    int64_t at;
} cursor_t;

static bool part_next(const attn_args_t *a, const attn_tile_t *t, int block, cursor_t *c, part_t *out) {
    int64_t first = t->run->index + t->first, last = first + t->rows - 1;
    for (; c->span < t->run->span + t->run->n_span; c->span++, c->at = INT64_MIN) {
        const span_t *s = &a->spans[c->span];
        if (s->block > block) return false;
        if (!kv_pool_serves(&a->pools[s->pool], t->kv_head)) continue;
        int64_t begin = i64_max(c->at, span_lo(s, first)), end = span_hi(s, last);
        if (begin >= end) continue;
        c->at = i64_min(end, (begin / PART_KEYS + 1) * PART_KEYS);
        *out = (part_t){.span = s, .begin = begin, .end = c->at, .block = block};
        return true;
    }
    return false;
}

/* The tiles of all runs, last rows first: under a causal rule they are the longest. out NULL: only counts. */
static int tiles_list(const attn_job_t *j, attn_tile_t *out) {
    const attn_args_t *a = j->a;
    int group = a->n_head / a->n_kv_head, n = 0;
    for (int r = a->n_run - 1; r >= 0; r--)
        for (int64_t end = a->runs[r].n; end > 0;) {
            int64_t first = (end - 1) / j->max_rows * j->max_rows;
            for (int kv = 0; kv < a->n_kv_head; kv++)
                for (int h = 0; h < group; h += ATTN_LINES, n++)
                    if (out)
                        out[n] = (attn_tile_t){
                            &a->runs[r], first, (int)(end - first), kv, kv * group + h, (int)i64_min(ATTN_LINES, group - h), 0};
            end = first;
        }
    return n;
}

/* The parts of all tiles, tile by tile, block by block. out NULL: only counts, and adds the bytes of their states to *bytes. */
static int64_t parts_list(const call_t *c, part_t *out, float *states, size_t *bytes) {
    const attn_args_t *a = c->job.a;
    int64_t n = 0;
    for (int i = 0; i < c->n_tile; i++) {
        attn_tile_t *t = &c->tiles[i];
        t->first_part = n;
        size_t floats = attn_state_floats(&c->job, t->rows * t->heads);
        cursor_t cur = {t->run->span, INT64_MIN};
        for (int b = 0; b < a->n_block; b++)
            for (part_t p; part_next(a, t, b, &cur, &p); n++) {
                if (bytes) *bytes += floats * sizeof(float);
                if (!out) continue;
                p.tile = i;
                p.state = states;
                states += floats;
                out[n] = p;
            }
    }
    return n;
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

/* Hands out pieces of `base`, each on a cache line; with base NULL it only counts. */
typedef struct {
    char *base;
    size_t at;
} arena_t;

static void *take(arena_t *a, size_t bytes) {
    void *p = a->base ? a->base + a->at : NULL;
    a->at += size_round_up(bytes, 64);
    return p;
}

/* Lays the work space of a thread over `base`; returns its size (base may be NULL). */
static size_t work_lay(const attn_job_t *j, char *base, attn_work_t *w) {
    arena_t a = {base, 0};
    size_t lines = (size_t)j->max_lines, d = (size_t)j->d_pad, state_bytes = attn_state_floats(j, j->max_lines) * sizeof(float);
    w->q = take(&a, lines * d * 4);
    w->k = take(&a, d * ATTN_KEYS * 4);
    w->v = take(&a, d * ATTN_KEYS * 4);
    w->s = take(&a, ATTN_MR * ATTN_KEYS * 4);
    w->p = take(&a, ATTN_MR * ATTN_KEYS * 4);
    w->l = take(&a, lines * 16 * 4);
    w->u = take(&a, lines * 16 * 4);
    w->lo = take(&a, (size_t)j->max_rows * 8);
    w->hi = take(&a, (size_t)j->max_rows * 8);
    w->part = take(&a, state_bytes);
    w->acc = take(&a, state_bytes);
    return size_round_up(a.at, 4096) + 64; /* + 64: the threads' spaces do not start at the same cache sets */
}

/* ---- the two ways ---------------------------------------------------------------------------------------------------- */

static void tile_run(const call_t *c, const cpu_kernels_t *k, const attn_tile_t *t, attn_work_t *w) {
    const attn_args_t *a = c->job.a;
    cursor_t cur = {t->run->span, INT64_MIN};
    k->attn_query(&c->job, t, w);
    for (int b = 0; b < a->n_block; b++) {
        k->attn_clear(&c->job, t, w->acc);
        for (part_t p; part_next(a, t, b, &cur, &p);) {
            k->attn_part(&c->job, t, w, p.span, p.begin, p.end, w->part);
            k->attn_fold(&c->job, t, w->acc, w->part);
        }
        k->attn_finish(&c->job, t, b, w->acc);
    }
}

/* Folds the computed parts of a tile. */
static void tile_fold(const call_t *c, const cpu_kernels_t *k, int tile, float *acc) {
    const attn_tile_t *t = &c->tiles[tile];
    int64_t p = t->first_part;
    for (int b = 0; b < c->job.a->n_block; b++) {
        k->attn_clear(&c->job, t, acc);
        for (; p < c->n_part && c->parts[p].tile == tile && c->parts[p].block == b; p++) k->attn_fold(&c->job, t, acc, c->parts[p].state);
        k->attn_finish(&c->job, t, b, acc);
    }
}

/* The dot product instruction flushes denormals; flush everywhere, so that where it is used does not show. */
static unsigned flush_on(const attn_job_t *j) {
#if defined(__x86_64__)
    unsigned old = _mm_getcsr();
    if (j->dot) _mm_setcsr(old | 0x8040);
    return old;
#else
    (void)j;
    return 0;
#endif
}
static void flush_restore(unsigned old) {
#if defined(__x86_64__)
    _mm_setcsr(old);
#else
    (void)old;
#endif
}

static void run_tiles(const call_t *c, const cpu_kernels_t *k) {
#pragma omp parallel num_threads(c->n_thread)
    {
        unsigned csr = flush_on(&c->job);
        attn_work_t w;
        work_lay(&c->job, c->works + (size_t)thread_id() * c->work_bytes, &w);
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < c->n_tile; i++) tile_run(c, k, &c->tiles[i], &w);
        flush_restore(csr);
    }
}

static void run_parts(const call_t *c, const cpu_kernels_t *k) {
#pragma omp parallel num_threads(c->n_thread)
    {
        unsigned csr = flush_on(&c->job);
        attn_work_t w;
        work_lay(&c->job, c->works + (size_t)thread_id() * c->work_bytes, &w);
        int loaded = -1;
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < c->n_part; i++) {
            const part_t *p = &c->parts[i];
            if (p->tile != loaded) k->attn_query(&c->job, &c->tiles[p->tile], &w);
            loaded = p->tile;
            k->attn_part(&c->job, &c->tiles[p->tile], &w, p->span, p->begin, p->end, p->state);
        }
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < c->n_tile; i++) tile_fold(c, k, i, w.acc);
        flush_restore(csr);
    }
}

static bool use_dot(const cpu_t *c, const attn_args_t *a) {
    bool bf16 = c->base.act == DT_BF16 && c->k->bf16_dot;
    for (int i = 0; i < a->n_pool; i++) bf16 = bf16 && (a->pools[i].type == DT_BF16 || !a->pools[i].n_row); /* a sink of no rows */
    return bf16;
}

status_t cpu_attention(backend_t *be, const attn_args_t *a) {
    cpu_t *cpu = (cpu_t *)be;
    assert(a->n_head % a->n_kv_head == 0 && a->scale > 0 && a->n_block >= 1);
    int group = a->n_head / a->n_kv_head, heads = (int)i64_min(group, ATTN_LINES);
    call_t c = {.n_thread = be->n_threads};
    c.job = (attn_job_t){.a = a, .act = be->act, .dot = use_dot(cpu, a), .d_pad = (a->d_head + 15) & ~15, .max_rows = ATTN_LINES / heads};
    c.job.max_lines = c.job.max_rows * heads;
    c.n_tile = tiles_list(&c.job, NULL);
    if (c.n_tile == 0) return ST_OK;
    attn_work_t sizes;
    c.work_bytes = work_lay(&c.job, NULL, &sizes);
    size_t tile_bytes = size_round_up((size_t)c.n_tile * sizeof *c.tiles, 64), works_bytes = c.work_bytes * (size_t)c.n_thread,
           state_bytes = 0;
    char *base;
    status_t st = cpu_scratch(cpu, tile_bytes + works_bytes, &base);
    if (st) return st;
    c.tiles = (attn_tile_t *)base;
    c.works = base + tile_bytes;
    tiles_list(&c.job, c.tiles);
    bool few = c.n_thread > 1 && c.n_tile < 4 * c.n_thread;
    if (few) c.n_part = parts_list(&c, NULL, NULL, &state_bytes);
    if (!few || c.n_part <= c.n_tile || state_bytes > MAX_PART_BYTES) {
        run_tiles(&c, cpu->k);
        return ST_OK;
    }
    size_t part_bytes = size_round_up((size_t)c.n_part * sizeof *c.parts, 64);
    st = cpu_scratch(cpu, tile_bytes + works_bytes + part_bytes + state_bytes, &base);
    if (st) return st;
    c.tiles = (attn_tile_t *)base; /* the space may have moved */
    c.works = base + tile_bytes;
    c.parts = (part_t *)(c.works + works_bytes);
    tiles_list(&c.job, c.tiles);
    parts_list(&c, c.parts, (float *)((char *)c.parts + part_bytes), NULL);
    run_parts(&c, cpu->k);
    return ST_OK;
}
