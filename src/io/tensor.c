/* Dequantisation, one block at a time, with the same operations in the same order as the `gguf` Python package: each multiply and each add
 * rounds to f32 by itself, so the results are equal to the last bit. Contraction to fused multiply-add is therefore off (gcc does not
 * contract in ISO mode; clang is told below).
 *
 *     a row = cols / block values, each block  [scale(s)] [packed integers]   (layouts beside each function; d, m are fp16)
 */
#include "io/tensor.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

static uint16_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}
static float load_f16(const uint8_t *p) { return f16_to_f32(load_u16(p)); }

static void read_f32(const uint8_t *p, float *out) { memcpy(out, p, 4); }
static void read_f16(const uint8_t *p, float *out) { *out = load_f16(p); }
static void read_bf16(const uint8_t *p, float *out) { *out = bf16_to_f32(load_u16(p)); }

/* d, int8 q[32] */
static void read_q8_0(const uint8_t *p, float *out) {
    float d = load_f16(p);
    for (int j = 0; j < 32; j++) out[j] = (float)(int8_t)p[2 + j] * d;
}

/* d, q[16]: value j in the low nibble of byte j, value j + 16 in the high one */
static void read_q4_0(const uint8_t *p, float *out) {
    float d = load_f16(p);
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)((p[2 + j] & 15) - 8);
        out[j + 16] = d * (float)((p[2 + j] >> 4) - 8);
    }
}

/* d, m, q[16] */
static void read_q4_1(const uint8_t *p, float *out) {
    float d = load_f16(p), m = load_f16(p + 2);
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)(p[4 + j] & 15) + m;
        out[j + 16] = d * (float)(p[4 + j] >> 4) + m;
    }
}

/* The fifth bit of value j is bit j of the 32-bit word at h. */
static int fifth_bit(const uint8_t *h, int j) { return (h[j / 8] >> (j % 8) & 1) << 4; }

/* d, h[4], q[16] */
static void read_q5_0(const uint8_t *p, float *out) {
    float d = load_f16(p);
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)(((p[6 + j] & 15) | fifth_bit(p + 2, j)) - 16);
        out[j + 16] = d * (float)(((p[6 + j] >> 4) | fifth_bit(p + 2, j + 16)) - 16);
    }
}

/* d, m, h[4], q[16] */
static void read_q5_1(const uint8_t *p, float *out) {
    float d = load_f16(p), m = load_f16(p + 2);
    for (int j = 0; j < 16; j++) {
        out[j] = d * (float)((p[8 + j] & 15) | fifth_bit(p + 4, j)) + m;
        out[j + 16] = d * (float)((p[8 + j] >> 4) | fifth_bit(p + 4, j + 16)) + m;
    }
}

/* 6-bit scale and minimum of sub-block j of 8, packed in 12 bytes: the first four of each whole, of the others the low 4 bits
 * in bytes 8 .. 11 and the top 2 bits in the spare bits of the first eight bytes. */
static void scale_min(const uint8_t *s, int j, int *scale, int *min) {
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *min = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    }
}

/* d, dmin, scales[12], [h[32],] q[128]: sub-blocks 2i and 2i + 1 share 32 bytes of q; bit i of h[l] is the fifth bit in sub-block i */
static void read_k(const uint8_t *p, const uint8_t *h, const uint8_t *q, float *out) {
    float d = load_f16(p), dmin = load_f16(p + 2);
    for (int i = 0; i < 8; i++, out += 32) {
        int scale, min, shift = i % 2 * 4;
        scale_min(p + 4, i, &scale, &min);
        float ds = d * (float)scale, dm = dmin * (float)min;
        const uint8_t *from = q + i / 2 * 32;
        for (int l = 0; l < 32; l++) out[l] = ds * (float)((from[l] >> shift & 15) | (h ? (h[l] >> i & 1) << 4 : 0)) - dm;
    }
}
static void read_q4_k(const uint8_t *p, float *out) { read_k(p, NULL, p + 16, out); }
static void read_q5_k(const uint8_t *p, float *out) { read_k(p, p + 16, p + 48, out); }

/* low[128], high[64], int8 scales[16], d: value 32 i + l of each half of 128 has its nibble in low[(i % 2) * 32 + l] and two bits in
 * high[l] */
static void read_q6_k(const uint8_t *p, float *out) {
    float d = load_f16(p + 208);
    for (int half = 0; half < 2; half++) {
        const uint8_t *low = p + half * 64, *high = p + 128 + half * 32, *scales = p + 192 + half * 8;
        for (int i = 0; i < 4; i++, out += 32)
            for (int l = 0; l < 32; l++) {
                int q = (low[i % 2 * 32 + l] >> i / 2 * 4 & 15) | (high[l] >> 2 * i & 3) << 4;
                out[l] = d * (float)(int8_t)scales[i * 2 + l / 16] * (float)(q - 32);
            }
    }
}

static const struct {
    const char *name;
    int values, bytes; /* of one block */
    void (*read)(const uint8_t *block, float *out);
} encs[ENC_COUNT] = {
    [ENC_F32] = {"F32", 1, 4, read_f32},        [ENC_F16] = {"F16", 1, 2, read_f16},        [ENC_BF16] = {"BF16", 1, 2, read_bf16},
    [ENC_Q8_0] = {"Q8_0", 32, 34, read_q8_0},   [ENC_Q4_0] = {"Q4_0", 32, 18, read_q4_0},   [ENC_Q4_1] = {"Q4_1", 32, 20, read_q4_1},
    [ENC_Q5_0] = {"Q5_0", 32, 22, read_q5_0},   [ENC_Q5_1] = {"Q5_1", 32, 24, read_q5_1},   [ENC_Q4_K] = {"Q4_K", 256, 144, read_q4_k},
    [ENC_Q5_K] = {"Q5_K", 256, 176, read_q5_k}, [ENC_Q6_K] = {"Q6_K", 256, 210, read_q6_k}, [ENC_OTHER] = {"other", 0, 0, NULL},
};

static int by_name(const void *a, const void *b) {
    return strcmp((*(const tensor_t *const *)a)->name, (*(const tensor_t *const *)b)->name);
}

const char *tensors_index(const tensor_t *t, int64_t n, const tensor_t **index) {
    for (int64_t i = 0; i < n; i++) index[i] = t + i;
    if (n) qsort(index, (size_t)n, sizeof *index, by_name);
    for (int64_t i = 1; i < n; i++)
        if (!by_name(index + i - 1, index + i)) return index[i]->name;
    return NULL;
}

const tensor_t *tensors_find(const tensor_t *const *index, int64_t n, const char *name) {
    const tensor_t wanted = {.name = name}, *key = &wanted;
    const tensor_t *const *hit = n ? bsearch(&key, index, (size_t)n, sizeof *index, by_name) : NULL;
    return hit ? *hit : NULL;
}

int64_t tensor_rows(const tensor_t *t) {
    int64_t rows = 1;
    for (int i = 0; i + 1 < t->n_dim; i++) rows *= t->dims[i];
    return rows;
}

int64_t tensor_cols(const tensor_t *t) { return t->n_dim ? t->dims[t->n_dim - 1] : 1; }

size_t enc_row_bytes(enc_t enc, int64_t cols) {
    size_t bytes;
    if (enc < 0 || enc >= ENC_COUNT || !encs[enc].read || cols < 0 || cols % encs[enc].values) return 0;
    return size_mul((size_t)(cols / encs[enc].values), (size_t)encs[enc].bytes, &bytes) ? bytes : 0;
}

const char *enc_name(enc_t enc) { return enc >= 0 && enc < ENC_COUNT ? encs[enc].name : "?"; }

const void *tensor_rows_of(const tensor_t *t, int64_t row0, int64_t n, dtype_t type) {
    enc_t same = type == DT_F32 ? ENC_F32 : type == DT_BF16 ? ENC_BF16 : type == DT_F16 ? ENC_F16 : ENC_OTHER;
    int64_t rows = tensor_rows(t);
    if (t->enc != same || same == ENC_OTHER || row0 < 0 || n < 0 || row0 > rows || n > rows - row0) return NULL;
    const uint8_t *p = t->data + (size_t)row0 * enc_row_bytes(t->enc, tensor_cols(t));
    return (uintptr_t)p % dtype_bytes(type) ? NULL : p;
}

status_t tensor_read_rows(const tensor_t *t, int64_t row0, int64_t n, float *out) {
    int64_t rows = tensor_rows(t), cols = tensor_cols(t);
    if (t->enc == ENC_OTHER)
        return status_fail(ST_INPUT, "tensor %s: encoding %s cannot be read; convert the model to F16, BF16, Q8_0 or Q4_K_M", t->name,
                           t->enc_name);
    if (row0 < 0 || n < 0 || row0 > rows || n > rows - row0)
        return status_fail(ST_INPUT, "tensor %s: rows %lld .. %lld asked for, it has %lld; is this the right model?", t->name,
                           (long long)row0, (long long)row0 + (long long)n, (long long)rows);
    size_t row_bytes = enc_row_bytes(t->enc, cols);
    if (!row_bytes && cols)
        return status_fail(ST_INPUT, "tensor %s: rows of %lld values are no whole number of %s blocks; download the file again", t->name,
                           (long long)cols, enc_name(t->enc));
    const uint8_t *p = t->data + (size_t)row0 * row_bytes;
    if (t->enc == ENC_F32) { /* the plain ones without a call for each value */
        if (n && row_bytes) memcpy(out, p, (size_t)n * row_bytes);
        return ST_OK;
    }
    if (t->enc == ENC_BF16) {
        for (int64_t i = 0; i < n * cols; i++) out[i] = bf16_to_f32(load_u16(p + 2 * i));
        return ST_OK;
    }
    int64_t blocks = n * (cols / encs[t->enc].values);
    for (int64_t b = 0; b < blocks; b++, p += encs[t->enc].bytes, out += encs[t->enc].values) encs[t->enc].read(p, out);
    return ST_OK;
}
