/* The backends that a suite runs its models on, chosen here for all of them: the CPU's two, or the one that PRECIS_TEST_BACKEND names.
 *
 *     PRECIS_TEST_BACKEND=cuda build/tests/golden/test_gists        on a GPU (tests/cuda.sh)
 *     PRECIS_TEST_BACKEND=locked ...                                 a CPU that keeps its memory to itself, as a device does (locked.h)
 */
#ifndef TESTS_GOLDEN_BACKENDS_H
#define TESTS_GOLDEN_BACKENDS_H

#include <stdlib.h>
#include <string.h>

#include "golden/locked.h"
#ifdef HAVE_CUDA
#include "cuda/cuda_backend.h"
#endif

typedef status_t (*backend_create_t)(dtype_t, int, backend_t **);

static inline const char *backend_wish(void) {
    const char *name = getenv("PRECIS_TEST_BACKEND");
    return name ? name : "cpu";
}

/* The fast one. */
static inline status_t backend_tested(dtype_t act, int n_threads, backend_t **out) {
    const char *name = backend_wish();
    if (!strcmp(name, "cpu")) return backend_create_cpu(act, n_threads, out);
    if (!strcmp(name, "locked")) return locked_create(act, n_threads, out);
#ifdef HAVE_CUDA
    if (!strcmp(name, "cuda")) return backend_create_cuda(act, 0, out);
#endif
    return status_fail(ST_USAGE, "PRECIS_TEST_BACKEND=%s: not in this build; use cpu, locked, or cuda where it is built in", name);
}

/* All that golden numbers are compared on, up to a NULL. */
static inline const backend_create_t *backends_tested(void) {
    static const backend_create_t cpus[] = {backend_create_cpu_ref, backend_create_cpu, NULL}, one[] = {backend_tested, NULL};
    return strcmp(backend_wish(), "cpu") ? one : cpus;
}

/* ---- backend memory, looked at from outside ---- */
/* A copy on the host, the caller's to free. */
static inline void *memory_copy(backend_t *be, const void *p, size_t bytes) {
    void *copy = malloc(bytes ? bytes : 1);
    if (be->ops->copy_out(be, copy, p, bytes)) abort();
    return copy;
}
static inline bool memory_equal(backend_t *of_a, const void *a, backend_t *of_b, const void *b, size_t bytes) {
    void *x = memory_copy(of_a, a, bytes), *y = memory_copy(of_b, b, bytes);
    bool same = !memcmp(x, y, bytes);
    free(x);
    free(y);
    return same;
}
/* Every byte 0xff: NaN in any type, so what was never computed must not be looked at. */
static inline status_t memory_poison(backend_t *be, void *p, size_t bytes) {
    void *nan = malloc(bytes ? bytes : 1);
    memset(nan, 0xff, bytes);
    status_t st = be->ops->copy_in(be, p, nan, bytes);
    if (!st) st = be->ops->sync(be);
    free(nan);
    return st;
}

#endif
