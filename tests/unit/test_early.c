/* Rows of a long segment leave while others are computed (encode/early.c): the same bytes as of segments that leave whole, and nothing of a
 * segment that did not come to its end. */
#include "encode/encoder.h"
#include "golden/deep.h"
#include "unit.h"

enum { ALL = -1, WHOLE = 1 << 20, N_TEXT = 3, ROWS = 64, ROWS_WHOLE = 2048 };

static char dir[SCRATCH_PATH];
static void make_folder(void) {
    static const int length[N_TEXT] = {700, 50, 900}; /* longer than a pass, shorter, longer */
    if (*dir) return;
    scratch_dir(dir, SCRATCH_DISK);
    deep_make(dir, 0);
    for (int i = 0; i < N_TEXT; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d.txt", i);
        deep_text(dir, name, length[i], 20 + i);
    }
}

/* Into a store of that name, in passes of so many rows. */
static status_t encode(const deep_case_t *c, const char *store, int64_t max_row, encode_report_t *report) {
    char files[N_TEXT][SCRATCH_PATH + 16];
    const char *inputs[N_TEXT];
    comm_t *self;
    for (int i = 0; i < N_TEXT; i++) {
        snprintf(files[i], sizeof files[i], "%s/%d.txt", dir, i);
        inputs[i] = files[i];
    }
    CU_ASSERT_EQUAL_FATAL(comm_self_create(&self), ST_OK);
    deep_job_t job = {.dir = dir, .comm = self, .inputs = inputs, .n_input = N_TEXT, .store = store, .c = c, .max_row = max_row};
    status_t st = deep_encode(&job, report);
    self->ops->close(self);
    return st;
}

static void store_name(char out[SCRATCH_PATH + 32], int number, const char *what) {
    snprintf(out, SCRATCH_PATH + 32, "%s/store%d-%s", dir, number, what);
}

static void test_bytes(void) {
    static const struct {
        deep_case_t c;
        bool early;
    } cases[] = {
        {{.layout = LAYOUT_UNIGIST, .segment = WHOLE, .ratio = 4, .window = 16, .n_blank = 4}, true},
        {{.layout = LAYOUT_UNIGIST, .segment = WHOLE, .ratio = 8, .window = 304}, true},
        {{.layout = LAYOUT_BLOCKGIST, .segment = 1000, .ratio = 4, .window = ALL, .n_blank = 2}, true},
        {{.layout = LAYOUT_BLOCKGIST, .segment = 300, .ratio = 8, .window = 16, .raw = true}, true},
        {{.layout = LAYOUT_PCE, .segment = 1000, .window = ALL, .n_blank = 2}, true},
        {{.layout = LAYOUT_PCE, .segment = 100, .window = ALL}, true},
        {{.layout = LAYOUT_FULL, .segment = 1000, .window = ALL}, true},
        {{.layout = LAYOUT_FULL, .segment = 150, .window = ALL, .n_blank = 3}, true}, /* slices of more passes than one */
        {{.layout = LAYOUT_FULL, .segment = 50, .window = ALL}, false},
        {{.layout = LAYOUT_FINE_KV, .segment = 1000, .ratio = 4, .window = ALL, .compact = true}, false}, /* keys move at the end */
        {{.layout = LAYOUT_BLOCKSELECT, .segment = 1000, .select = 4, .by = SCORE_KNORM}, false},
    };
    make_folder();
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        char store[SCRATCH_PATH + 32];
        encode_report_t report;
        hash_t digest[2] = {{0, 0}, {0, 0}};
        int64_t n[2];
        for (int k = 0; k < 2; k++) {
            store_name(store, i, k ? "early" : "whole");
            CU_ASSERT_EQUAL(encode(&cases[i].c, store, k ? ROWS : ROWS_WHOLE, &report), ST_OK);
            CU_ASSERT(k && cases[i].early ? report.n_early > 1 : !report.n_early);
            CU_ASSERT_EQUAL(report.n_spilled, 0);
            CU_ASSERT_EQUAL(store_digest(store, &digest[k], &n[k]), ST_OK);
            CU_ASSERT_EQUAL(store_check(store, NULL, NULL, NULL, NULL), ST_OK);
        }
        CU_ASSERT(n[0] == n[1] && n[0] >= N_TEXT && hash_equal(digest[0], digest[1]));
    }
}

/* Allocations fail, one after another: what is told committed is whole, and the next run makes the rest. */
static void test_failure(void) {
    static const deep_case_t c = {.layout = LAYOUT_UNIGIST, .segment = WHOLE, .ratio = 4, .window = 16};
    char store[SCRATCH_PATH + 32];
    encode_report_t report;
    hash_t want = {0, 0}, got = {0, 0};
    int64_t n, failed = 0, some = 0, at = 200; /* behind what opens the model */
    make_folder();
    store_name(store, 90, "whole");
    CU_ASSERT_EQUAL(encode(&c, store, ROWS, &report), ST_OK);
    CU_ASSERT_EQUAL(store_digest(store, &want, &n), ST_OK);
    for (status_t st = ST_FAIL; st && at < 2000; at += device_is_gpu() ? 40 : 5) /* a GPU starts slowly */ {
        store_name(store, 100 + (int)at, "failed");
        mem_fail_at(at);
        st = encode(&c, store, ROWS, &report);
        mem_fail_at(0);
        failed += st != ST_OK;
        if (store_check(store, NULL, NULL, &n, NULL) == ST_OK) some += n > 0 && n < N_TEXT;
        CU_ASSERT_EQUAL(encode(&c, store, ROWS, &report), ST_OK);
        CU_ASSERT(store_digest(store, &got, &n) == ST_OK && hash_equal(want, got));
    }
    CU_ASSERT(failed > 0 && at < 2000);
    CU_ASSERT(device_is_gpu() || (failed > 10 && some > 1));
}

UNIT_MAIN("early", {"bytes", test_bytes}, {"failure", test_failure})
