#include "store/line.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char SEAL_KEY[] = ",\"xxh3\":\"";
enum { SEAL_KEY_BYTES = sizeof SEAL_KEY - 1, HEX_DIGITS = HASH_HEX - 1 };
_Static_assert(SEAL_KEY_BYTES + HEX_DIGITS + 3 == LINE_SEAL, "the seal's length is part of the format");

static bool hex_scan(const char *p, hash_t *out) {
    char hex[HASH_HEX];
    memcpy(hex, p, HEX_DIGITS);
    hex[HEX_DIGITS] = 0;
    return hash_parse(hex, out);
}

/* Is text[0 .. bytes) a whole line, its last byte left aside? */
static bool line_open(const char *text, size_t bytes, line_t *out) {
    if (bytes < LINE_SEAL) return false;
    const char *seal = text + bytes - LINE_SEAL;
    *out = (line_t){text, bytes, bytes - LINE_SEAL, {0, 0}};
    return !memcmp(seal, SEAL_KEY, SEAL_KEY_BYTES) && hex_scan(seal + SEAL_KEY_BYTES, &out->seal) &&
           !memcmp(seal + SEAL_KEY_BYTES + HEX_DIGITS, "\"}", 2) && hash_equal(out->seal, hash_bytes(text, out->body));
}

line_state_t lines_next(lines_t *r, line_t *out) {
    if (r->at >= r->bytes) return LINE_END;
    const char *text = r->data + r->at, *newline = memchr(text, '\n', r->bytes - r->at);
    size_t bytes = newline ? (size_t)(newline - text) + 1 : r->bytes - r->at;
    r->at += bytes;
    r->number++;
    bool good = line_open(text, bytes, out);
    if (newline) return good ? LINE_GOOD : LINE_BAD;
    return good ? LINE_BAD : LINE_TORN; /* a whole line with another byte for its newline was not torn: a bit flipped */
}

size_t line_seal(char *line, size_t body_bytes) {
    char seal[LINE_SEAL + 1], hex[HASH_HEX];
    hash_hex(hash_bytes(line, body_bytes), hex);
    snprintf(seal, sizeof seal, "%s%s\"}\n", SEAL_KEY, hex);
    memcpy(line + body_bytes, seal, LINE_SEAL);
    return body_bytes + LINE_SEAL;
}

status_t line_finish(json_out_t *j, FILE *f, char **text, size_t *bytes) {
    json_end(j);
    bool whole = !ferror(f);
    if (fclose(f) || !whole || *bytes < 2)
        return status_fail(ST_FAIL, "out of memory for a record of the store; use a machine with more memory");
    size_t body = *bytes - 2; /* less "}\n", which the seal brings */
    char *grown = realloc(*text, body + LINE_SEAL);
    if (!grown) return status_fail(ST_FAIL, "out of memory for a record of %zu bytes; use a machine with more memory", body);
    *text = grown;
    *bytes = line_seal(grown, body);
    return ST_OK;
}

void scan_text(scan_t *s, const char *expected) {
    size_t n = strlen(expected);
    s->ok = s->ok && (size_t)(s->end - s->p) >= n && !memcmp(s->p, expected, n);
    if (s->ok) s->p += n;
}

bool scan_maybe(scan_t *s, const char *text) {
    size_t n = strlen(text);
    if (!s->ok || (size_t)(s->end - s->p) < n || memcmp(s->p, text, n)) return false;
    s->p += n;
    return true;
}

int64_t scan_int(scan_t *s) {
    const int64_t most = (int64_t)1 << 53;
    int64_t v = 0;
    const char *begin = s->p;
    while (s->ok && s->p < s->end && *s->p >= '0' && *s->p <= '9') {
        v = v * 10 + (*s->p++ - '0');
        if (v > most) s->ok = false;
    }
    if (s->p == begin || (*begin == '0' && s->p > begin + 1)) s->ok = false;
    return s->ok ? v : 0;
}

hash_t scan_hash(scan_t *s) {
    hash_t h = {0, 0};
    s->ok = s->ok && s->end - s->p >= HEX_DIGITS && hex_scan(s->p, &h);
    if (s->ok) s->p += HEX_DIGITS;
    return h;
}

bool scan_done(const scan_t *s) { return s->ok && s->p == s->end; }

status_t problem(problems_t *p, const char *fmt, ...) {
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    p->n++;
    if (p->tell) p->tell(p->ctx, line);
    return p->strict ? status_fail(ST_INPUT, "%s; encode again with the settings of the store to repair it", line) : ST_OK;
}
