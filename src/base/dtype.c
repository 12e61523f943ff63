#include "base/dtype.h"

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 0x3ff, u;
    if (exp == 31) {
        u = sign | 0x7f800000u | man << 13;
    } else if (exp) {
        u = sign | (exp + 112) << 23 | man << 13;
    } else { /* zero or subnormal: man * 2^-24 is exact in f32 */
        float f = (float)man * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t f32_to_f16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    uint32_t sign = (u >> 16) & 0x8000, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u) return (uint16_t)(sign | 0x7e00);  /* NaN */
    if (mag >= 0x477ff000u) return (uint16_t)(sign | 0x7c00); /* rounds to infinity */
    if (mag < 0x38800000u) {                                  /* subnormal: let the FPU round at 2^-24 */
        float r;
        memcpy(&r, &mag, 4);
        r += 0x1p-1f; /* ulp of [0.5, 1) is 2^-24 */
        memcpy(&mag, &r, 4);
        return (uint16_t)(sign | (mag - 0x3f000000u));
    }
    mag += 0xfffu + ((mag >> 13) & 1);
    return (uint16_t)(sign | ((mag - 0x38000000u) >> 13));
}

static float load(dtype_t t, const void *p, size_t i) {
    if (t == DT_F32) return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    return t == DT_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
}

void dtype_convert(dtype_t dst_type, void *dst, dtype_t src_type, const void *src, size_t n) {
    if (dst_type == src_type) {
        memcpy(dst, src, n * dtype_bytes(src_type));
    } else if (dst_type == DT_F32) {
        for (size_t i = 0; i < n; i++) ((float *)dst)[i] = load(src_type, src, i);
    } else if (dst_type == DT_BF16) {
        for (size_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = f32_to_bf16(load(src_type, src, i));
    } else {
        for (size_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = f32_to_f16(load(src_type, src, i));
    }
}
