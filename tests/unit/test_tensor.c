/* Dequantisation against the values of the gguf Python package, bit for bit (fixture: tests/golden/make_quants.py). */
#include <stdlib.h>

#include "io/gguf.h"
#include "io/safetensors.h"
#include "unit.h"

static void test_row_bytes(void) {
    static const struct {
        enc_t enc;
        int64_t cols;
        size_t bytes;
    } table[] = {
        {ENC_F32, 7, 28},   {ENC_F16, 7, 14},   {ENC_BF16, 1, 2},     {ENC_Q8_0, 64, 68},   {ENC_Q4_0, 32, 18},      {ENC_Q4_1, 576, 360},
        {ENC_Q5_0, 32, 22}, {ENC_Q5_1, 32, 24}, {ENC_Q4_K, 512, 288}, {ENC_Q5_K, 256, 176}, {ENC_Q6_K, 256, 210},    {ENC_Q4_1, 31, 0},
        {ENC_Q6_K, 128, 0}, {ENC_OTHER, 32, 0}, {ENC_COUNT, 32, 0},   {ENC_F32, -1, 0},     {ENC_F32, INT64_MAX, 0}, {ENC_F32, 0, 0},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) CU_ASSERT_EQUAL(enc_row_bytes(table[i].enc, table[i].cols), table[i].bytes);
}

static void test_shape(void) {
    tensor_t t = {.n_dim = 3, .dims = {2, 3, 5}}, scalar = {.n_dim = 0};
    CU_ASSERT_EQUAL(tensor_rows(&t), 6);
    CU_ASSERT_EQUAL(tensor_cols(&t), 5);
    CU_ASSERT_EQUAL(tensor_rows(&scalar), 1);
    CU_ASSERT_EQUAL(tensor_cols(&scalar), 1);
}

static void test_golden(void) {
    gguf_t *g;
    safetensors_t *s;
    CU_ASSERT_EQUAL_FATAL(gguf_open("tests/golden/quants.gguf", &g), ST_OK);
    CU_ASSERT_EQUAL_FATAL(safetensors_open("tests/golden/quants.safetensors", &s), ST_OK);
    CU_ASSERT_EQUAL(gguf_count(g), ENC_OTHER);
    for (int enc = 0; enc < ENC_OTHER; enc++) {
        const tensor_t *t = gguf_find(g, enc_name(enc)), *want = safetensors_find(s, enc_name(enc));
        CU_ASSERT_FATAL(t && want);
        CU_ASSERT_EQUAL(t->enc, (enc_t)enc);
        int64_t rows = tensor_rows(t), cols = tensor_cols(t), bad = 0;
        CU_ASSERT_FATAL(rows == tensor_rows(want) && cols == tensor_cols(want) && want->enc == ENC_F32);
        float *have = malloc((size_t)(rows * cols) * 4);
        CU_ASSERT_EQUAL(tensor_read_rows(t, 0, rows, have), ST_OK);
        for (int64_t i = 0; i < rows * cols; i++) bad += memcmp(have + i, want->data + 4 * i, 4) != 0;
        CU_ASSERT_EQUAL(bad, 0);
        /* one row alone is the same row */
        CU_ASSERT_EQUAL(tensor_read_rows(t, rows - 1, 1, have), ST_OK);
        CU_ASSERT_EQUAL(memcmp(have, want->data + (rows - 1) * cols * 4, (size_t)cols * 4), 0);
        free(have);
    }
    safetensors_close(s);
    gguf_close(g);
}

static void test_refuses(void) {
    uint8_t data[64] = {0};
    float out[64];
    tensor_t t = {.name = "w", .enc = ENC_F32, .enc_name = "F32", .n_dim = 2, .dims = {2, 4}, .data = data, .bytes = 32};
    CU_ASSERT_EQUAL(tensor_read_rows(&t, 0, 2, out), ST_OK);
    CU_ASSERT_EQUAL(tensor_read_rows(&t, 0, 3, out), ST_INPUT);
    CU_ASSERT_EQUAL(tensor_read_rows(&t, 2, 1, out), ST_INPUT);
    CU_ASSERT_EQUAL(tensor_read_rows(&t, -1, 1, out), ST_INPUT);
    CU_ASSERT_EQUAL(tensor_read_rows(&t, 1, -1, out), ST_INPUT);
    CU_ASSERT_EQUAL(tensor_read_rows(&t, 2, 0, out), ST_OK);
    t.enc = ENC_OTHER;
    t.enc_name = "IQ2_XS";
    CU_ASSERT_EQUAL(tensor_read_rows(&t, 0, 1, out), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "IQ2_XS"));
    t.enc = ENC_Q4_0; /* rows of 4 are no blocks of 32 */
    CU_ASSERT_EQUAL(tensor_read_rows(&t, 0, 1, out), ST_INPUT);
}

UNIT_MAIN("tensor", {"row_bytes", test_row_bytes}, {"shape", test_shape}, {"golden", test_golden}, {"refuses", test_refuses})
