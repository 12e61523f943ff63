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

/* YaRN: dimensions that turn more than rope_high times within the old context keep their frequency, those that turn less than rope_low
 * times are divided, and between them a line over the dimension's number. */
typedef struct {
    double low, high;
} ramp_t;

static double yarn_dimension(const model_config_t *c, double turns) {
    const double pi = 3.14159265358979323846;
    return (double)c->d_rot * log((double)c->rope_old_ctx / (turns * 2 * pi)) / (2 * log(c->rope_theta));
}

static ramp_t yarn_ramp(const model_config_t *c) {
    ramp_t r = {yarn_dimension(c, c->rope_high), yarn_dimension(c, c->rope_low)};
    if (c->rope_whole) r = (ramp_t){floor(r.low), ceil(r.high)};
    r.low = fmax(r.low, 0);
    r.high = fmin(r.high, (double)(c->d_rot - 1));
    if (r.low == r.high) r.high += 0.001;
    return r;
}

static double yarn_stretch(const model_config_t *c, ramp_t r, int64_t j, double freq) {
    double divided = fmin(fmax(((double)j - r.low) / (r.high - r.low), 0), 1);
    return freq / c->rope_factor * divided + freq * (1 - divided);
}

/* Dynamic NTK: a larger theta once the text is longer than the trained context. */
static double dynamic_theta(const model_config_t *c) {
    double length = (double)(c->rope_length > c->n_ctx ? c->rope_length : c->n_ctx), d = (double)c->d_rot;
    return c->rope_theta * pow(c->rope_factor * length / (double)c->n_ctx - (c->rope_factor - 1), d / (d - 2));
}

void rope_inv_freq(const model_config_t *c, const float *factors, double *out) {
    double theta = c->rope_scaling == ROPE_DYNAMIC ? dynamic_theta(c) : c->rope_theta;
    const float *extend = c->rope_length > c->rope_old_ctx ? c->rope_long : c->rope_short;
    ramp_t ramp = c->rope_scaling == ROPE_YARN ? yarn_ramp(c) : (ramp_t){0, 0};
    for (int64_t j = 0; j < c->d_rot / 2; j++) {
        double freq = pow(theta, -2.0 * (double)j / (double)c->d_rot);
        if (factors)
            freq /= (double)factors[j];
        else if (c->rope_scaling == ROPE_LINEAR)
            freq /= c->rope_factor;
        else if (c->rope_scaling == ROPE_LLAMA3)
            freq = llama3_stretch(c, freq);
        else if (c->rope_scaling == ROPE_YARN)
            freq = yarn_stretch(c, ramp, j, freq);
        else if (c->rope_scaling == ROPE_LONG)
            freq /= (double)extend[j];
        out[j] = freq;
    }
}

int64_t rope_limit(const model_config_t *c) {
    if (c->rope_scaling == ROPE_DYNAMIC) return c->rope_length > c->n_ctx ? c->rope_length : c->n_ctx;
    if (c->rope_scaling == ROPE_LONG) return c->rope_length > c->rope_old_ctx ? c->rope_length : c->rope_old_ctx;
    return 0;
}

void rope_cos_sin(const double *inv_freq, int64_t d_rot, double scale, int64_t n_row, const double *positions, float *out) {
    backend_rope(n_row, d_rot, positions, inv_freq, scale, out);
}
