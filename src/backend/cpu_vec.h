/* A vector of f32 as wide as the instruction set that the including file is compiled for: AVX-512, AVX2 with FMA, or four lanes of plain C.
 *
 * Kernels are written once over these names and compiled once per instruction set (cpu_kernels_*.c). Everything here is static: nothing
 * compiled with AVX flags may be reachable from elsewhere under a shared name.
 *
 * v_max(a, b) is a > b ? a : b, so a NaN in b comes through.
 */
#ifndef BACKEND_CPU_VEC_H
#define BACKEND_CPU_VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define V_FN static inline __attribute__((always_inline, unused))

#if defined(__AVX512F__)
#include <immintrin.h>
enum { VW = 16 };
typedef __m512 vf;
V_FN vf v_load(const float *p) { return _mm512_loadu_ps(p); }
V_FN void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
V_FN vf v_set(float x) { return _mm512_set1_ps(x); }
V_FN vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
V_FN vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
V_FN vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
V_FN unsigned v_above(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
V_FN float v_sum(vf a) { return _mm512_reduce_add_ps(a); } /* by halves */
V_FN float v_top(vf a) { return _mm512_reduce_max_ps(a); }
V_FN vf v_load_bf16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
V_FN void v_store_bf16(uint16_t *p, vf a) {
    __m512i u = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), u, _mm512_set1_epi32(0x400000)); /* NaN stays NaN */
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16)));
}
V_FN vf v_round(vf a) { return _mm512_roundscale_ps(a, 0); }
V_FN vf v_scale2(vf a, vf n) { return _mm512_scalef_ps(a, n); } /* a * 2^n, n whole */
V_FN vf v_cell_lo(vf a) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a), 16)); }
V_FN vf v_cell_hi(vf a) { return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32((int)0xffff0000u))); }

/* a[i] lane j <-> a[j] lane i */
V_FN void v_transpose(vf a[VW]) {
    vf b[VW];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        a[i] = (vf)_mm512_unpacklo_pd((__m512d)b[i], (__m512d)b[i + 2]);
        a[i + 1] = (vf)_mm512_unpackhi_pd((__m512d)b[i], (__m512d)b[i + 2]);
        a[i + 2] = (vf)_mm512_unpacklo_pd((__m512d)b[i + 1], (__m512d)b[i + 3]);
        a[i + 3] = (vf)_mm512_unpackhi_pd((__m512d)b[i + 1], (__m512d)b[i + 3]);
    } /* now a[4 g + c] holds, in its four 128-bit parts p, rows 4g..4g+3 of column 4 p + c */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        b[c] = _mm512_shuffle_f32x4(a[c], a[4 + c], 0x88);
        b[4 + c] = _mm512_shuffle_f32x4(a[c], a[4 + c], 0xdd);
        b[8 + c] = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0x88);
        b[12 + c] = _mm512_shuffle_f32x4(a[8 + c], a[12 + c], 0xdd);
    } /* b[c]: parts 0, 2 of groups 0, 1; b[4 + c]: parts 1, 3; b[8 + c], b[12 + c]: of groups 2, 3 */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        a[c] = _mm512_shuffle_f32x4(b[c], b[8 + c], 0x88);
        a[8 + c] = _mm512_shuffle_f32x4(b[c], b[8 + c], 0xdd);
        a[4 + c] = _mm512_shuffle_f32x4(b[4 + c], b[12 + c], 0x88);
        a[12 + c] = _mm512_shuffle_f32x4(b[4 + c], b[12 + c], 0xdd);
    }
}

#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
enum { VW = 8 };
typedef __m256 vf;
V_FN vf v_load(const float *p) { return _mm256_loadu_ps(p); }
V_FN void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
V_FN vf v_set(float x) { return _mm256_set1_ps(x); }
V_FN vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
V_FN vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
V_FN vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
V_FN unsigned v_above(vf a, vf b) { return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
V_FN float v_sum(vf a) { /* by halves */
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
V_FN float v_top(vf a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}
V_FN vf v_load_bf16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
V_FN void v_store_bf16(uint16_t *p, vf a) {
    __m256i u = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
    r = _mm256_blendv_epi8(r, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), _mm256_castps_si256(nan));
    r = _mm256_srli_epi32(r, 16);
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(r));
}
V_FN vf v_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
V_FN vf v_scale2(vf a, vf n) { /* a * 2^n, n whole in [-127, 127]; -127 gives 0 */
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return a * _mm256_castsi256_ps(e);
}
V_FN vf v_cell_lo(vf a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 16)); }
V_FN vf v_cell_hi(vf a) { return _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32((int)0xffff0000u))); }

V_FN void v_transpose(vf a[VW]) {
    vf b[VW];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        a[i] = (vf)_mm256_unpacklo_pd((__m256d)b[i], (__m256d)b[i + 2]);
        a[i + 1] = (vf)_mm256_unpackhi_pd((__m256d)b[i], (__m256d)b[i + 2]);
        a[i + 2] = (vf)_mm256_unpacklo_pd((__m256d)b[i + 1], (__m256d)b[i + 3]);
        a[i + 3] = (vf)_mm256_unpackhi_pd((__m256d)b[i + 1], (__m256d)b[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        b[c] = _mm256_permute2f128_ps(a[c], a[4 + c], 0x20);
        b[4 + c] = _mm256_permute2f128_ps(a[c], a[4 + c], 0x31);
    }
#pragma GCC unroll 8
    for (int c = 0; c < 8; c++) a[c] = b[c];
}

#else
enum { VW = 4 };
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));
V_FN vf v_load(const float *p) {
    vf a;
    memcpy(&a, p, sizeof a);
    return a;
}
V_FN void v_store(float *p, vf a) { memcpy(p, &a, sizeof a); }
V_FN vf v_set(float x) { return (vf){x, x, x, x}; }
V_FN vf v_fma(vf a, vf b, vf c) { return a * b + c; }
V_FN vf v_pick(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
V_FN vf v_max(vf a, vf b) { return v_pick(a > b, a, b); }
V_FN vf v_min(vf a, vf b) { return v_pick(a < b, a, b); }
V_FN unsigned v_above(vf a, vf b) {
    vi m = a > b;
    return (unsigned)((m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8));
}
V_FN float v_sum(vf a) { return (a[0] + a[2]) + (a[1] + a[3]); } /* by halves */
V_FN float v_top(vf a) {
    float x = a[0] > a[2] ? a[0] : a[2], y = a[1] > a[3] ? a[1] : a[3];
    return x > y ? x : y;
}
V_FN vf v_load_bf16(const uint16_t *p) { return (vf)((vu){p[0], p[1], p[2], p[3]} << 16); }
V_FN void v_store_bf16(uint16_t *p, vf a) {
    vu u = (vu)a, r = (u + 0x7fffu + ((u >> 16) & 1)) >> 16, nan = (vu)(a != a);
    r = (nan & (u >> 16 | 0x40)) | (~nan & r);
    for (int i = 0; i < VW; i++) p[i] = (uint16_t)r[i];
}
V_FN vf v_round(vf a) { /* to nearest even, |a| < 2^22 */
    vf magic = v_set(12582912.0f);
    return (a + magic) - magic;
}
V_FN vf v_scale2(vf a, vf n) { /* a * 2^n, n whole in [-127, 127]; -127 gives 0 */
    return a * (vf)((__builtin_convertvector(n, vi) + 127) << 23);
}
V_FN vf v_cell_lo(vf a) { return (vf)((vu)a << 16); }
V_FN vf v_cell_hi(vf a) { return (vf)((vu)a & 0xffff0000u); }
V_FN void v_transpose(vf a[VW]) {
    for (int i = 0; i < VW; i++)
        for (int j = 0; j < i; j++) {
            float t = a[i][j];
            a[i][j] = a[j][i];
            a[j][i] = t;
        }
}
#endif

/* acc + a.b on pairs of bf16, and pairs from numbers: where the CPU has them. */
#if defined(__AVX512BF16__)
enum { V_DOT = 1 };
/* The largest exponent field seen in each lane, to know whether all numbers were finite. */
typedef __m512i v_bits_t;
V_FN v_bits_t v_bits_none(void) { return _mm512_setzero_si512(); }
V_FN void v_bits_see(v_bits_t *seen, __m512i pair) { *seen = _mm512_max_epu16(*seen, _mm512_and_si512(pair, _mm512_set1_epi16(0x7f80))); }
V_FN int v_bits_finite(v_bits_t seen) { return _mm512_cmpeq_epi16_mask(seen, _mm512_set1_epi16(0x7f80)) == 0; }
/* Pairs (a[i], b[i]) of VW numbers, and of 2 VW. */
V_FN vf v_interleave(const uint16_t *a, const uint16_t *b, v_bits_t *seen) {
    __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)a)),
            y = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)b));
    __m512i pair = _mm512_or_si512(x, _mm512_slli_epi32(y, 16));
    v_bits_see(seen, pair);
    return (vf)pair;
}
V_FN void v_interleave2(const uint16_t *a, const uint16_t *b, vf out[2], v_bits_t *seen) {
    static const uint16_t order[64] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                       11, 43, 12, 44, 13, 45, 14, 46, 15, 47, 16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53,
                                       22, 54, 23, 55, 24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63};
    __m512i x = _mm512_loadu_si512(a), y = _mm512_loadu_si512(b);
    out[0] = (vf)_mm512_permutex2var_epi16(x, _mm512_loadu_si512(order), y);
    out[1] = (vf)_mm512_permutex2var_epi16(x, _mm512_loadu_si512(order + 32), y);
    v_bits_see(seen, x);
    v_bits_see(seen, y);
}
V_FN vf v_dot(vf acc, vf a, vf b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }
V_FN void v_store_pairs(float *p, vf first, vf second) {
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(second, first));
} /* 2 VW numbers */
V_FN void v_store_half(float *p, vf a) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(a)); } /* VW numbers */
#else /* never called: V_DOT is constant */
enum { V_DOT = 0 };
typedef uint64_t v_bits_t;
V_FN v_bits_t v_bits_none(void) { return 0; }
V_FN int v_bits_finite(v_bits_t seen) { return seen == 0; }
V_FN vf v_interleave(const uint16_t *a, const uint16_t *b, v_bits_t *seen) { return *seen += *a + *b, v_set(0); }
V_FN void v_interleave2(const uint16_t *a, const uint16_t *b, vf out[2], v_bits_t *seen) { out[0] = out[1] = v_interleave(a, b, seen); }
V_FN vf v_dot(vf acc, vf a, vf b) { return v_fma(a, b, acc); }
V_FN void v_store_pairs(float *p, vf first, vf second) { v_store(p, first + second); }
V_FN void v_store_half(float *p, vf a) { v_store(p, a); }
#endif

/* What v_scale2 turns into an exact 0: masked keys rely on it. */
#if defined(__AVX512F__)
#define EXP2_LEAST -200.0f
#else
#define EXP2_LEAST -127.0f
#endif

/* 2^t = 2^n (1 + f q(f)), t = n + f, |f| <= 1/2, q minimax: about 1 ulp (relative error of q 2e-9), or 2 ulp in one step less (9e-8). For t
 * <= 127; 0 for t far below -127; NaN stays. */
V_FN vf v_exp2_neg(vf t, int fewer) {
    t = v_max(v_set(EXP2_LEAST), t);
    vf n = v_round(t), f = t - n, q;
    if (fewer) {
        q = v_fma(v_set(0x1.5bba14p-10f), f, v_set(0x1.3cea88p-7f));
        q = v_fma(q, f, v_set(0x1.c6b752p-5f));
        q = v_fma(q, f, v_set(0x1.ebf9bcp-3f));
        q = v_fma(q, f, v_set(0x1.62e430p-1f));
    } else {
        q = v_fma(v_set(0x1.41fbbcp-13f), f, v_set(0x1.5f3e54p-10f));
        q = v_fma(q, f, v_set(0x1.3b2d4cp-7f));
        q = v_fma(q, f, v_set(0x1.c6aee8p-5f));
        q = v_fma(q, f, v_set(0x1.ebfbdcp-3f));
        q = v_fma(q, f, v_set(0x1.62e430p-1f));
    }
    return v_scale2(v_fma(q, f, v_set(1.0f)), n);
}
/* 2^t for any t, held at 2^127 above. */
V_FN vf v_exp2(vf t) { return v_exp2_neg(v_min(v_set(127.0f), t), 0); }

#endif
