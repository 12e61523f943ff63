/* Only what the two engines read alike goes through: literals, groups (?: (?i: (?= (?!, alternatives, classes of literals and properties,
 * and greedy, lazy or possessive repeats. White space is spelled out: PCRE2's own \s has U+180E besides.
 */
#include "text/pattern.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "text/split.h"
#include "text/unicode.h"

typedef struct {
    const char *s, *name;
    size_t n, at;
    char *out;
    size_t out_n, cap;
    bool in_class, class_empty;
} pattern_t;

static status_t refuse(const pattern_t *p, size_t len, const char *what) {
    if (len > p->n - p->at) len = p->n - p->at;
    return status_fail(ST_INPUT, "%s: the pre-tokeniser's pattern has \"%.*s\" at %zu: %s is not supported", p->name, (int)len,
                       p->s + p->at, p->at, what);
}

static status_t put(pattern_t *p, const char *s, size_t n) {
    if (p->out_n + n >= p->cap) return refuse(p, 8, "so long a pattern");
    memcpy(p->out + p->out_n, s, n);
    p->out_n += n;
    p->out[p->out_n] = '\0';
    return ST_OK;
}

static status_t keep(pattern_t *p, size_t n) { /* copies the next n bytes */
    status_t st = put(p, p->s + p->at, n);
    p->at += n;
    return st;
}

static bool next_is(const pattern_t *p, const char *s) {
    size_t n = strlen(s);
    return p->n - p->at >= n && !memcmp(p->s + p->at, s, n);
}

/* \p{L}, \P{Lu}: general categories have the same names everywhere. */
static status_t property(pattern_t *p) {
    static const char *const known[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl",
                                        "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk",
                                        "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Cn", "Co", "Cs"};
    const char *brace = p->n - p->at > 3 && p->s[p->at + 2] == '{' ? memchr(p->s + p->at, '}', p->n - p->at) : NULL;
    size_t len = brace ? (size_t)(brace - p->s) - p->at + 1 : 4;
    for (size_t i = 0; brace && i < sizeof known / sizeof *known; i++)
        if (strlen(known[i]) == len - 4 && !memcmp(p->s + p->at + 3, known[i], len - 4)) return keep(p, len);
    return refuse(p, len, "a property other than a general category");
}

/* A set of characters (\s, \p{L}) cannot be the end of a range; as PCRE2 would read the set spelled out, it could. */
static bool in_range(const pattern_t *p) {
    const char *brace = memchr(p->s + p->at, '}', p->n - p->at);
    size_t after = strchr("pP", p->s[p->at + 1]) && brace ? (size_t)(brace - p->s) + 1 : p->at + 2;
    return p->in_class && (p->s[p->at - 1] == '-' || (after + 1 < p->n && p->s[after] == '-' && p->s[after + 1] != ']'));
}

static status_t escape(pattern_t *p) {
    char c = p->n - p->at > 1 ? p->s[p->at + 1] : '\0';
    const char *space = c == 's' ? UNICODE_SPACE : UNICODE_NOT_SPACE;
    status_t st;
    if (c && strchr("sSdDpP", c) && in_range(p)) return refuse(p, 4, "a set in a range");
    switch (c) {
    case 's':
    case 'S':
        if (!p->in_class && (st = put(p, "[", 1))) return st;
        if ((st = put(p, space, strlen(space)))) return st;
        if (!p->in_class && (st = put(p, "]", 1))) return st;
        p->at += 2;
        return ST_OK;
    case 'd':
        p->at += 2;
        return put(p, "\\p{Nd}", 6);
    case 'D':
        p->at += 2;
        return put(p, "\\P{Nd}", 6);
    case 'p':
    case 'P':
        return property(p);
    case 'r':
    case 'n':
    case 't':
        return keep(p, 2);
    default:
        break;
    }
    if ((uint8_t)c > ' ' && (uint8_t)c < 0x7f && !(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z'))
        return keep(p, 2);
    return refuse(p, 2, "this escape");
}

static status_t in_class(pattern_t *p) {
    char c = p->s[p->at];
    if (c == ']') {
        if (p->class_empty) return refuse(p, 4, "an empty class");
        p->in_class = false;
        return keep(p, 1);
    }
    p->class_empty = false;
    if (c == '\\') return escape(p);
    if (c == '[') return refuse(p, 4, "a class within a class");
    if (next_is(p, "&&")) return refuse(p, 4, "an intersection of classes");
    return keep(p, 1);
}

static status_t group(pattern_t *p) {
    static const char *const known[] = {"(?:", "(?i:", "(?=", "(?!"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (next_is(p, known[i])) return keep(p, strlen(known[i]));
    if (next_is(p, "(?") || next_is(p, "(*")) return refuse(p, 4, "this kind of group");
    return keep(p, 1);
}

/* {2} {1,3} {2,}: what follows must not be a plus, which is possessive to PCRE2 alone. */
static status_t repeat(pattern_t *p) {
    size_t k = p->at + 1, digits = 0, commas = 0;
    for (; k < p->n && ((p->s[k] >= '0' && p->s[k] <= '9') || p->s[k] == ','); k++) *(p->s[k] == ',' ? &commas : &digits) += 1;
    if (k == p->n || p->s[k] != '}' || p->s[p->at + 1] < '0' || p->s[p->at + 1] > '9' || commas > 1)
        return refuse(p, 4, "a brace that is no repeat");
    if (k + 1 < p->n && (p->s[k + 1] == '+' || p->s[k + 1] == '?')) return refuse(p, k + 2 - p->at, "a repeat of a counted repeat");
    return keep(p, k + 1 - p->at);
}

static status_t outside(pattern_t *p) {
    status_t st;
    switch (p->s[p->at]) {
    case '\\':
        return escape(p);
    case '(':
        return group(p);
    case '{':
        return repeat(p);
    case '^':
    case '$':
        return refuse(p, 1, "an anchor");
    case '[':
        p->in_class = p->class_empty = true;
        if ((st = keep(p, 1))) return st;
        return next_is(p, "^") ? keep(p, 1) : ST_OK;
    default:
        return keep(p, 1);
    }
}

status_t pattern_to_pcre(const char *pattern, size_t n, char *out, size_t cap, const char *name) {
    pattern_t p = {.s = pattern, .name = name, .n = n, .out = out, .cap = cap};
    status_t st = ST_OK;
    if (n == 0 || n > SPLIT_PATTERN_MAX || memchr(pattern, '\0', n))
        return status_fail(ST_INPUT, "%s: a pre-tokeniser pattern of %zu bytes is not supported (1 to %d, no NUL)", name, n,
                           SPLIT_PATTERN_MAX);
    while (p.at < n && !st) st = p.in_class ? in_class(&p) : outside(&p);
    return st;
}
