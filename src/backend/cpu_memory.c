/* Memory of the CPU backends: ordinary memory, aligned to 256 bytes, counted by base/mem.
 *
 *     raw .. | raw pointer | p (multiple of 256) ... bytes ...
 */
#include <string.h>

#include "backend/cpu.h"
#include "base/mem.h"

enum { ALIGN = 256 };

status_t cpu_alloc(backend_t *be, size_t bytes, const char *what, void *out_pp) {
    (void)be;
    void **out = out_pp;
    char *raw;
    size_t total;
    *out = NULL;
    if (!size_add(bytes, ALIGN + sizeof(void *), &total))
        return status_fail(ST_FAIL, "%s: %zu bytes is more than can be addressed; use smaller sizes", what, bytes);
    status_t st = mem_alloc(&raw, total, 1, what);
    if (st) return st;
    char *p = (char *)size_round_up((size_t)raw + sizeof(void *), ALIGN);
    memcpy(p - sizeof(void *), &raw, sizeof raw);
    *out = p;
    return ST_OK;
}

void cpu_free(backend_t *be, void *p) {
    (void)be;
    if (!p) return;
    void *raw;
    memcpy(&raw, (char *)p - sizeof(void *), sizeof raw);
    mem_free(raw);
}

status_t cpu_copy(backend_t *be, void *dst, const void *src, size_t bytes) {
    (void)be;
    if (bytes) memcpy(dst, src, bytes);
    return ST_OK;
}

status_t cpu_sync(backend_t *be) {
    (void)be;
    return ST_OK;
}

status_t cpu_copy_rows(backend_t *be, void *dst, size_t dst_stride, const void *src, size_t src_stride, size_t bytes, int64_t n) {
    for (int64_t i = 0; i < n; i++) cpu_copy(be, (char *)dst + (size_t)i * dst_stride, (const char *)src + (size_t)i * src_stride, bytes);
    return ST_OK;
}

status_t cpu_copy_start(backend_t *be, void *dst, const void *src, size_t bytes, int64_t *ticket) {
    *ticket = 0;
    return cpu_copy(be, dst, src, bytes);
}

status_t cpu_copy_rows_start(backend_t *be, void *dst, const void *src, size_t bytes, size_t stride, int64_t n, int64_t *ticket) {
    *ticket = 0;
    return cpu_copy_rows(be, dst, stride, src, stride, bytes, n);
}

status_t cpu_copy_wait(backend_t *be, int64_t ticket) {
    (void)be;
    (void)ticket;
    return ST_OK;
}

void cpu_memory_left(backend_t *be, size_t *left, size_t *total) {
    (void)be;
    *left = *total = SIZE_MAX;
}
