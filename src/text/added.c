#include "text/added.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/utf8.h"
#include "text/unicode.h"

status_t added_put(added_t *a, const added_token_t *t, const char *name) {
    status_t st;
    if (t->n == 0) return ST_OK; /* HF ignores these */
    if (t->n > ADDED_BYTES_MAX)
        return status_fail(ST_INPUT, "%s: added token %d is %zu bytes long, at most %d can be read; shorten it", name, t->id, t->n,
                           ADDED_BYTES_MAX);
    if (utf8_valid_bytes(t->text, t->n) < t->n) /* it would cut characters of the text in two */
        return status_fail(ST_INPUT, "%s: added token %d is not UTF-8; get the file again", name, t->id);
    if (a->n == ADDED_MAX) return status_fail(ST_INPUT, "%s: more than %d added tokens; remove some", name, ADDED_MAX);
    if ((st = mem_room(&a->token, a->n, &a->cap, sizeof *a->token, "added tokens"))) return st;
    char *text;
    if ((st = mem_alloc(&text, t->n + 1, 1, "an added token"))) return st;
    memcpy(text, t->text, t->n);
    text[t->n] = '\0';
    a->token[a->n] = *t;
    a->token[a->n++].text = text;
    return ST_OK;
}

void added_free(added_t *a) {
    for (int64_t i = 0; i < a->n; i++) mem_free((char *)a->token[i].text);
    mem_free(a->token);
    memset(a, 0, sizeof *a);
}

static int text_compare(const char *a, size_t n, const char *b, size_t m) {
    int c = memcmp(a, b, n < m ? n : m);
    return c ? c : (n > m) - (n < m);
}

static int token_compare(const void *x, const void *y) {
    const added_token_t *a = x, *b = y;
    return text_compare(a->text, a->n, b->text, b->n);
}

status_t added_ready(added_t *a, const char *name) {
    if (a->n) qsort(a->token, (size_t)a->n, sizeof *a->token, token_compare);
    for (int64_t i = 0; i < a->n; i++) {
        a->first[(uint8_t)a->token[i].text[0]] = true;
        if (i && !token_compare(a->token + i - 1, a->token + i))
            return status_fail(ST_INPUT, "%s: the added token \"%.40s\" is there twice (ids %d and %d); remove one", name, a->token[i].text,
                               a->token[i - 1].id, a->token[i].id);
    }
    return ST_OK;
}

const added_token_t *added_find(const added_t *a, const char *text, size_t n) {
    for (int64_t lo = 0, hi = a->n; lo < hi;) {
        int64_t mid = lo + (hi - lo) / 2;
        int c = text_compare(a->token[mid].text, a->token[mid].n, text, n);
        if (c == 0) return a->token + mid;
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

/* First token of [lo, hi) whose byte at `depth` is >= byte; all of them are longer than depth and alike before it. */
static int64_t lower(const added_t *a, int64_t lo, int64_t hi, size_t depth, int byte) {
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if ((uint8_t)a->token[mid].text[depth] < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* The longest token at the head of s: the sorted list is narrowed byte by byte; the shortest of those alike so far stands first. */
static const added_token_t *longest_at(const added_t *a, const char *s, size_t n) {
    const added_token_t *best = NULL;
    int64_t lo = 0, hi = a->n;
    for (size_t depth = 0; depth < n; depth++) {
        int byte = (uint8_t)s[depth];
        lo = lower(a, lo, hi, depth, byte);
        hi = lower(a, lo, hi, depth, byte + 1);
        if (lo == hi) break;
        if (a->token[lo].n == depth + 1) best = a->token + lo++;
    }
    return best;
}

static bool stands_alone(const char *s, size_t n, size_t begin, size_t end) {
    size_t k;
    return (begin == 0 || !unicode_is_word(unicode_before(s, begin, &k))) && (end == n || !unicode_is_word(unicode_at(s + end, &k)));
}

/* Where the white space that ends at `at` begins, not before `least`. */
static size_t space_before(const char *s, size_t at, size_t least) {
    size_t k;
    while (at > least && unicode_is_space(unicode_before(s, at, &k))) at -= k;
    return at > least ? at : least;
}

static size_t space_after(const char *s, size_t n, size_t at) {
    size_t k;
    while (at < n && unicode_is_space(unicode_at(s + at, &k))) at += k;
    return at;
}

static bool may_be_special(const added_walk_t *w, size_t begin, size_t end) {
    for (int i = 0; i < w->n_own; i++)
        if (begin < w->own[i].end && end > w->own[i].begin) return false;
    return w->specials;
}

const added_token_t *added_next(const added_t *a, added_walk_t *w, size_t *from, size_t *begin) {
    *from = w->done;
    while (a->n && w->at < w->n) {
        const added_token_t *t = a->first[(uint8_t)w->text[w->at]] ? longest_at(a, w->text + w->at, w->n - w->at) : NULL;
        if (!t) {
            w->at++;
            continue;
        }
        size_t start = w->at, stop = start + t->n;
        w->at = stop; /* also when the match does not count, as HF goes on */
        if (t->special && !may_be_special(w, start, stop)) continue;
        if (t->single_word && !stands_alone(w->text, w->n, start, stop)) continue;
        if (t->lstrip) start = space_before(w->text, start, w->done);
        if (t->rstrip) stop = space_after(w->text, w->n, stop);
        if (start >= stop) continue; /* white space that the token before it has taken: HF drops empty pieces */
        *begin = start;
        w->done = stop;
        return t;
    }
    return NULL;
}
