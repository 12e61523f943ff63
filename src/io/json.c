/* Reading: cJSON does the work, after one cheap pass over the bytes has refused what would cost too much: nesting that would eat the
 * stack and value counts that would eat the memory (a cJSON node is 64 bytes, so "[0,0,0,.." grows 32 times).
 *
 * Writing: straight to a FILE. A level remembers only what closes it and whether a comma is due.
 */
#include "io/json.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/utf8.h"

enum { JSON_DEPTH_MAX = 256, JSON_VALUES_MAX = 32 << 20 };

/* ---- reading ---- */

/* *i stands on the opening quote and is moved to the closing one, or the end. cJSON takes \u with no four digits behind it for a NUL. */
static status_t check_string(const char *text, size_t bytes, const char *name, size_t *i) {
    for (++*i; *i < bytes && text[*i] != '"' && text[*i]; ++*i) {
        if (text[*i] != '\\') continue;
        if (++*i == bytes || !text[*i]) break;
        for (size_t k = 1; text[*i] == 'u' && k <= 4; k++)
            if (*i + k >= bytes || !isxdigit((unsigned char)text[*i + k]))
                return status_fail(ST_INPUT, "%s: byte %zu: not valid JSON: \\u without four hexadecimal digits; correct it", name, *i - 1);
    }
    return ST_OK;
}

/* Whether the brackets match is left to the parser. */
static status_t check_limits(const char *text, size_t bytes, const char *name) {
    int depth = 0, values = 1;
    status_t st;
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == '"' && (st = check_string(text, bytes, name, &i))) return st;
        if (i == bytes) break;
        char c = text[i];
        if (!c) return status_fail(ST_INPUT, "%s: byte %zu: a NUL byte in JSON; remove it", name, i);
        if ((unsigned char)c < ' ' && c != '\t' && c != '\n' && c != '\r') /* cJSON takes them for blanks */
            return status_fail(ST_INPUT, "%s: byte %zu: not valid JSON: control character 0x%02x; remove it", name, i, (unsigned)c);
        if (c == '[' || c == '{') {
            if (++depth > JSON_DEPTH_MAX)
                return status_fail(ST_INPUT, "%s: byte %zu: JSON nested deeper than %d levels; is it the right file?", name, i,
                                   JSON_DEPTH_MAX);
            values++;
        } else if (c == ']' || c == '}') {
            depth -= depth > 0; /* a stray one is the parser's to refuse */
        } else if (c == ',' && ++values > JSON_VALUES_MAX) {
            return status_fail(ST_INPUT, "%s: byte %zu: more than %d JSON values; cut it into smaller pieces", name, i, JSON_VALUES_MAX);
        }
    }
    return ST_OK;
}

enum { PLACE = 48, QUOTED = 20 };

/* What stands at the place of an error, short and printable. Of a text that was cut the parser names the last byte. */
static void quote_place(const char *text, size_t bytes, size_t at, char out[PLACE]) {
    char quoted[QUOTED + 1];
    int n = 0;
    for (size_t i = at; i < bytes && n < QUOTED; i++) quoted[n++] = text[i] >= 32 && text[i] < 127 ? text[i] : '?';
    quoted[n] = 0;
    snprintf(out, PLACE, n ? "\"%s\"%s" : "nothing%s%s", quoted, at + 1 >= bytes ? " and the end" : "");
}

status_t json_parse(const char *text, size_t bytes, const char *name, cJSON **out) {
    *out = NULL;
    status_t st = check_limits(text, bytes, name);
    if (st) return st;
    const char *end = text;
    cJSON *v = bytes ? cJSON_ParseWithLengthOpts(text, bytes, &end, 0) : NULL;
    size_t at = end && end >= text ? (size_t)(end - text) : 0;
    while (v && at < bytes && (text[at] == ' ' || text[at] == '\t' || text[at] == '\r' || text[at] == '\n')) at++;
    if (v && at == bytes) {
        *out = v;
        return ST_OK;
    }
    char place[PLACE];
    quote_place(text, bytes, at, place);
    st = status_fail(ST_INPUT, "%s: byte %zu: %s: found %s; correct or remove it", name, at,
                     v ? "more after the end of the JSON value" : "not valid JSON", place);
    cJSON_Delete(v);
    return st;
}

const cJSON *json_get(const cJSON *o, const char *key) {
    const cJSON *found = NULL;
    if (!o || !cJSON_IsObject(o)) return NULL;
    for (const cJSON *c = o->child; c; c = c->next)
        if (c->string && !strcmp(c->string, key)) found = c; /* of doubled keys the last counts, as in Python */
    return found;
}

const char *json_get_str(const cJSON *o, const char *key) {
    const cJSON *v = json_get(o, key);
    return v && cJSON_IsString(v) ? v->valuestring : NULL;
}

bool json_get_i64(const cJSON *o, const char *key, int64_t *out) {
    const cJSON *v = json_get(o, key);
    if (!v || !cJSON_IsNumber(v) || !(fabs(v->valuedouble) <= 0x1p53) || v->valuedouble != floor(v->valuedouble)) return false;
    *out = (int64_t)v->valuedouble;
    return true;
}

bool json_get_f64(const cJSON *o, const char *key, double *out) {
    const cJSON *v = json_get(o, key);
    if (!v || !cJSON_IsNumber(v)) return false;
    *out = v->valuedouble;
    return true;
}

bool json_get_bool(const cJSON *o, const char *key, bool *out) {
    const cJSON *v = json_get(o, key);
    if (!v || !cJSON_IsBool(v)) return false;
    *out = cJSON_IsTrue(v) != 0;
    return true;
}

/* ---- writing ---- */

enum { LEVELS = sizeof((json_out_t *)0)->close };

/* U+0085, U+2028 and U+2029 end a line for many readers (Python's splitlines): written as they are they would cut a record in two. */
static const char *line_end(const char *s, size_t len) {
    if (len == 2 && !memcmp(s, "\xC2\x85", 2)) return "0085";
    if (len == 3 && !memcmp(s, "\xE2\x80\xA8", 3)) return "2028";
    return len == 3 && !memcmp(s, "\xE2\x80\xA9", 3) ? "2029" : NULL;
}

static void write_string(FILE *f, const char *s, size_t n) {
    static const char named[] = "\"\"\\\\\nn\rr\tt\bb\ff"; /* pairs: the byte, its letter */
    putc('"', f);
    for (size_t i = 0; i < n;) {
        bool ok;
        size_t len = utf8_step(s + i, n - i, &ok);
        const char *pair = NULL;
        for (size_t k = 0; len == 1 && k + 1 < sizeof named - 1; k += 2)
            if (s[i] == named[k]) pair = named + k;
        if (!ok)
            fputs("\xEF\xBF\xBD", f);
        else if (pair)
            fprintf(f, "\\%c", pair[1]);
        else if (len == 1 && (unsigned char)s[i] < 0x20)
            fprintf(f, "\\u%04x", s[i]);
        else if (line_end(s + i, len))
            fprintf(f, "\\u%s", line_end(s + i, len));
        else
            fwrite(s + i, 1, len, f);
        i += len;
    }
    putc('"', f);
}

/* Comma and key before a value. */
static void before(json_out_t *j, const char *key) {
    int level = j->depth < LEVELS ? j->depth : LEVELS - 1;
    if (!j->first[level]) putc(',', j->f);
    j->first[level] = false;
    if (!key) return;
    write_string(j->f, key, strlen(key));
    putc(':', j->f);
}

void json_begin(json_out_t *j, FILE *f) {
    j->f = f;
    j->depth = 0;
    j->first[0] = true;
}

void json_open(json_out_t *j, const char *key, char bracket) {
    assert(j->depth + 1 < LEVELS);
    before(j, key);
    putc(bracket, j->f);
    j->depth++;
    if (j->depth >= LEVELS) return;
    j->close[j->depth] = bracket == '{' ? '}' : ']';
    j->first[j->depth] = true;
}

void json_close(json_out_t *j) {
    assert(j->depth > 0);
    if (j->depth <= 0) return;
    if (j->depth < LEVELS) putc(j->close[j->depth], j->f);
    j->depth--;
}

void json_str(json_out_t *j, const char *key, const char *s) { json_strn(j, key, s, strlen(s)); }

void json_strn(json_out_t *j, const char *key, const char *s, size_t n) {
    before(j, key);
    write_string(j->f, s, n);
}

void json_int(json_out_t *j, const char *key, int64_t v) {
    before(j, key);
    fprintf(j->f, "%" PRId64, v);
}

/* 15 digits survive the way there and back, 17 always suffice; a subnormal has fewer, so its shortest form is searched from 1. */
static void write_number(FILE *f, double v) {
    char text[40];
    if (!isfinite(v)) {
        fputs("null", f);
        return;
    }
    for (int digits = fabs(v) < 0x1p-1021 ? 1 : 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    for (char *c = text; *c; c++)
        if (*c == ',') *c = '.'; /* some locales */
    fputs(text, f);
}

void json_num(json_out_t *j, const char *key, double v) {
    before(j, key);
    write_number(j->f, v);
}

void json_bool(json_out_t *j, const char *key, bool v) {
    before(j, key);
    fputs(v ? "true" : "false", j->f);
}

static void write_value(FILE *f, const cJSON *v) { /* as deep as the reader allows, JSON_DEPTH_MAX */
    if (!v || cJSON_IsNull(v) || cJSON_IsInvalid(v)) {
        fputs("null", f);
    } else if (cJSON_IsBool(v)) {
        fputs(cJSON_IsTrue(v) ? "true" : "false", f);
    } else if (cJSON_IsNumber(v)) {
        write_number(f, v->valuedouble);
    } else if (cJSON_IsRaw(v)) {
        fputs(v->valuestring, f);
    } else if (cJSON_IsString(v)) {
        write_string(f, v->valuestring, strlen(v->valuestring));
    } else {
        bool object = cJSON_IsObject(v) != 0;
        putc(object ? '{' : '[', f);
        for (const cJSON *c = v->child; c; c = c->next) {
            if (c != v->child) putc(',', f);
            if (object) {
                write_string(f, c->string, strlen(c->string));
                putc(':', f);
            }
            write_value(f, c);
        }
        putc(object ? '}' : ']', f);
    }
}

void json_raw(json_out_t *j, const char *key, const cJSON *v) {
    before(j, key);
    write_value(j->f, v);
}

void json_end(json_out_t *j) {
    while (j->depth > 0) json_close(j);
    putc('\n', j->f);
    j->first[0] = true;
}
