/* Frame of the operation tests: random inputs, poisoned and guarded outputs, comparison with the oracle.
 *
 * Every case runs the same call on the backend under test and on cpu_ref, through alloc, copy_in and copy_out alone, so that a backend with
 * its own memory can be tested by the same list. Outputs are NaN before the call and have a poisoned margin that must survive it.
 */
#ifndef TESTS_OPS_FRAME_H
#define TESTS_OPS_FRAME_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/mem.h"
#include "base/rng.h"
#include "unit.h"

enum { OPS_MARGIN = 512, OPS_POISON = 0xff }; /* 0xffff.. is a NaN in every float type */

typedef struct {
    backend_t *be, *ref; /* same act */
    const char *label;
    rng_t rng;
} ops_t;

#define OPS_OK(st)                                                                                                                         \
    do {                                                                                                                                   \
        status_t st_ = (st);                                                                                                               \
        if (st_) fprintf(stderr, "%s\n", status_message());                                                                                \
        CU_ASSERT_EQUAL_FATAL(st_, ST_OK);                                                                                                 \
    } while (0)

static inline void *ops_host(size_t bytes) {
    void *p = malloc(bytes + 64);
    CU_ASSERT_PTR_NOT_NULL_FATAL(p);
    return p;
}

/* Backend memory holding a copy of host bytes. */
static inline void *ops_in(backend_t *be, const void *host, size_t bytes) {
    void *p;
    OPS_OK(be->ops->alloc(be, bytes, "test input", &p));
    OPS_OK(be->ops->copy_in(be, p, host, bytes));
    return p;
}

/* Backend memory for an output: poisoned, with a margin. */
static inline void *ops_out(backend_t *be, size_t bytes) {
    void *p, *poison = ops_host(bytes + OPS_MARGIN);
    memset(poison, OPS_POISON, bytes + OPS_MARGIN);
    OPS_OK(be->ops->alloc(be, bytes + OPS_MARGIN, "test output", &p));
    OPS_OK(be->ops->copy_in(be, p, poison, bytes + OPS_MARGIN));
    free(poison);
    return p;
}

/* Fetches an output, checks its margin, frees it. */
static inline void *ops_fetch(backend_t *be, void *dev, size_t bytes) {
    unsigned char *host = ops_host(bytes + OPS_MARGIN);
    OPS_OK(be->ops->copy_out(be, host, dev, bytes + OPS_MARGIN));
    size_t hurt = 0;
    for (size_t i = 0; i < OPS_MARGIN; i++) hurt += host[bytes + i] != OPS_POISON;
    CU_ASSERT_EQUAL(hurt, 0);
    be->ops->free(be, dev);
    return host;
}

/* About normal: the sum of four uniform numbers, unit variance. */
static inline float ops_normal(rng_t *r) {
    double s = 0;
    for (int i = 0; i < 4; i++) s += rng_uniform(r);
    return (float)((s - 2.0) * 1.7320508);
}
static inline float ops_load(dtype_t t, const void *p, size_t i) {
    if (t == DT_F32) return ((const float *)p)[i];
    return t == DT_F16 ? f16_to_f32(((const uint16_t *)p)[i]) : bf16_to_f32(((const uint16_t *)p)[i]);
}

static inline void ops_store(dtype_t t, void *p, size_t i, float x) { dtype_convert(t, (char *)p + i * dtype_bytes(t), DT_F32, &x, 1); }

/* n random numbers of a type, in host memory. */
static inline void *ops_random(rng_t *r, dtype_t t, size_t n, float scale) {
    float *f = ops_host(n * 4);
    for (size_t i = 0; i < n; i++) f[i] = scale * ops_normal(r);
    if (t == DT_F32) return f;
    void *p = ops_host(n * dtype_bytes(t));
    dtype_convert(t, p, DT_F32, f, n);
    free(f);
    return p;
}

/* Rounding of one stored number of a type, relative. */
static inline double ops_eps(dtype_t t) { return t == DT_F32 ? 0x1p-24 : t == DT_F16 ? 0x1p-11 : 0x1p-8; }

/* |got - want| <= tol[i or 0] + round * |want| for all; equal infinities are equal; NaN never is. */
static inline void ops_close(const ops_t *o, const char *what, dtype_t t, const void *got, const void *want, size_t n, const double *tol,
                             bool each) {
    double round = t == DT_F32 ? 0x1p-23 : 2 * ops_eps(t), worst = 0;
    size_t bad = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        double g = ops_load(t, got, i), w = ops_load(t, want, i);
        if (g == w) continue;
        double over = fabs(g - w) / (tol[each ? i : 0] + round * fabs(w) + 1e-37);
        if (!(over <= 1)) bad++;
        if (!(over <= worst)) {
            worst = over;
            at = i;
        }
    }
    if (bad || getenv("OPS_VERBOSE"))
        fprintf(stderr, "%s: %s: %zu of %zu off; worst %.3g x tolerance at %zu: got %.9g, want %.9g\n", o->label, what, bad, n, worst, at,
                n ? ops_load(t, got, at) : 0, n ? ops_load(t, want, at) : 0);
    CU_ASSERT_EQUAL(bad, 0);
}

static inline void ops_same(const char *what, const void *a, const void *b, size_t bytes) {
    if (memcmp(a, b, bytes)) {
        size_t i = 0;
        while (((const char *)a)[i] == ((const char *)b)[i]) i++;
        fprintf(stderr, "%s: first different byte at %zu of %zu\n", what, i, bytes);
        CU_FAIL("bits differ");
    }
}

#endif
