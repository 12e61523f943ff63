#include "model/rope.h"

#include <math.h>

#include "backend/backend.h"

/* Llama 3.1's stretching: frequencies that turn often within the old context stay, those that turn seldom are divided by `factor`, smooth
 * between. */
static double llama3_stretch(const model_config_t *c, double freq) {
    const double pi = 3.14159265358979323846;
    double turns = (double)c->rope_old_ctx * freq / (2 * pi);
    if (turns < c->rope_low) return freq / c->rope_factor;
    if (turns > c->rope_high) return freq;
    double keep = (turns - c->rope_low) / (c->rope_high - c->rope_low);
    return (1 - keep) * freq / c->rope_factor + keep * freq;
}

void rope_inv_freq(const model_config_t *c, const float *factors, double *out) {
    for (int64_t j = 0; j < c->d_rot / 2; j++) {
        double freq = pow(c->rope_theta, -2.0 * (double)j / (double)c->d_rot);
        if (factors)
            freq /= (double)factors[j];
        else if (c->rope_scaling == ROPE_LINEAR)
            freq /= c->rope_factor;
        else if (c->rope_scaling == ROPE_LLAMA3)
            freq = llama3_stretch(c, freq);
        out[j] = freq;
    }
}

void rope_cos_sin(const double *inv_freq, int64_t d_rot, int64_t n_row, const double *positions, float *out) {
    backend_rope(n_row, d_rot, positions, inv_freq, out);
}
