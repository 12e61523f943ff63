#include "io/json_span.h"

#include <string.h>

static size_t skip_blanks(const char *s, size_t n, size_t i) {
    while (i < n && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n' || s[i] == '\r')) i++;
    return i;
}

/* i stands on the opening quote; the place behind the closing one. */
static size_t skip_string(const char *s, size_t n, size_t i) {
    for (i++; i < n && s[i] != '"'; i++)
        if (s[i] == '\\') i++;
    return i < n ? i + 1 : n;
}

static size_t skip_value(const char *s, size_t n, size_t i) {
    int depth = 0;
    while (i < n) {
        char c = s[i];
        if (depth == 0 && (c == ',' || c == '}' || c == ']' || c == ' ' || c == '\t' || c == '\r' || c == '\n')) return i;
        if (c == '"') {
            i = skip_string(s, n, i);
        } else {
            depth += (c == '{' || c == '[') - (c == '}' || c == ']');
            i++;
        }
        if (depth == 0 && (c == '"' || c == '}' || c == ']')) return i;
    }
    return n;
}

/* The four hex digits at s, or -1. */
static int32_t hex4(const char *s, size_t n) {
    int32_t v = 0;
    if (n < 4) return -1;
    for (int i = 0; i < 4; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

static bool is_high(int32_t u) { return u >= 0xD800 && u < 0xDC00; }
static bool is_low(int32_t u) { return u >= 0xDC00 && u < 0xE000; }

/* The second half behind a high surrogate whose escape ends at s[i], or -1. */
static int32_t low_half(const char *s, size_t n, size_t i) {
    int32_t u = n - i >= 6 && s[i] == '\\' && s[i + 1] == 'u' ? hex4(s + i + 2, n - i - 2) : -1;
    return is_low(u) ? u : -1;
}

static size_t put_utf8(char *to, int32_t u) {
    if (u < 0x80) {
        to[0] = (char)u;
        return 1;
    }
    int more = u < 0x800 ? 1 : u < 0x10000 ? 2 : 3;
    static const int lead[] = {0, 0xC0, 0xE0, 0xF0};
    to[0] = (char)(lead[more] | u >> 6 * more);
    for (int i = 1; i <= more; i++) to[i] = (char)(0x80 | (u >> 6 * (more - i) & 63));
    return (size_t)more + 1;
}

/* One character or escape at s[*i], which is moved behind it; its one to four bytes go to `to`. */
static size_t decode_one(const char *s, size_t n, size_t *i, char *to) {
    static const char plain[] = "n\nt\tr\rb\bf\f"; /* pairs: the letter, its byte */
    if (s[*i] != '\\' || *i + 1 == n) {
        to[0] = s[(*i)++];
        return 1;
    }
    char c = s[*i + 1];
    *i += 2;
    int32_t u = c == 'u' ? hex4(s + *i, n - *i) : -1, low;
    if (u >= 0) {
        *i += 4;
        if (is_high(u) && (low = low_half(s, n, *i)) >= 0) {
            u = 0x10000 + ((u - 0xD800) << 10) + (low - 0xDC00);
            *i += 6;
        }
        return put_utf8(to, u);
    }
    for (size_t k = 0; k + 1 < sizeof plain - 1; k += 2)
        if (c == plain[k]) {
            c = plain[k + 1];
            break;
        }
    to[0] = c;
    return 1;
}

size_t json_unescape(const char *s, size_t n, char *to) {
    size_t at = 0;
    for (size_t i = 0; i < n;) at += decode_one(s, n, &i, to + at);
    return at;
}

/* Whether the written key is `key` to those who see C strings: escapes resolved, and ended by a NUL character. Both sides of a look-up, in
 * the tree and in the text, must agree, or one member's type would be taken for another's. */
static bool same_key(const char *s, size_t n, const char *key) {
    for (size_t i = 0; i < n;) {
        char c[4];
        size_t len = decode_one(s, n, &i, c);
        if (len == 1 && !c[0]) break;
        if (strncmp(key, c, len)) return false;
        key += len;
    }
    return !*key;
}

bool json_span(const char *s, size_t n, const char *key, const char **value, size_t *value_bytes) {
    size_t i = skip_blanks(s, n, 0);
    bool found = false;
    if (i >= n || s[i] != '{') return false;
    for (i++; i < n;) {
        size_t name = skip_blanks(s, n, i);
        if (name >= n || s[name] != '"') break;
        size_t name_end = skip_string(s, n, name), colon = skip_blanks(s, n, name_end);
        if (name_end < name + 2 || colon >= n || s[colon] != ':') break;
        size_t start = skip_blanks(s, n, colon + 1), end = skip_value(s, n, start);
        if (same_key(s + name + 1, name_end - name - 2, key)) {
            found = true;
            *value = s + start;
            *value_bytes = end - start;
        }
        i = skip_blanks(s, n, end);
        if (i >= n || s[i] != ',') break;
        i++;
    }
    return found;
}

int64_t json_mend(char *s, size_t n) {
    int64_t mended = 0;
    for (size_t i = 0; i + 1 < n;) {
        if (s[i] != '\\') {
            i++;
            continue;
        }
        int32_t u = s[i + 1] == 'u' ? hex4(s + i + 2, n - i - 2) : -1;
        i += u < 0 ? 2 : 6;
        if (is_high(u) && low_half(s, n, i) >= 0) {
            i += 6;
        } else if (is_high(u) || is_low(u)) {
            memcpy(s + i - 4, "fffd", 4);
            mended++;
        }
    }
    return mended;
}
