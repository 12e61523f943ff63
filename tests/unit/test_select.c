/* Selection against hand-made scores, and sampling against counts. */
#include "unit.h"

#include <math.h>

#include "query/generate.h"
#include "query/select.h"

static void test_log_sum(void) {
    const float x[] = {0, 0, -INFINITY, 1};
    CU_ASSERT_DOUBLE_EQUAL(select_log_sum(x, 4), log(2 + exp(1)), 1e-6);
    CU_ASSERT(select_log_sum(x + 2, 1) == -INFINITY);
    const float big[] = {1000, 1000};
    CU_ASSERT_DOUBLE_EQUAL(select_log_sum(big, 2), 1000 + log(2), 1e-4);
}

/* score[piece][row][head] for 3 pieces, 2 rows, 2 heads; L = 0 everywhere */
static const float score[12] = {-1, -2, -3, -4, /**/ -2, -1, -1, -5, /**/ -3, -3, -2, -1};
static const float total[4] = {0, 0, 0, 0};

static void choose(aggregate_t agg, int64_t k, uint8_t *keep) {
    float scratch[6];
    memset(keep, 9, 12);
    select_pieces(agg, k, 3, 2, 2, 0, 2, score, total, keep, scratch);
}

static void test_axes(void) {
    uint8_t keep[12];
    choose(AGG_NONE, 1, keep); /* (row 0: head 0 -> piece 0, head 1 -> piece 1; row 1: piece 1, piece 2) */
    static const uint8_t none[12] = {1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1};
    CU_ASSERT_EQUAL(memcmp(keep, none, 12), 0);
    choose(AGG_HEAD, 1, keep); /* row 0: e^-1+e^-2 for pieces 0 and 1: the tie goes to the earlier; row 1: e^-2+e^-1 for piece 2 is most */
    static const uint8_t head[12] = {1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1};
    CU_ASSERT_EQUAL(memcmp(keep, head, 12), 0);
    choose(AGG_TOKEN, 1, keep); /* head 0: piece 1 (e^-2+e^-1); head 1: piece 2 (e^-3+e^-1) over piece 1 (e^-1+e^-5) */
    static const uint8_t token[12] = {0, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1};
    CU_ASSERT_EQUAL(memcmp(keep, token, 12), 0);
    choose(AGG_BOTH, 2, keep);
    static const uint8_t both[12] = {0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    CU_ASSERT_EQUAL(memcmp(keep, both, 12), 0);
    choose(AGG_NONE, 3, keep); /* all stay */
    for (int i = 0; i < 12; i++) CU_ASSERT_EQUAL(keep[i], 1);
}

static void test_top_five(void) { /* six values along the axis: the smallest does not count */
    float s[2 * 6], l[6] = {0}, scratch[4];
    uint8_t keep[12];
    for (int i = 0; i < 6; i++) {
        s[i] = logf(0.10f);                      /* 5 largest sum to .50 */
        s[6 + i] = logf(i < 4 ? 0.12f : 0.005f); /* .48 + .005, though with the sixth it is no more */
    }
    s[5] = logf(0.0001f); /* piece 0: .50 from five */
    select_pieces(AGG_TOKEN, 1, 2, 6, 1, 0, 6, s, l, keep, scratch);
    CU_ASSERT(keep[0] == 1 && keep[6] == 0);
}

static void test_sample(void) {
    float logits[4] = {1, 3, 3, -2}, prob[4];
    int32_t order[4], count[4] = {0};
    rng_t r = {5};
    CU_ASSERT_EQUAL(sample_token(logits, 4, 0, 1, &r, prob, order), 1); /* first of equals */
    for (int i = 0; i < 20000; i++) count[sample_token(logits, 4, 1, 1, &r, prob, order)]++;
    double z = exp(1) + 2 * exp(3) + exp(-2);
    CU_ASSERT(fabs(count[0] / 20000. - exp(1) / z) < 0.01);
    CU_ASSERT(fabs(count[1] / 20000. - exp(3) / z) < 0.02);
    memset(count, 0, sizeof count);
    for (int i = 0; i < 5000; i++) count[sample_token(logits, 4, 1, 0.9, &r, prob, order)]++; /* the two likeliest hold .94 */
    CU_ASSERT(count[0] == 0 && count[3] == 0 && count[1] > 2000 && count[2] > 2000);
    memset(count, 0, sizeof count);
    for (int i = 0; i < 100; i++) count[sample_token(logits, 4, 1, 1e-6, &r, prob, order)]++; /* the smallest nucleus is one token */
    CU_ASSERT_EQUAL(count[1], 100);
    rng_t x = {9}, y = {9};
    for (int i = 0; i < 50; i++)
        CU_ASSERT_EQUAL(sample_token(logits, 4, 0.7, 0.95, &x, prob, order), sample_token(logits, 4, 0.7, 0.95, &y, prob, order));
}

UNIT_MAIN("select", {"log sum", test_log_sum}, {"axes", test_axes}, {"top five", test_top_five}, {"sample", test_sample})
