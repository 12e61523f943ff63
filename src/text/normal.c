#include "text/normal.h"

#include <string.h>

#include "base/mem.h"
#include "io/utf8.h"

/* A text may become this many times as long, and this much: what files of real models do is far below, and what a hostile one could do with
 * eight steps has no end. */
enum { GROWTH_MAX = 64, GROWTH_MORE = 4096 };

void normal_work_free(normal_work_t *w) {
    mem_free(w->text[0].s);
    mem_free(w->text[1].s);
    memset(w, 0, sizeof *w);
}

static status_t copy_text(char *to, size_t *to_n, const char *s, const char *name) {
    *to_n = s ? strlen(s) : 0;
    if (*to_n >= NORMAL_TEXT_MAX)
        return status_fail(ST_INPUT, "%s: a text of %zu bytes in the normalizer, at most %d can be read; use another model", name, *to_n,
                           NORMAL_TEXT_MAX - 1);
    if (utf8_valid_bytes(s ? s : "", *to_n) < *to_n)
        return status_fail(ST_INPUT, "%s: a text of the normalizer is not UTF-8; get the file again", name);
    if (s) memcpy(to, s, *to_n + 1);
    return ST_OK;
}

status_t normal_add(normal_t *z, normal_kind_t kind, const char *from, const char *to, const char *name) {
    if (z->n == NORMAL_STEPS_MAX)
        return status_fail(ST_INPUT, "%s: more than %d normalizer steps are not supported; use another model", name, NORMAL_STEPS_MAX);
    status_t st = copy_text(z->step[z->n].from, &z->step[z->n].from_n, from, name);
    if (!st) st = copy_text(z->step[z->n].to, &z->step[z->n].to_n, to, name);
    if (!st && kind == NORMAL_REPLACE && z->step[z->n].from_n == 0)
        st = status_fail(ST_INPUT, "%s: normalizer Replace of an empty text is not supported; use another model", name);
    if (!st) z->step[z->n++].kind = kind;
    return st;
}

bool normal_has(const normal_t *z, normal_kind_t kind) {
    for (int i = 0; i < z->n; i++)
        if (z->step[i].kind == kind) return true;
    return false;
}

static status_t reserve(utf8_t *out, size_t more) {
    if (more <= out->cap - out->n) return ST_OK;
    size_t cap = out->cap + out->cap / 2 + more;
    status_t st = mem_grow(&out->s, cap, 1, "normalised text");
    if (!st) out->cap = cap;
    return st;
}

static status_t append(utf8_t *out, const char *s, size_t n) {
    status_t st = reserve(out, n);
    if (st) return st;
    if (n) memcpy(out->s + out->n, s, n);
    out->n += n;
    return ST_OK;
}

static const char *find(const char *s, size_t n, const char *word, size_t k) {
    if (k == 1) return n ? memchr(s, word[0], n) : NULL;
    return n ? memmem(s, n, word, k) : NULL;
}

static status_t replace(const char *s, size_t n, const char *from, size_t from_n, const char *to, size_t to_n, size_t most, utf8_t *out) {
    const char *end = s + n, *hit;
    status_t st = reserve(out, n);
    while (!st && (hit = find(s, (size_t)(end - s), from, from_n))) {
        if (out->n > most)
            return status_fail(ST_INPUT, "normalising made a text more than %d times as long; use another model", GROWTH_MAX);
        st = append(out, s, (size_t)(hit - s));
        if (!st) st = append(out, to, to_n);
        s = hit + from_n;
    }
    return st ? st : append(out, s, (size_t)(end - s));
}

status_t normal_run(const normal_t *z, normal_work_t *w, const char **text, size_t *n) {
    size_t most = *n > (SIZE_MAX - GROWTH_MORE) / GROWTH_MAX ? SIZE_MAX : *n * GROWTH_MAX + GROWTH_MORE;
    for (int i = 0, side = 0; i < z->n; i++) {
        utf8_t *out = w->text + side;
        status_t st = ST_OK;
        out->n = 0;
        if (z->step[i].kind == NORMAL_NFC) {
            if (!unicode_may_change(*text, *n)) continue;
            st = unicode_nfc(*text, *n, out);
        } else if (z->step[i].kind == NORMAL_PREPEND) {
            if (*n == 0) continue;
            st = append(out, z->step[i].to, z->step[i].to_n);
            if (!st) st = append(out, *text, *n);
        } else {
            st = replace(*text, *n, z->step[i].from, z->step[i].from_n, z->step[i].to, z->step[i].to_n, most, out);
        }
        if (st) return st;
        *text = out->s;
        *n = out->n;
        side ^= 1;
    }
    return ST_OK;
}
