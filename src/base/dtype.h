/* Element types of tensors in files and in memory, and the conversions between them (round to nearest even). */
#ifndef BASE_DTYPE_H
#define BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum { DT_F32, DT_F16, DT_BF16, DT_I32, DT_I64, DT_U8, DT_COUNT } dtype_t;

static inline size_t dtype_bytes(dtype_t t) {
    static const size_t bytes[DT_COUNT] = {4, 2, 2, 4, 8, 1};
    return bytes[t];
}
static inline const char *dtype_name(dtype_t t) { /* as on the command line */
    static const char *const name[DT_COUNT] = {"f32", "f16", "bf16", "i32", "i64", "u8"};
    return name[t];
}

static inline float bf16_to_f32(uint16_t h) {
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint16_t f32_to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40); /* NaN stays NaN */
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);

/* n elements; src and dst must not overlap; either side F32, F16 or BF16. */
void dtype_convert(dtype_t dst_type, void *dst, dtype_t src_type, const void *src, size_t n);

#endif
