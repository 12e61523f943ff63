/* What `precis eval ppl` reports, on a tiny model: the reference switch agrees under every layout, sums by position and by head add up to
 * the totals, full attention agrees with itself, and bytes are those of the layout. */
#include "golden/tiny.h"

#include <math.h>

#include "base/rng.h"
#include "eval/ppl.h"
#include "unit.h"

enum { WINDOW = 97, SCORED = 24, PIECES = 3, LAYERS = 2, KV_HEADS = 2, D = 16, Q_HEADS = 4, VOCAB = 160, N_WINDOW = 2 };
static const char *const folder = "tests/golden/tiny-llama";
static tiny_t tiny;
static int32_t tokens[N_WINDOW * WINDOW];

static ppl_spec_t spec_of(layout_method_t layout) {
    static const int32_t sink[] = {3, 1, 4}, repeat[] = {8, 9, 10};
    const layout_info_t *info = layout_info(layout);
    ppl_spec_t s = {.layout = layout, .window = WINDOW, .score = SCORED, .sink = sink, .n_sink = 3, .align = ALIGN_EVEN, .max_row = 40};
    s.kept = (kept_t){.gist = {.ratio = info->gists ? 4 : 0, .window = info->whole ? 8 : -1, .at_end = info->gists_at_end},
                      .recurrent = info->recurrent,
                      .keep = info->whole                    ? KEEP_TAIL
                              : info->gists || info->selects ? KEEP_GIST
                                                             : KEEP_RAW};
    if (info->selects) s.kept.select.ratio = 4, s.kept.select.budget = BUDGET_HEAD, s.kept.select.by = SCORE_RECONSTRUCT;
    s.repeat = repeat;
    s.n_repeat = 3;
    s.attend.want_entropy = true;
    return s;
}

static void open_all(void) {
    rng_t r = {5};
    for (int i = 0; i < N_WINDOW * WINDOW; i++) tokens[i] = (int32_t)rng_below(&r, VOCAB);
    CU_ASSERT_EQUAL_FATAL(tiny_open(&tiny, folder, backend_tested, DT_F32, 2, 8), ST_OK);
}

static ppl_row_t run(const ppl_spec_t *s) {
    ppl_row_t row;
    status_t st = ppl_run(tiny.model, tiny.own, s, tokens, N_WINDOW, PIECES, &row);
    if (st) fprintf(stderr, "%s: %s\n", layout_info(s->layout)->name, status_message());
    CU_ASSERT_EQUAL(st, ST_OK);
    return row;
}

/* Row by row and key by key, sharing nothing with the spans. The model's logits are large: what is seen moves the loss by whole nats. */
static void test_rule(void) {
    static const layout_method_t layouts[] = {LAYOUT_FULL,      LAYOUT_PCE,     LAYOUT_BLOCKGIST,   LAYOUT_FINE_KV,
                                              LAYOUT_COARSE_KV, LAYOUT_UNIGIST, LAYOUT_BLOCKSELECT, LAYOUT_STAR};
    open_all();
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        for (int64_t max_row = 9; max_row < 200; max_row += 91) {
            ppl_spec_t s = spec_of(layouts[i]);
            s.max_row = max_row;
            double nll = run(&s).nll;
            s.attend.by_rule = true;
            double again = run(&s).nll;
            if (!(fabs(nll - again) < 1e-2))
                fprintf(stderr, "%s in %d rows: %g and %g\n", layout_info(s.layout)->name, (int)max_row, nll, again);
            CU_ASSERT(fabs(nll - again) < 1e-2);
        }
    tiny_close(&tiny);
}

static void test_sums(void) {
    open_all();
    for (int l = 0; l < LAYOUT_COUNT; l++) {
        ppl_spec_t s = spec_of((layout_method_t)l);
        if (layout_info(s.layout)->streams) s.kept.gist.window = 20, s.kept.n_blank = 4, s.n_sink = 0;
        double alone = run(&s).nll;
        s.by_position = s.by_head = s.agree = true;
        ppl_row_t row = run(&s);
        double scored = 0, entropy = 0;
        int64_t n = 0, context = 0;
        CU_ASSERT(fabs(alone - row.nll) < 1e-9 * alone && row.n_token == N_WINDOW * SCORED);
        for (int b = 0; b < PPL_BINS; b++) {
            scored += row.scored[b].nll;
            n += row.scored[b].n;
            context += row.context[b].n;
            CU_ASSERT(!row.context[b].n || (row.context[b].nll > 0 && row.context[b].nll < 200 * (double)row.context[b].n));
        }
        CU_ASSERT(fabs(scored - row.nll) < 1e-6 && n == row.n_token && context == N_WINDOW * (WINDOW - SCORED - 1));
        for (int x = 0; x < LAYERS * Q_HEADS; x++) entropy += row.by_head[x] / (LAYERS * Q_HEADS);
        CU_ASSERT(layout_info(s.layout)->streams ? isnan(row.entropy) : fabs(entropy - row.entropy) < 1e-9);
        CU_ASSERT(row.agree.kl > -1e-6 && row.agree.same <= (double)row.n_token && row.kv_bytes > 0);
        mem_free(row.by_head);
    }
    tiny_close(&tiny);
}

/* Full attention in slices is full attention; PCE is not; pieces see nothing of each other under PCE, and of full attention all before. */
static void test_agree(void) {
    open_all();
    ppl_spec_t full = spec_of(LAYOUT_FULL), pce = spec_of(LAYOUT_PCE);
    full.agree = pce.agree = true;
    full.n_sink = pce.n_sink = 0;
    ppl_row_t a = run(&full), b = run(&pce);
    int64_t each = 2 * LAYERS * KV_HEADS * D * 4;
    CU_ASSERT(fabs(a.agree.kl) < 1e-4 && a.agree.same == N_WINDOW * SCORED && fabs(a.agree.nll_full - a.nll) < 1e-3);
    CU_ASSERT(fabs(b.nll - a.nll) > 1 && b.agree.kl > a.agree.kl && fabs(b.agree.nll_full - a.nll) < 1e-3);
    CU_ASSERT_EQUAL(a.kv_bytes, 72 * each);
    CU_ASSERT_EQUAL(a.move_bytes, (24 + 48) * each);
    CU_ASSERT(b.kv_bytes == 72 * each && b.move_bytes == 0);
    tiny_close(&tiny);
}

UNIT_MAIN("ppl", {"rule", test_rule}, {"sums", test_sums}, {"agree", test_agree})
