/* Frequencies against values worked out by hand, and rotation angles at positions where f32 arithmetic would be off. */
#include <math.h>

#include "model/rope.h"
#include "unit.h"

static model_config_t config(rope_scaling_t scaling) {
    return (model_config_t){
        .d_rot = 8, .rope_theta = 10000, .rope_scaling = scaling, .rope_factor = 4, .rope_low = 1, .rope_high = 4, .rope_old_ctx = 128};
}
static bool near(double a, double b) { return fabs(a - b) <= 1e-12 * fabs(b); }

static void test_plain_and_linear(void) {
    const double want[] = {1, 0.1, 0.01, 0.001};
    double f[4];
    model_config_t plain = config(ROPE_NONE), linear = config(ROPE_LINEAR);
    rope_inv_freq(&plain, NULL, f);
    for (int j = 0; j < 4; j++) CU_ASSERT(near(f[j], want[j]));
    rope_inv_freq(&linear, NULL, f);
    for (int j = 0; j < 4; j++) CU_ASSERT(near(f[j], want[j] / 4));
}

/* Turns within 128 rows: 20.4 (kept), 2.04 (between 1 and 4), 0.204 and 0.0204 (divided). */
static void test_llama3(void) {
    double f[4], keep = (128 * 0.1 / (2 * acos(-1.0)) - 1) / 3;
    model_config_t c = config(ROPE_LLAMA3);
    rope_inv_freq(&c, NULL, f);
    CU_ASSERT(near(f[0], 1));
    CU_ASSERT(near(f[1], 0.1 * keep + 0.1 / 4 * (1 - keep)));
    CU_ASSERT(near(f[2], 0.01 / 4));
    CU_ASSERT(near(f[3], 0.001 / 4));
}

/* Factors of a GGUF file divide, whatever constants there are. */
static void test_factors(void) {
    const float factors[] = {1, 2, 4, 8};
    double f[4];
    model_config_t c = config(ROPE_LLAMA3);
    rope_inv_freq(&c, factors, f);
    CU_ASSERT(near(f[0], 1) && near(f[1], 0.05) && near(f[2], 0.0025) && near(f[3], 0.000125));
}

static void test_cos_sin(void) {
    const double inv_freq[] = {1, 0.3}, positions[] = {0, 1, 2.5, 1e6};
    float out[4][4];
    rope_cos_sin(inv_freq, 4, 1, 4, positions, &out[0][0]);
    for (int t = 0; t < 4; t++)
        for (int j = 0; j < 2; j++) {
            CU_ASSERT_EQUAL(out[t][j], (float)cos(positions[t] * inv_freq[j]));
            CU_ASSERT_EQUAL(out[t][2 + j], (float)sin(positions[t] * inv_freq[j]));
        }
    CU_ASSERT(out[0][0] == 1 && out[0][1] == 1 && out[0][2] == 0 && out[0][3] == 0);
}

UNIT_MAIN("rope", {"plain_and_linear", test_plain_and_linear}, {"llama3", test_llama3}, {"factors", test_factors},
          {"cos_sin", test_cos_sin})
