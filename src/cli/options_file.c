/* Configuration files: lines `key = value`, # comments, blank lines. Nothing else: no sections, no continuation.
 *
 *     # a comment
 *     segment = 4K            # a comment after a value
 *     sink = "Read this.\n\n" # in quotes, \n \t \" \\ are escapes, and blanks and # stay
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/options_value.h"

enum { LINE_MAX_BYTES = 64 << 10 };

static char *trim(char *s) {
    while (isspace((unsigned char)*s)) s++;
    char *end = s + strlen(s);
    while (end > s && isspace((unsigned char)end[-1])) end--;
    *end = 0;
    return s;
}

/* Takes the quotes and escapes off in place; NULL when all is well, else what is wrong. */
static const char *unquote(char *s) {
    static const char code[] = "nt\"\\", byte[] = "\n\t\"\\";
    char *to = s, *from = s + 1;
    for (; *from && *from != '"'; from++) {
        if (*from != '\\') {
            *to++ = *from;
            continue;
        }
        const char *c = *++from ? strchr(code, *from) : NULL;
        if (!c) return "an escape that is none of \\n \\t \\\" \\\\";
        *to++ = byte[c - code];
    }
    if (!*from) return "a closing quote is missing";
    from = trim(from + 1);
    if (*from && *from != '#') return "words after the closing quote";
    *to = 0;
    return NULL;
}

static status_t read_line(const char *path, int number, char *line, config_line_fn set, void *ctx) {
    char *key = trim(line), *value = strchr(key, '=');
    if (!*key || *key == '#') return ST_OK;
    if (!value) return status_fail(ST_USAGE, "%s line %d: \"%.60s\" is no `key = value`", path, number, key);
    *value++ = 0;
    key = trim(key);
    value = trim(value);
    if (*value == '"') {
        const char *wrong = unquote(value);
        if (wrong) return status_fail(ST_USAGE, "%s line %d: %s: %s", path, number, key, wrong);
    } else {
        for (char *c = value; *c; c++) /* a # with a blank before it begins a comment */
            if (*c == '#' && (c == value || isspace((unsigned char)c[-1]))) *c = 0;
        value = trim(value);
    }
    return set(ctx, path, number, key, value);
}

status_t config_read(const char *path, config_line_fn set, void *ctx) {
    static char line[LINE_MAX_BYTES]; /* before any thread starts */
    status_t st = ST_OK;
    FILE *f = fopen(path, "r");
    if (!f) return status_fail(ST_INPUT, "%s: %s; --config names a file of lines key = value", path, strerror(errno));
    for (int number = 1; !st && fgets(line, sizeof line, f); number++) {
        if (strlen(line) == sizeof line - 1)
            st = status_fail(ST_USAGE, "%s line %d: longer than %d bytes", path, number, LINE_MAX_BYTES - 2);
        else
            st = read_line(path, number, line, set, ctx);
    }
    if (!st && ferror(f)) st = status_fail(ST_INPUT, "%s: %s; --config names a file of lines key = value", path, strerror(errno));
    fclose(f);
    return st;
}
