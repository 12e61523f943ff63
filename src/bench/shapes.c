/* Dimensions of known models, and the small arithmetic that measurements share. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"

static const model_config_t shapes[] = {
    {.arch = "llama",
     .name = "tiny",
     .n_vocab = 512,
     .n_layer = 2,
     .n_head = 4,
     .n_kv_head = 2,
     .d_model = 256,
     .d_head = 64,
     .d_ff = 512,
     .n_ctx = 8192,
     .d_rot = 64,
     .norm_eps = 1e-5,
     .rope_attention = 1,
     .rope_theta = 10000,
     .tied = true},
    {.arch = "llama",
     .name = "smollm2",
     .n_vocab = 49152,
     .n_layer = 30,
     .n_head = 9,
     .n_kv_head = 3,
     .d_model = 576,
     .d_head = 64,
     .d_ff = 1536,
     .n_ctx = 8192,
     .d_rot = 64,
     .norm_eps = 1e-5,
     .rope_attention = 1,
     .rope_theta = 100000,
     .tied = true},
    {.arch = "llama",
     .name = "1b",
     .n_vocab = 128256,
     .n_layer = 16,
     .n_head = 32,
     .n_kv_head = 8,
     .d_model = 2048,
     .d_head = 64,
     .d_ff = 8192,
     .n_ctx = 131072,
     .d_rot = 64,
     .norm_eps = 1e-5,
     .rope_attention = 1,
     .rope_theta = 500000,
     .tied = true},
    {.arch = "llama",
     .name = "8b",
     .n_vocab = 128256,
     .n_layer = 32,
     .n_head = 32,
     .n_kv_head = 8,
     .d_model = 4096,
     .d_head = 128,
     .d_ff = 14336,
     .n_ctx = 131072,
     .d_rot = 128,
     .norm_eps = 1e-5,
     .rope_attention = 1,
     .rope_theta = 500000},
};

const model_config_t *bench_shape(const char *name) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (!strcmp(shapes[i].name, name)) return &shapes[i];
    return NULL;
}

static float load(dtype_t type, const void *p, size_t i) {
    return type == DT_F32 ? ((const float *)p)[i] : bf16_to_f32(((const uint16_t *)p)[i]);
}

double bench_distance(dtype_t type_a, const void *a, dtype_t type_b, const void *b, size_t n) {
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double x = load(type_a, a, i), y = load(type_b, b, i);
        off += (x - y) * (x - y);
        size += y * y;
    }
    return sqrt(off / size);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double bench_median(double *s, int n) {
    qsort(s, (size_t)n, sizeof *s, by_value);
    return n % 2 ? s[n / 2] : (s[n / 2 - 1] + s[n / 2]) / 2;
}

double bench_limit(dtype_t act) { return act == DT_F32 ? 1e-4 : 2e-2; }
