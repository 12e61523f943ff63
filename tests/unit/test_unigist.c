/* UniGist over a text of many pages: eviction changes nothing, chunks of any size give the same bits, memory does not grow with the text
 * but for its gists, and what is kept for a query is the window. */
#include "golden/tiny.h"

#include <math.h>

#include "base/rng.h"
#include "encode/sequence.h"
#include "query/interleave.h"
#include "unit.h"

enum { N = 700, VOCAB = 160 };
static const char *const folder = "tests/golden/tiny-llama";
static tiny_t tiny;
static int32_t tokens[4 * N];
static float one[N * VOCAB], two[N * VOCAB];

static void open_tiny(dtype_t act) {
    rng_t r = {5};
    for (int i = 0; i < 4 * N; i++) tokens[i] = (int32_t)rng_below(&r, VOCAB);
    CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, folder, backend_tested, act, 2, 8), ST_OK);
}

static status_t take_rows(void *ctx, int64_t at, int64_t n, const float *logits) {
    memcpy((float *)ctx + at * VOCAB, logits, (size_t)(n * VOCAB) * sizeof *logits);
    return ST_OK;
}

static sequence_spec_t spec_with(int64_t ratio, int64_t window, int64_t max_row) {
    return (sequence_spec_t){.layout = LAYOUT_UNIGIST,
                             .kept = {.gist = {.ratio = ratio, .window = window}, .init = GIST_UNIT, .n_blank = 4},
                             .align = ALIGN_LEFT,
                             .segment = N,
                             .max_row = max_row};
}

static void run(const sequence_spec_t *s, float *to) {
    CU_ASSERT_EQUAL(sequence_logits(tiny.model, tiny.own, s, tokens, N, take_rows, to), ST_OK);
}

static void test_eviction(void) { /* against a pool that keeps all rows */
    const int64_t ratio[] = {1, 5, 8, 32}, window[] = {3, 20, 512, 0};
    open_tiny(DT_F32);
    for (int i = 0; i < 4; i++) {
        sequence_spec_t s = spec_with(ratio[i], window[i], 100);
        double worst = 0;
        run(&s, one);
        s.layout = LAYOUT_BLOCKGIST;
        run(&s, two);
        for (int j = 0; j < N * VOCAB; j++) worst = fmax(worst, fabs((double)one[j] - (double)two[j]));
        CU_ASSERT(worst < 1e-3);
    }
    tiny_close(&tiny);
}

static void test_chunks(void) {
    for (int act = 0; act < 2; act++) {
        open_tiny(act ? DT_BF16 : DT_F32);
        sequence_spec_t s = spec_with(8, 64, 2 * N);
        run(&s, one);
        for (s.max_row = 9; s.max_row < 400; s.max_row += 97) {
            memset(two, 0, sizeof two);
            run(&s, two);
            CU_ASSERT_EQUAL(memcmp(one, two, sizeof one), 0);
        }
        tiny_close(&tiny);
    }
}

/* An encoding of n tokens: its tail pool against the keys of a run that kept all; returns the bytes that the encoder took. */
static size_t encode(int64_t n, int64_t max_row, bool evict, kv_pool_t *raw, kv_pool_t *gists) {
    gist_spec_t g = {.ratio = 8, .window = 128};
    encoder_spec_t s = {.n_blank = 4, .align = ALIGN_LEFT, .max_row = max_row, .gist = g, .gist_init = GIST_UNIT, .evict = evict};
    const model_config_t *c = model_config(tiny.model);
    encoder_t *e = NULL;
    size_t before = mem_now_bytes();
    CU_ASSERT_EQUAL_FATAL(encoder_create(tiny.model, tiny.own, &s, &e), ST_OK);
    size_t took = mem_now_bytes() - before;
    CU_ASSERT_EQUAL(kv_alloc(tiny.be, c, tiny.be->act, evict ? encoder_tail(&g, n) : n, "raw rows", raw), ST_OK);
    CU_ASSERT_EQUAL(kv_alloc(tiny.be, c, tiny.be->act, gist_count(&g, n), "gists", gists), ST_OK);
    piece_t p = {.tokens = tokens, .n = n, .pool = *raw, .gist_pool = *gists};
    before = mem_now_bytes();
    CU_ASSERT_EQUAL(encoder_run(e, &p, 1), ST_OK);
    took += mem_now_bytes() - before;
    encoder_free(e);
    return took;
}

static void test_tail(void) {
    open_tiny(DT_F32);
    for (int64_t n = 5; n <= N; n += 231) {
        kv_pool_t raw, tail, gists, more;
        encode(n, 90, false, &raw, &gists);
        encode(n, 90, true, &tail, &more);
        int64_t from = n - tail.n_row;
        CU_ASSERT(from % 8 == 0 && (from == 0 || (tail.n_row >= 128 && tail.n_row < 136)));
        size_t bytes = kv_bytes(model_config(tiny.model), DT_F32, n), some = kv_bytes(model_config(tiny.model), DT_F32, tail.n_row);
        float *k[2] = {memory_copy(tiny.be, raw.k, bytes), memory_copy(tiny.be, tail.k, some)};
        float *v[2] = {memory_copy(tiny.be, raw.v, bytes), memory_copy(tiny.be, tail.v, some)};
        double worst = 0;
        for (int64_t x = 0; x < 4; x++) /* layers x heads */
            for (int64_t i = 0; i < tail.n_row * 16; i++) {
                int64_t a = (x * n + from) * 16 + i, b = x * tail.n_row * 16 + i;
                worst = fmax(worst, fabs((double)k[0][a] - (double)k[1][b]));
                worst = fmax(worst, fabs((double)v[0][a] - (double)v[1][b]));
            }
        CU_ASSERT(worst < 1e-4);
        for (int i = 0; i < 2; i++) free(k[i]), free(v[i]);
        kv_free(tiny.be, &raw);
        kv_free(tiny.be, &tail);
        kv_free(tiny.be, &gists);
        kv_free(tiny.be, &more);
    }
    tiny_close(&tiny);
}

static void test_memory(void) { /* four times the text: the same memory */
    open_tiny(DT_F32);
    kv_pool_t raw, gists;
    size_t took[2];
    for (int i = 0; i < 2; i++) {
        took[i] = encode(i ? 4 * N : N, 64, true, &raw, &gists);
        kv_free(tiny.be, &raw);
        kv_free(tiny.be, &gists);
    }
    CU_ASSERT(took[0] > 0 && took[1] <= took[0] + 4096);
    tiny_close(&tiny);
}

/* A sequence that grows, a few tokens at a time and then one by one, gives the logits of the whole. */
static void test_growing(void) {
    static const int64_t starts[] = {1, 7, 8, 13, 300};
    for (int act = 0; act < 2; act++) {
        open_tiny(act ? DT_BF16 : DT_F32);
        sequence_spec_t s = spec_with(8, 64, 2 * N);
        run(&s, one);
        interleave_spec_t spec = {.kept = &s.kept, .max_row = 50};
        interleave_t *grow = NULL;
        CU_ASSERT_EQUAL_FATAL(interleave_create(tiny.model, &spec, N, &grow), ST_OK);
        for (int i = 0; i < 5; i++) {
            interleave_begin(grow);
            for (int64_t at = 0, n = starts[i], wrong = 0; at < N - 20; at += n, n = at < 2 * starts[i] + 20 ? 5 : 1) {
                CU_ASSERT_EQUAL_FATAL(interleave_feed(grow, tokens + at, n, two), ST_OK);
                wrong += memcmp(two, one + (at + n - 1) * VOCAB, VOCAB * sizeof *one) != 0;
                CU_ASSERT_EQUAL_FATAL(wrong, 0);
            }
        }
        CU_ASSERT_EQUAL(interleave_feed(grow, tokens, N, two), ST_FAIL); /* more than it was made for */
        interleave_free(grow);
        tiny_close(&tiny);
    }
}

UNIT_MAIN("unigist", {"growing", test_growing}, {"eviction", test_eviction}, {"chunks", test_chunks}, {"tail", test_tail},
          {"memory", test_memory})
