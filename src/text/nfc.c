/* Normalisation form C, a stretch at a time.
 *
 * No character below U+0300 is changed by NFC when it stands alone, and none combines with what stands before it. So a text falls into
 * stretches, each one such character and the characters from U+0300 on that follow it:
 *
 *     [C][a][f][e + U+0301][ ][o][k]          only the stretch in the middle needs work
 *
 * Marks are put in order by counting, not by exchanging neighbours as the library does: a megabyte of marks must not take hours.
 */
#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "text/unicode.h"

enum { FIRST_LEAD = 0xcc, /* leads U+0300 */ CHAR_PARTS = 8, ORDER_SHORT = 16 };

typedef struct {
    int32_t *c, *spare;
    size_t n, cap;
} chars_t;

bool unicode_may_change(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)s[i] >= FIRST_LEAD) return true;
    return false;
}

static int class_of(int32_t c) { return utf8proc_get_property(c)->combining_class; }

static void order_short(int32_t *c, size_t n) {
    for (size_t i = 1; i < n; i++) {
        int32_t x = c[i];
        size_t k = i;
        for (; k > 0 && class_of(c[k - 1]) > class_of(x); k--) c[k] = c[k - 1];
        c[k] = x;
    }
}

static void order_long(int32_t *c, int32_t *spare, size_t n) {
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++) at[class_of(c[i]) + 1]++;
    for (int k = 0; k < 256; k++) at[k + 1] += at[k];
    for (size_t i = 0; i < n; i++) spare[at[class_of(c[i])]++] = c[i];
    memcpy(c, spare, n * sizeof *c);
}

/* Canonical order: each run of marks sorted by class, stable. */
static void order_marks(chars_t *w) {
    for (size_t i = 0, end; i < w->n; i = end) {
        end = i + 1;
        if (class_of(w->c[i]) == 0) continue;
        while (end < w->n && class_of(w->c[end]) != 0) end++;
        if (end - i <= ORDER_SHORT)
            order_short(w->c + i, end - i);
        else
            order_long(w->c + i, w->spare, end - i);
    }
}

static status_t chars_reserve(chars_t *w, size_t want) {
    if (want <= w->cap) return ST_OK;
    status_t st = mem_grow(&w->c, 2 * want, sizeof *w->c, "normalising text");
    if (!st) st = mem_grow(&w->spare, 2 * want, sizeof *w->spare, "normalising text");
    if (!st) w->cap = 2 * want;
    return st;
}

static status_t out_reserve(utf8_t *out, size_t more) {
    if (out->n + more <= out->cap) return ST_OK;
    size_t cap = out->cap + out->cap / 2 + more;
    status_t st = mem_grow(&out->s, cap, 1, "normalised text");
    if (!st) out->cap = cap;
    return st;
}

static status_t stretch_nfc(const char *s, size_t n, chars_t *w, utf8_t *out) {
    status_t st;
    w->n = 0;
    for (size_t i = 0, k; i < n; i += k) {
        int last_boundclass = 0;
        if ((st = chars_reserve(w, w->n + CHAR_PARTS))) return st;
        utf8proc_ssize_t parts =
            utf8proc_decompose_char(unicode_at(s + i, &k), w->c + w->n, CHAR_PARTS, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, &last_boundclass);
        if (parts < 0 || parts > CHAR_PARTS)
            return status_fail(ST_FAIL, "normalising a text failed (%s); report this with the text", utf8proc_errmsg(parts));
        w->n += (size_t)parts;
    }
    order_marks(w);
    utf8proc_ssize_t len = utf8proc_normalize_utf32(w->c, (utf8proc_ssize_t)w->n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (len < 0) return status_fail(ST_FAIL, "normalising a text failed (%s); report this with the text", utf8proc_errmsg(len));
    if ((st = out_reserve(out, 4 * (size_t)len))) return st;
    for (utf8proc_ssize_t i = 0; i < len; i++) out->n += (size_t)utf8proc_encode_char(w->c[i], (uint8_t *)out->s + out->n);
    return ST_OK;
}

status_t unicode_nfc(const char *s, size_t n, utf8_t *out) {
    chars_t w = {0};
    status_t st = out_reserve(out, n);
    for (size_t i = 0; i < n && !st;) {
        size_t plain = i;
        while (plain < n && (uint8_t)s[plain] < FIRST_LEAD) plain++;
        size_t begin = plain; /* of the stretch: the last character before U+0300 and on */
        if (plain < n && plain > i) do
                begin--;
            while (begin > i && ((uint8_t)s[begin] & 0xc0) == 0x80);
        if ((st = out_reserve(out, begin - i))) break;
        memcpy(out->s + out->n, s + i, begin - i);
        out->n += begin - i;
        size_t end = plain;
        while (end < n && ((uint8_t)s[end] >= FIRST_LEAD || ((uint8_t)s[end] & 0xc0) == 0x80)) end++;
        if (end > begin && plain < n) st = stretch_nfc(s + begin, end - begin, &w, out);
        i = end;
    }
    mem_free(w.c);
    mem_free(w.spare);
    return st;
}
