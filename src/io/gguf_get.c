/* Answers from a parsed GGUF file: look-ups through the sorted indexes, and the values in words. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/gguf_file.h"
#include "io/utf8.h"

int gguf_compare_keys(const char *a, size_t a_n, const char *b, size_t b_n) {
    int d = memcmp(a, b, a_n < b_n ? a_n : b_n);
    return d ? d : a_n < b_n ? -1 : a_n > b_n;
}

const kv_t *gguf_find_key(const gguf_t *g, const char *key) {
    int64_t low = 0, high = g->n_kv;
    size_t n = strlen(key);
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        const kv_t *kv = g->kv_sorted[mid];
        int d = gguf_compare_keys(key, n, kv->key, kv->key_n);
        if (!d) return kv;
        if (d < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

int64_t gguf_count(const gguf_t *g) { return g->n_tensor; }
const tensor_t *gguf_at(const gguf_t *g, int64_t i) { return i >= 0 && i < g->n_tensor ? g->tensors + i : NULL; }

const tensor_t *gguf_find(const gguf_t *g, const char *name) { return tensors_find(g->tensors_sorted, g->n_tensor, name); }

bool gguf_get_i64(const gguf_t *g, const char *key, int64_t *out) {
    const kv_t *kv = gguf_find_key(g, key);
    return kv && kv->type != GT_BOOL && gguf_scalar_i64(kv->type, kv->value, out);
}

bool gguf_get_f64(const gguf_t *g, const char *key, double *out) {
    const kv_t *kv = gguf_find_key(g, key);
    return kv && gguf_scalar_f64(kv->type, kv->value, out);
}

bool gguf_get_bool(const gguf_t *g, const char *key, bool *out) {
    const kv_t *kv = gguf_find_key(g, key);
    if (!kv || kv->type != GT_BOOL) return false;
    *out = *kv->value != 0;
    return true;
}

bool gguf_get_str(const gguf_t *g, const char *key, const char **s, size_t *n) {
    const kv_t *kv = gguf_find_key(g, key);
    if (!kv || kv->type != GT_STRING) return false;
    *s = (const char *)kv->value;
    *n = (size_t)kv->n;
    return true;
}

static const kv_t *find_item(const gguf_t *g, const char *key, int64_t i) {
    const kv_t *kv = gguf_find_key(g, key);
    return kv && kv->type == GT_ARRAY && i >= 0 && (uint64_t)i < kv->n ? kv : NULL;
}

int64_t gguf_array_n(const gguf_t *g, const char *key) {
    const kv_t *kv = gguf_find_key(g, key);
    return kv && kv->type == GT_ARRAY ? (int64_t)kv->n : -1;
}

static void string_at(const kv_t *kv, int64_t i, const char **s, size_t *n) {
    uint64_t len;
    memcpy(&len, kv->strings[i], 8);
    *s = (const char *)kv->strings[i] + 8;
    *n = (size_t)len;
}

bool gguf_array_str(const gguf_t *g, const char *key, int64_t i, const char **s, size_t *n) {
    const kv_t *kv = find_item(g, key, i);
    if (!kv || kv->item_type != GT_STRING) return false;
    string_at(kv, i, s, n);
    return true;
}

/* NULL also for arrays of strings. */
static const uint8_t *find_scalar(const gguf_t *g, const char *key, int64_t i, uint32_t *type) {
    const kv_t *kv = find_item(g, key, i);
    if (!kv || kv->item_type == GT_STRING) return NULL;
    *type = kv->item_type;
    return kv->value + (size_t)i * gguf_scalar_bytes(kv->item_type);
}

bool gguf_array_f64(const gguf_t *g, const char *key, int64_t i, double *out) {
    uint32_t type = GT_COUNT;
    const uint8_t *p = find_scalar(g, key, i, &type);
    return p && gguf_scalar_f64(type, p, out);
}

bool gguf_array_i64(const gguf_t *g, const char *key, int64_t i, int64_t *out) {
    uint32_t type = GT_COUNT;
    const uint8_t *p = find_scalar(g, key, i, &type);
    return p && gguf_scalar_i64(type, p, out);
}

int64_t gguf_keys(const gguf_t *g) { return g->n_kv; }

/* A string in quotes, control characters and bad bytes as '?', cut at `most` bytes with "..". */
static size_t print_string(const char *s, size_t n, size_t most, char *text, size_t cap) {
    size_t at = (size_t)snprintf(text, cap, "\"");
    for (size_t i = 0; i < n;) {
        bool ok;
        size_t len = utf8_step(s + i, n - i, &ok);
        if (i + len > most || at + len + 4 >= cap) return at + (size_t)snprintf(text + at, cap - at, "..\"");
        if (ok && (unsigned char)s[i] >= 32) {
            memcpy(text + at, s + i, len);
            at += len;
        } else {
            text[at++] = '?';
        }
        i += len;
    }
    return at + (size_t)snprintf(text + at, cap - at, "\"");
}

static size_t print_scalar(uint32_t type, const uint8_t *p, char *text, size_t cap) {
    int64_t i;
    double d;
    if (type == GT_BOOL) return (size_t)snprintf(text, cap, "%s", *p ? "true" : "false");
    if (gguf_scalar_i64(type, p, &i)) return (size_t)snprintf(text, cap, "%" PRId64, i);
    if (gguf_scalar_f64(type, p, &d)) return (size_t)snprintf(text, cap, type == GT_F32 ? "%.9g" : "%.17g", d);
    uint64_t u;
    memcpy(&u, p, 8); /* a u64 beyond int64 */
    return (size_t)snprintf(text, cap, "%" PRIu64, u);
}

enum { SHOWN_ITEMS = 4, SHOWN_BYTES = 24, ITEM_ROOM = 64 };

void gguf_key_text(const gguf_t *g, int64_t i, const char **key, size_t *key_n, char *text, size_t cap) {
    const kv_t *kv = g->kv + i;
    *key = kv->key;
    *key_n = kv->key_n;
    if (cap < 2 * ITEM_ROOM) {
        if (cap) text[0] = 0;
        return;
    }
    if (kv->type == GT_STRING) {
        print_string((const char *)kv->value, (size_t)kv->n, SIZE_MAX, text, cap);
    } else if (kv->type != GT_ARRAY) {
        print_scalar(kv->type, kv->value, text, cap);
    } else {
        size_t at = (size_t)snprintf(text, cap, "%" PRIu64 " x %s [", kv->n, gguf_scalar_name(kv->item_type));
        for (uint64_t k = 0; k < kv->n && k < SHOWN_ITEMS && at + ITEM_ROOM < cap; k++) {
            const char *s;
            size_t n;
            if (k) at += (size_t)snprintf(text + at, cap - at, ", ");
            if (kv->item_type == GT_STRING) {
                string_at(kv, (int64_t)k, &s, &n);
                at += print_string(s, n, SHOWN_BYTES, text + at, cap - at);
            } else {
                at += print_scalar(kv->item_type, kv->value + k * gguf_scalar_bytes(kv->item_type), text + at, cap - at);
            }
        }
        snprintf(text + at, cap - at, kv->n > SHOWN_ITEMS ? ", ..]" : "]");
    }
}
