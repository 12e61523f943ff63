#include "io/gguf_types.h"

#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} scalars[GT_COUNT] = {
    [GT_U8] = {"u8", 1},   [GT_I8] = {"i8", 1},   [GT_U16] = {"u16", 2},   [GT_I16] = {"i16", 2},    [GT_U32] = {"u32", 4},
    [GT_I32] = {"i32", 4}, [GT_F32] = {"f32", 4}, [GT_BOOL] = {"bool", 1}, [GT_STRING] = {"str", 0}, [GT_ARRAY] = {"array", 0},
    [GT_U64] = {"u64", 8}, [GT_I64] = {"i64", 8}, [GT_F64] = {"f64", 8},
};

size_t gguf_scalar_bytes(uint32_t type) { return type < GT_COUNT ? scalars[type].bytes : 0; }
const char *gguf_scalar_name(uint32_t type) { return type < GT_COUNT ? scalars[type].name : "?"; }

bool gguf_scalar_i64(uint32_t type, const uint8_t *p, int64_t *out) {
    uint64_t u = 0;
    if (type >= GT_COUNT || !scalars[type].bytes || type == GT_F32 || type == GT_F64) return false;
    memcpy(&u, p, scalars[type].bytes); /* little-endian machine */
    switch (type) {
    case GT_I8:
        *out = (int8_t)u;
        return true;
    case GT_I16:
        *out = (int16_t)u;
        return true;
    case GT_I32:
        *out = (int32_t)u;
        return true;
    case GT_BOOL:
        *out = u != 0;
        return true;
    default:
        *out = (int64_t)u;
        return type != GT_U64 || u <= INT64_MAX;
    }
}

bool gguf_scalar_f64(uint32_t type, const uint8_t *p, double *out) {
    float f;
    if (type == GT_F64) {
        memcpy(out, p, 8);
        return true;
    }
    if (type != GT_F32) return false;
    memcpy(&f, p, 4);
    *out = (double)f;
    return true;
}

static const gguf_type_t types[] = {
    [0] = {"F32", 1, 4, ENC_F32},           [1] = {"F16", 1, 2, ENC_F16},           [2] = {"Q4_0", 32, 18, ENC_Q4_0},
    [3] = {"Q4_1", 32, 20, ENC_Q4_1},       [6] = {"Q5_0", 32, 22, ENC_Q5_0},       [7] = {"Q5_1", 32, 24, ENC_Q5_1},
    [8] = {"Q8_0", 32, 34, ENC_Q8_0},       [9] = {"Q8_1", 32, 36, ENC_OTHER},      [10] = {"Q2_K", 256, 84, ENC_OTHER},
    [11] = {"Q3_K", 256, 110, ENC_OTHER},   [12] = {"Q4_K", 256, 144, ENC_Q4_K},    [13] = {"Q5_K", 256, 176, ENC_Q5_K},
    [14] = {"Q6_K", 256, 210, ENC_Q6_K},    [15] = {"Q8_K", 256, 292, ENC_OTHER},   [16] = {"IQ2_XXS", 256, 66, ENC_OTHER},
    [17] = {"IQ2_XS", 256, 74, ENC_OTHER},  [18] = {"IQ3_XXS", 256, 98, ENC_OTHER}, [19] = {"IQ1_S", 256, 50, ENC_OTHER},
    [20] = {"IQ4_NL", 32, 18, ENC_OTHER},   [21] = {"IQ3_S", 256, 110, ENC_OTHER},  [22] = {"IQ2_S", 256, 82, ENC_OTHER},
    [23] = {"IQ4_XS", 256, 136, ENC_OTHER}, [24] = {"I8", 1, 1, ENC_OTHER},         [25] = {"I16", 1, 2, ENC_OTHER},
    [26] = {"I32", 1, 4, ENC_OTHER},        [27] = {"I64", 1, 8, ENC_OTHER},        [28] = {"F64", 1, 8, ENC_OTHER},
    [29] = {"IQ1_M", 256, 56, ENC_OTHER},   [30] = {"BF16", 1, 2, ENC_BF16},        [34] = {"TQ1_0", 256, 54, ENC_OTHER},
    [35] = {"TQ2_0", 256, 66, ENC_OTHER},   [39] = {"MXFP4", 32, 17, ENC_OTHER},
};

const gguf_type_t *gguf_type(uint32_t id) { return id < sizeof types / sizeof *types && types[id].name ? types + id : NULL; }
