/* Aligned, counted allocation, and checked size arithmetic.
 *
 * Every allocation of the program's own goes through here, so that `plan` can be compared with what was used and the
 * torture test can make the n-th allocation fail. Blocks are 64-byte aligned. Sizes come from files and flags, so
 * multiply and add through the checked helpers.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* Blocks of so many bytes and more have pages of their own, large ones where the system has them. */
enum { MEM_LARGE = 64 << 20 };

/* *out = count * size bytes, not cleared (NULL for 0 bytes). ST_FAIL with the numbers and `what` when it cannot be had. */
status_t mem_alloc(void *out_pp, size_t count, size_t size, const char *what);
/* The same, cleared. */
status_t mem_zalloc(void *out_pp, size_t count, size_t size, const char *what);
/* Grows *pp to hold `count` items of `size` bytes; contents kept; on failure *pp is untouched. */
status_t mem_grow(void *pp, size_t count, size_t size, const char *what);
/* Sees to it that *pp, which has room for *cap items of `size` bytes, has it for item n too: at least doubles when it has not. */
status_t mem_room(void *pp, int64_t n, int64_t *cap, size_t size, const char *what);
/* Writes a byte into every page of a fresh block, with all threads: the system hands out pages at the first touch, several times slower
 * than a copy when one thread asks for them. */
void mem_touch(void *p, size_t bytes);
/* Takes NULL. */
void mem_free(void *p);
/* A copy owned by the caller (mem_free); NULL when memory is out. */
char *mem_strdup(const char *s);

size_t mem_now_bytes(void);  /* allocated through mem_* and not yet freed */
size_t mem_peak_bytes(void); /* the most that mem_now_bytes() was */
/* Test hook: the n-th allocation from now fails (1 = the next); 0 turns it off. */
void mem_fail_at(int64_t n);

/* false when the result would not fit. */
static inline bool size_mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool size_add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline int64_t i64_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t i64_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t i64_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; } /* a >= 0, b > 0 */
static inline size_t size_round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

#endif
