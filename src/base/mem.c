/* Each block carries its size in a 64-byte header in front of it:  [ size | .. 64 bytes .. ][ the caller's block ... ] */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HEADER = 64 };
static const size_t PAGE_BYTES = 4096;

static atomic_size_t now_bytes, peak_bytes;
static atomic_llong fail_at; /* 0 = never */

static bool must_fail(void) {
    long long n = atomic_load(&fail_at);
    return n > 0 && atomic_fetch_sub(&fail_at, 1) == 1;
}

static void count_in(size_t bytes) {
    size_t now = atomic_fetch_add(&now_bytes, bytes) + bytes, peak = atomic_load(&peak_bytes);
    while (now > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, now)) {}
}

/* Large blocks in large pages, where the system has them: the first touch of fresh 4 KiB pages costs several times the copy that touches
 * them. */
static void large_hint(char *block, size_t bytes) {
    char *from = block + (PAGE_BYTES - (uintptr_t)block % PAGE_BYTES);
    madvise(from, bytes - PAGE_BYTES, MADV_HUGEPAGE); /* a wish: what comes of it does not matter */
}

status_t mem_alloc(void *out_pp, size_t count, size_t size, const char *what) {
    void **out = out_pp;
    size_t bytes, total;
    *out = NULL;
    if (!size_mul(count, size, &bytes) || !size_add(bytes, 2 * HEADER, &total))
        return status_fail(ST_FAIL, "%s: %zu x %zu bytes is more than can be addressed; use smaller sizes", what, count, size);
    if (bytes == 0) return ST_OK;
    char *block = must_fail() ? NULL : aligned_alloc(HEADER, size_round_up(bytes + HEADER, HEADER));
    if (!block)
        return status_fail(
            ST_FAIL, "out of memory: %zu bytes for %s (%zu in use); use more ranks, a smaller --segment, or a machine with more memory",
            bytes, what, mem_now_bytes());
    if (bytes >= MEM_LARGE) large_hint(block, bytes);
    *(size_t *)block = bytes;
    count_in(bytes);
    *out = block + HEADER;
    return ST_OK;
}

status_t mem_zalloc(void *out_pp, size_t count, size_t size, const char *what) {
    status_t st = mem_alloc(out_pp, count, size, what);
    void **out = out_pp;
    if (!st && *out) memset(*out, 0, count * size);
    return st;
}

status_t mem_grow(void *pp, size_t count, size_t size, const char *what) {
    void **p = pp, *bigger;
    status_t st = mem_alloc(&bigger, count, size, what);
    if (st) return st;
    if (*p && bigger) {
        size_t had = *(size_t *)((char *)*p - HEADER), want = count * size;
        memcpy(bigger, *p, had < want ? had : want);
    }
    mem_free(*p);
    *p = bigger;
    return ST_OK;
}

status_t mem_room(void *pp, int64_t n, int64_t *cap, size_t size, const char *what) {
    if (n < *cap) return ST_OK;
    int64_t more = i64_max(n + 1, i64_max(2 * *cap, 64));
    status_t st = mem_grow(pp, (size_t)more, size, what);
    if (!st) *cap = more;
    return st;
}

void mem_touch(void *p, size_t bytes) {
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < bytes; i += PAGE_BYTES) ((char *)p)[i] = 0;
}

void mem_free(void *p) {
    if (!p) return;
    char *block = (char *)p - HEADER;
    atomic_fetch_sub(&now_bytes, *(size_t *)block);
    free(block);
}

char *mem_strdup(const char *s) {
    char *copy = NULL;
    size_t n = strlen(s) + 1;
    if (mem_alloc(&copy, n, 1, "a string")) return NULL;
    return memcpy(copy, s, n);
}

size_t mem_now_bytes(void) { return atomic_load(&now_bytes); }
size_t mem_peak_bytes(void) { return atomic_load(&peak_bytes); }
void mem_fail_at(int64_t n) { atomic_store(&fail_at, n); }
