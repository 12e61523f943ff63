/* Binary search in ascending lists of int64_t. */
#ifndef BASE_BISECT_H
#define BASE_BISECT_H

#include <stdint.h>

/* The last i in [from, to] with at[i] <= limit (at[from] <= limit holds). */
static inline int64_t bisect_last(const int64_t *at, int64_t from, int64_t to, int64_t limit) {
    int64_t lo = from, hi = to;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo + 1) / 2;
        if (at[mid] <= limit)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* The first i in [0, to] with at[i] >= limit (at[to] >= limit holds). */
static inline int64_t bisect_first(const int64_t *at, int64_t to, int64_t limit) {
    int64_t lo = 0, hi = to;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (at[mid] >= limit)
            hi = mid;
        else
            lo = mid + 1;
    }
    return lo;
}

#endif
