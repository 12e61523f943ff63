/* K/V in host memory, two layers at a time on the device, have the bits of K/V on the device, whatever the layout and the passes; and a
 * whole encoding chooses the host by itself when its documents do not fit. */
#include <sys/stat.h>
#include <unistd.h>

#include "encode/encoder.h"
#include "golden/deep.h"
#include "unit.h"

enum { N = 700, ALL = -1, MAX_SEGMENT = 16, WINDOW = 150, WHOLE = 1 << 20 };

static const deep_case_t cases[] = {
    {.layout = LAYOUT_FULL, .segment = N, .window = ALL},
    {.layout = LAYOUT_FULL, .segment = 96, .window = ALL, .n_blank = 3},
    {.layout = LAYOUT_FINE_KV, .segment = 60, .ratio = 4, .window = ALL, .n_blank = 2},
    {.layout = LAYOUT_FINE_KV, .segment = 300, .ratio = 8, .window = 16, .compact = true},
    {.layout = LAYOUT_COARSE_KV, .segment = 100, .ratio = 4, .window = ALL, .n_blank = 4},
    {.layout = LAYOUT_COARSE_REC, .segment = 100, .ratio = 4, .window = ALL, .n_blank = 1},
    {.layout = LAYOUT_COARSE_REC, .segment = 120, .ratio = 8, .window = ALL, .compact = true},
    {.layout = LAYOUT_UNIGIST, .segment = N, .ratio = 4, .window = 16, .n_blank = 4},
    {.layout = LAYOUT_UNIGIST, .segment = N, .ratio = 8, .window = 304},
    {.layout = LAYOUT_BLOCKGIST, .segment = 200, .ratio = 4, .window = ALL, .n_blank = 2},
    {.layout = LAYOUT_PCE, .segment = N, .window = ALL, .n_blank = 2},
    {.layout = LAYOUT_STAR, .segment = 96, .window = ALL, .n_blank = 2},
};
enum { N_CASE = sizeof cases / sizeof *cases };

/* A GPU gives memory by 2 MiB: texts, and what there is for them, are longer there. */
static size_t scale(void) { return device_is_gpu() ? 4 : 1; }

/* A model without a sliding window, one with, and texts. */
static char dir[SCRATCH_PATH], sliding[SCRATCH_PATH + 16];
static void make_folder(void) {
    if (*dir) return;
    scratch_dir(dir, SCRATCH_DISK);
    snprintf(sliding, sizeof sliding, "%s/sliding", dir);
    CU_ASSERT_FATAL(mkdir(sliding, 0777) == 0);
    deep_make(dir, 0);
    deep_make(sliding, WINDOW);
    deep_text(dir, "text.txt", 1200 * (int)scale(), 9);
    deep_text(dir, "short.txt", 10, 10);
}
static const char *file(const char *name) {
    static char each[4][SCRATCH_PATH + 64];
    static int at;
    char *out = each[at++ % 4];
    snprintf(out, sizeof *each, "%s/%s", dir, name);
    return out;
}

static tiny_t tiny;
static int32_t tokens[N];

/* All segments of the text; K/V of the raw rows (the last ones under UniGist) and of the gists into pools of device or host memory. */
typedef struct {
    kv_pool_t raw[MAX_SEGMENT], gists[MAX_SEGMENT];
    int64_t n;
} result_t;

static status_t run_case(const deep_case_t *c, int64_t max_row, bool spilled, result_t *r) {
    kept_t k = deep_kept(c);
    const layout_info_t *info = layout_info(c->layout);
    encoder_spec_t spec = {.n_blank = c->n_blank,
                           .align = info->chained ? ALIGN_SEQUENTIAL : ALIGN_LEFT,
                           .max_row = max_row,
                           .gist = k.gist,
                           .recurrent = k.recurrent,
                           .compact = k.compact,
                           .evict = info->whole};
    encoder_t *e = NULL;
    status_t (*alloc)(backend_t *, const model_config_t *, dtype_t, int64_t, const char *, kv_pool_t *) =
        spilled ? kv_alloc_host : kv_alloc;
    status_t st = encoder_create(tiny.model, tiny.own, &spec, &e);
    if (!st) st = encoder_spill(e, spilled);
    for (int64_t at = 0; at < N && !st; at += c->segment, r->n++) {
        int64_t n = i64_min(c->segment, N - at);
        st = alloc(tiny.be, model_config(tiny.model), tiny.be->act, info->whole ? encoder_tail(&k.gist, n) : n, "test", &r->raw[r->n]);
        if (!st) st = alloc(tiny.be, model_config(tiny.model), tiny.be->act, gist_count(&k.gist, n), "test", &r->gists[r->n]);
        piece_t p = {.tokens = tokens + at,
                     .n = n,
                     .before = info->chained ? at : 0,
                     .chain = k.gist.ratio ? r->gists : r->raw,
                     .n_chain = (int)layout_continues(info, r->n),
                     .pool = r->raw[r->n],
                     .gist_pool = r->gists[r->n]};
        if (!st) st = encoder_run(e, &p, 1);
        if (!st) st = kept_remember(&k, e, tiny.model, &p);
    }
    if (!st) st = tiny.be->ops->sync(tiny.be);
    encoder_free(e);
    return st;
}

static void result_free(result_t *r, bool spilled) {
    for (int64_t s = 0; s < r->n; s++) {
        (spilled ? kv_free_host : kv_free)(tiny.be, &r->raw[s]);
        (spilled ? kv_free_host : kv_free)(tiny.be, &r->gists[s]);
    }
    *r = (result_t){0};
}

/* A pool on the device and one in host memory. */
static bool pools_equal(const kv_pool_t *device, const kv_pool_t *host) {
    size_t bytes = kv_bytes(model_config(tiny.model), tiny.be->act, device->n_row);
    if (device->n_row != host->n_row || !bytes) return device->n_row == host->n_row;
    void *k = memory_copy(tiny.be, device->k, bytes), *v = memory_copy(tiny.be, device->v, bytes);
    bool same = !memcmp(k, host->k, bytes) && !memcmp(v, host->v, bytes);
    free(k);
    free(v);
    return same;
}

static void bits_of(const deep_case_t *c, const char *model, dtype_t act) {
    static const int64_t rows[] = {33, 1024};
    result_t want = {0};
    CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, model, device_create(), act, 1, 8), ST_OK);
    CU_ASSERT_EQUAL(run_case(c, 100, false, &want), ST_OK);
    for (int p = 0; p < 2; p++) {
        result_t got = {0};
        CU_ASSERT_EQUAL(run_case(c, rows[p], true, &got), ST_OK);
        CU_ASSERT_EQUAL(got.n, want.n);
        bool same = true;
        for (int64_t s = 0; s < got.n; s++)
            same = same && pools_equal(&want.raw[s], &got.raw[s]) && pools_equal(&want.gists[s], &got.gists[s]);
        if (!same) fprintf(stderr, "case %d, %s, passes of %lld rows: other bits\n", (int)(c - cases), dtype_name(act), (long long)rows[p]);
        CU_ASSERT(same);
        result_free(&got, true);
    }
    result_free(&want, false);
    tiny_close(&tiny);
}

static void test_bits(void) {
    rng_t rng = {5};
    make_folder();
    for (int i = 0; i < N; i++) tokens[i] = (int32_t)rng_below(&rng, DEEP_VOCAB);
    for (int i = 0; i < N_CASE; i++) bits_of(&cases[i], dir, i % 2 ? DT_BF16 : DT_F32);
}

/* A model's sliding window, narrower than a slice and wider: what a pass sees of a pool is then not all of it. */
static void test_window(void) {
    make_folder();
    bits_of(&cases[0], sliding, DT_F32);
    bits_of(&cases[1], sliding, DT_BF16);
    bits_of(&cases[10], sliding, DT_F32);
}

/* ---- the whole job ---------------------------------------------------------------------------------------------- */
/* Encodes both texts with so much memory beyond what others have; the store's digest, and whether K/V went to the host. */
static status_t encode_with(const deep_case_t *c, const char *model, const char *what, size_t memory, hash_t *digest, bool *spilled) {
    static size_t taken;
    const char *const inputs[] = {file("text.txt"), file("short.txt")};
    char name[64];
    int64_t n;
    encode_report_t report;
    comm_t *self;
    if (!taken) taken = device_taken();
    device_limit(taken + memory);
    snprintf(name, sizeof name, "store-%s-%zu", what, memory);
    CU_ASSERT_EQUAL_FATAL(comm_self_create(&self), ST_OK);
    deep_job_t job = {.dir = model, .comm = self, .inputs = inputs, .n_input = 2, .store = file(name), .c = c, .max_row = 64};
    status_t st = deep_encode(&job, &report);
    if (!st) *spilled = report.n_spilled > 0;
    if (!st) CU_ASSERT_EQUAL(store_digest(job.store, digest, &n), ST_OK);
    self->ops->close(self);
    return st;
}

/* With less and less memory an encoding never gives other bits, nor fails before it takes host memory, and then not before two layers are
 * too much. */
static void less_and_less(const deep_case_t *c, const char *model, const char *what) {
    hash_t plenty = {0}, less = {0};
    bool spilled = false;
    status_t st = encode_with(c, model, what, (size_t)1 << 30, &plenty, &spilled);
    CU_ASSERT(!st && !spilled && (plenty.lo | plenty.hi));
    for (size_t memory = scale() << 22; !st && memory > 1 << 19; memory -= memory / (scale() > 1 ? 3 : 5)) { /* a GPU starts slowly */
        st = encode_with(c, model, what, memory, &less, &spilled);
        bool right = st ? spilled && strstr(status_message(), "two layers of the K/V") : hash_equal(plenty, less);
        if (!right) fprintf(stderr, "%s with %zu bytes: %s\n", what, memory, st ? status_message() : "other bits");
        CU_ASSERT(right);
    }
    CU_ASSERT(spilled && st);
}

static void test_job(void) {
    static const int which[] = {1, 4, 7, 8, 10, 11};
    make_folder();
    for (int x = 0; x < (int)(sizeof which / sizeof *which); x++) {
        char what[16];
        deep_case_t c = cases[which[x]];
        if (c.segment == N) c.segment = WHOLE; /* the text in one piece */
        snprintf(what, sizeof what, "%d", which[x]);
        less_and_less(&c, dir, what);
    }
    less_and_less(&cases[1], sliding, "window");
}

/* Rows are chosen from K/V in host memory as from those on the device, by every score. */
static void test_select(void) {
    static const deep_case_t selects[] = {
        {.layout = LAYOUT_BLOCKSELECT, .segment = WHOLE, .select = 4, .by = SCORE_KNORM, .n_blank = 2},
        {.layout = LAYOUT_BLOCKSELECT, .segment = WHOLE, .select = 4, .by = SCORE_SNAPKV, .raw = true},
        {.layout = LAYOUT_BLOCKSELECT, .segment = WHOLE, .select = 4, .by = SCORE_OBSERVED, .n_blank = 5},
        {.layout = LAYOUT_BLOCKSELECT, .segment = WHOLE, .select = 4, .by = SCORE_EXPECTED},
        {.layout = LAYOUT_BLOCKSELECT, .segment = WHOLE, .select = 4, .by = SCORE_RECONSTRUCT, .n_blank = 5},
    };
    make_folder();
    for (int i = 0; i < (int)(sizeof selects / sizeof *selects); i++) {
        char what[32];
        snprintf(what, sizeof what, "select%d", i);
        less_and_less(&selects[i], dir, what);
    }
}

UNIT_MAIN("spill", {"bits", test_bits}, {"window", test_window}, {"job", test_job}, {"select", test_select})
