/* Weights packed by all ranks of a node together are those that one rank packs alone; what fails on one rank fails on all, and nobody
 * waits. */
#include "golden/tiny.h"

#include "parallel.h"

enum { N_ROW = 20, N_VOCAB = 160 };
static const char *const models[] = {"tests/golden/tiny-llama", "tests/golden/tiny-llama31/model.gguf", "tests/golden/tiny-qwen2"};

static status_t logits_of(tiny_t *t, float *out) {
    int32_t tokens[N_ROW];
    for (int i = 0; i < N_ROW; i++) tokens[i] = (i * 37 + 5) % N_VOCAB;
    return tiny_feed(t, tokens, N_ROW, out);
}

static void test_shared_weights(void) {
    static float alone[N_ROW * N_VOCAB], shared[N_ROW * N_VOCAB];
    for (int i = 0; i < 3 * 2; i++) {
        dtype_t act = i / 3 ? DT_BF16 : DT_F32;
        tiny_t a, s;
        status_t st = tiny_open(&a, models[i % 3], backend_create_cpu, act, 1, N_ROW);
        if (!st) st = logits_of(&a, alone);
        CU_ASSERT_EQUAL(st, ST_OK);
        tiny_close(&a);
        st = tiny_open_on(&s, comm, models[i % 3], backend_create_cpu, act, 1, N_ROW);
        if (!st) st = logits_of(&s, shared);
        CU_ASSERT_EQUAL(st, ST_OK);
        CU_ASSERT(!memcmp(alone, shared, sizeof alone));
        tiny_close(&s);
    }
}

static void test_different_files(void) {
    tiny_t t;
    status_t st = tiny_open_on(&t, comm, models[comm->rank == comm->size - 1], backend_create_cpu, DT_F32, 1, N_ROW);
    CU_ASSERT_EQUAL(st, comm->size == 1 ? ST_OK : ST_INPUT);
    if (st) CU_ASSERT(strstr(status_message(), "different weights") != NULL);
    tiny_close(&t);
}

/* The n-th allocation of the last rank fails while the model is loaded. */
static void test_one_rank_fails(void) {
    for (int n = 1; n < 60; n += 3) {
        tiny_t t = {0};
        CU_ASSERT_EQUAL(model_file_open(models[0], &t.file), ST_OK);
        CU_ASSERT_EQUAL(backend_create_cpu(DT_BF16, 1, &t.be), ST_OK);
        if (comm->rank == comm->size - 1) mem_fail_at(n);
        status_t st = model_load(t.file, t.be, comm, &t.model);
        mem_fail_at(0);
        CU_ASSERT(st == ST_OK || st == ST_FAIL);
        int64_t worst[2] = {(int64_t)st, -(int64_t)st};
        CU_ASSERT_EQUAL(comm->ops->max_i64(comm, worst, 2), ST_OK);
        CU_ASSERT_EQUAL(worst[0], -worst[1]);
        tiny_close(&t);
    }
}

PARALLEL_MAIN("model", {"shared_weights", test_shared_weights}, {"different_files", test_different_files},
              {"one_rank_fails", test_one_rank_fails})
