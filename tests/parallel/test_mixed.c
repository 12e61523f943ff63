/* Ranks with unlike backends in one job: each packs weights of its own and has its own bits, they answer with the same tokens, and what
 * would mix bits is refused. */
#include "golden/tiny.h"

#include "base/rng.h"
#include "encode/sequence.h"
#include "parallel.h"
#include "query/generate.h"

enum { N_ROW = 20, N_VOCAB = 160, N_TOKEN = 60 };
static const char *const path = "tests/golden/tiny-llama";

/* Rank r's backend and number type: neighbours are unlike, in memory, in packing or in type. */
static backend_create_t create_of(int rank) {
    static const backend_create_t each[] = {backend_create_cpu, locked_create, backend_create_cpu_ref, backend_create_cpu};
    return each[rank % 4];
}
static dtype_t type_of(int rank) { return rank % 4 == 3 ? DT_BF16 : DT_F32; }

static status_t logits_of(tiny_t *t, float *out) {
    int32_t tokens[N_ROW];
    for (int i = 0; i < N_ROW; i++) tokens[i] = (i * 37 + 5) % N_VOCAB;
    return tiny_feed(t, tokens, N_ROW, out);
}

static void test_own_weights(void) {
    static float alone[N_ROW * N_VOCAB], together[N_ROW * N_VOCAB];
    tiny_t a, t;
    backend_create_t create = create_of(comm->rank);
    status_t st = tiny_open(&a, path, create, type_of(comm->rank), 1, N_ROW);
    if (!st) st = logits_of(&a, alone);
    CU_ASSERT_EQUAL(st, ST_OK);
    CU_ASSERT_PTR_NULL(model_mixed(a.model));
    tiny_close(&a);
    st = tiny_open_on(&t, comm, path, create, type_of(comm->rank), 1, N_ROW);
    if (!st) st = logits_of(&t, together);
    CU_ASSERT_EQUAL(st, ST_OK);
    CU_ASSERT(!memcmp(alone, together, sizeof alone));
    CU_ASSERT_EQUAL(model_mixed(t.model) != NULL, comm->size > 1);
    if (comm->size > 1) CU_ASSERT(strstr(model_mixed(t.model), "rank 0 runs on cpu in f32, rank 1 on locked in f32") != NULL);
    tiny_close(&t);
}

/* Types that differ give other logits, so ranks that drew for themselves would soon draw other tokens. */
static status_t done(void *ctx, generation_t *g) {
    (void)ctx, (void)g;
    return ST_OK;
}

static void test_same_tokens(void) {
    tiny_t t;
    context_kv_t none;
    int32_t prompt[] = {5, 42, 79}, first[3][N_TOKEN] = {0};
    generation_t gen[3] = {0};
    dtype_t type = comm->rank % 2 ? DT_BF16 : DT_F32;
    CU_ASSERT_EQUAL(tiny_open_on(&t, comm, path, create_of(comm->rank), type, 1, N_ROW), ST_OK);
    CU_ASSERT_EQUAL(context_deal(t.be, comm, NULL, 0, &none), ST_OK);
    for (int i = 0; i < 3; i++) gen[i] = (generation_t){.prompt = prompt, .n_prompt = 3 - i, .number = i};
    generate_spec_t spec = {.max_tokens = N_TOKEN, .temperature = 10, .top_p = 1, .seed = 7, .batch = 2, .max_row = 8};
    CU_ASSERT_EQUAL(generate(t.model, comm, &none, &spec, NULL, 0, gen, 3, done, NULL), ST_OK);
    for (int i = 0; i < 3; i++) {
        CU_ASSERT_EQUAL(gen[i].ids.n, N_TOKEN);
        if (gen[i].ids.n == N_TOKEN) memcpy(first[i], gen[i].ids.ids, sizeof first[i]);
    }
    CU_ASSERT_EQUAL(comm->ops->bcast(comm, 0, first, sizeof first), ST_OK);
    for (int i = 0; i < 3; i++) {
        CU_ASSERT(gen[i].ids.n == N_TOKEN && !memcmp(first[i], gen[i].ids.ids, sizeof first[i]));
        ids_free(&gen[i].ids);
    }
    context_free(&none);
    tiny_close(&t);
}

static status_t take_rows(void *ctx, int64_t at, int64_t n, const float *logits) {
    (void)at, (void)logits;
    *(int64_t *)ctx += n;
    return ST_OK;
}

/* One document over ranks that are unlike is refused on all of them, at once; apart segments are not. */
static void test_one_document(void) {
    int32_t tokens[300];
    int64_t rows = 0;
    rng_t rng = {3};
    tiny_t t;
    for (int i = 0; i < 300; i++) tokens[i] = (int32_t)rng_below(&rng, N_VOCAB);
    CU_ASSERT_EQUAL(tiny_open_on(&t, comm, path, create_of(comm->rank), DT_F32, 1, N_ROW), ST_OK);
    sequence_spec_t s = {.layout = LAYOUT_FULL, .segment = 100, .max_row = 64, .kept = {.gist = {.window = -1}}};
    status_t st = sequence_logits(t.model, comm, &s, tokens, 300, take_rows, &rows);
    CU_ASSERT_EQUAL(st, comm->size == 1 ? ST_OK : ST_USAGE);
    if (st) CU_ASSERT(strstr(status_message(), "needs the same backend on all") && strstr(status_message(), "rank 1 on locked"));
    s.layout = LAYOUT_PCE;
    rows = 0;
    CU_ASSERT_EQUAL(sequence_logits(t.model, comm, &s, tokens, 300, take_rows, &rows), ST_OK);
    CU_ASSERT_EQUAL(rows, comm->rank ? 0 : 300);
    tiny_close(&t);
}

PARALLEL_MAIN("mixed", {"own_weights", test_own_weights}, {"same_tokens", test_same_tokens}, {"one_document", test_one_document})
