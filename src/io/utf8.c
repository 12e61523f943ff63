/* The table of the Unicode standard (3.9, well-formed byte sequences): the lead byte says how many follow and, for four of them,
 * narrows the range of the second byte, which keeps out overlong forms, surrogates and what lies beyond U+10FFFF.
 *
 *     C2..DF  80..BF                     E0  A0..BF 80..BF      ED  80..9F 80..BF      E1..EC EE EF  80..BF 80..BF
 *     F0  90..BF 80..BF 80..BF           F4  80..8F ..          F1..F3  80..BF ..
 */
#include "io/utf8.h"

#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "io/corpus.h"

size_t utf8_step(const char *s, size_t n, bool *ok) {
    const uint8_t *p = (const uint8_t *)s;
    uint8_t lead = p[0], low = 0x80, high = 0xBF;
    *ok = true;
    if (lead < 0x80) return 1;
    size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2, i = 1;
    if (lead < 0xC2 || lead > 0xF4) want = 1;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    for (; i < want && i < n && p[i] >= low && p[i] <= high; i++) {
        low = 0x80;
        high = 0xBF;
    }
    *ok = want > 1 && i == want;
    return i;
}

size_t utf8_valid_bytes(const char *s, size_t n) {
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        bool ok;
        if (n - i >= 8 && (memcpy(&eight, s + i, 8), !(eight & 0x8080808080808080u))) {
            i += 8;
            continue;
        }
        size_t len = utf8_step(s + i, n - i, &ok);
        if (!ok) return i;
        i += len;
    }
    return n;
}

/* Two passes: count what is bad, then copy; a replacement takes three bytes where one to three were. */
status_t utf8_repair(const char *s, size_t n, char **out, size_t *out_n, int64_t *n_bad) {
    size_t bytes = 0, good;
    int64_t bad = 0;
    bool ok;
    for (size_t i = 0; i < n;) {
        good = utf8_valid_bytes(s + i, n - i);
        i += good;
        bytes += good;
        if (i == n) break;
        i += utf8_step(s + i, n - i, &ok);
        bytes += 3;
        bad++;
    }
    *out = NULL;
    char *to = NULL;
    status_t st = mem_alloc(&to, bytes + 1, 1, "a repaired text");
    if (st) return st;
    size_t at = 0;
    for (size_t i = 0; i < n;) {
        good = utf8_valid_bytes(s + i, n - i);
        memcpy(to + at, s + i, good);
        i += good;
        at += good;
        if (i == n) break;
        i += utf8_step(s + i, n - i, &ok);
        memcpy(to + at, "\xEF\xBF\xBD", 3);
        at += 3;
    }
    to[at] = 0;
    *out = to;
    *out_n = at;
    if (n_bad) *n_bad = bad;
    return ST_OK;
}
