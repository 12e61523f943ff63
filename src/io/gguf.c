/* The file is walked once with a cursor that never passes the end; what is kept are pointers into the map.
 *
 *     "GGUF" u32 version  u64 n_tensor  u64 n_kv
 *     n_kv  x [ string key, u32 type, value ]           string = u64 bytes, then the bytes
 *     n_tensor x [ string name, u32 n_dim, u64 dims[n_dim] (innermost first), u32 type, u64 offset ]
 *     padding to the alignment, then the tensors' data; offsets count from here
 *
 * A count is believed only when the rest of the file could hold that many items of the least size, and the items of long lists are walked
 * once before room is made for them, so a damaged count never turns into a giant allocation. Keys and names are looked up through sorted
 * indexes, which also find the doubled ones.
 */
#include "io/gguf.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/gguf_file.h"

enum {
    KV_BYTES_MIN = 8 + 4 + 1,         /* empty key, type, one byte of value */
    TENSOR_BYTES_MIN = 8 + 4 + 4 + 8, /* empty name, no dims, type, offset */
    KEY_BYTES_MAX = 65535,
    KEYS_MAX = 65536,
    NAME_BYTES_MAX = 255,
    GGUF_DIMS_MAX = 4,
    ALIGN_DEFAULT = 32,
    ALIGN_MAX = 1 << 20,
    SPLITS_MAX = 10000,
};

/* ---- cursor ---- */

typedef struct {
    const uint8_t *data;
    size_t bytes, at;
    const char *name;
} cursor_t;

static status_t fail_cut(const cursor_t *c, const char *what, uint64_t need) {
    return status_fail(ST_INPUT, "%s: byte %zu: %s needs %" PRIu64 " bytes, the file has %zu more; it is cut or damaged, download it again",
                       c->name, c->at, what, need, c->bytes - c->at);
}

static status_t take(cursor_t *c, uint64_t n, const char *what, const uint8_t **out) {
    if (n > c->bytes - c->at) return fail_cut(c, what, n);
    *out = c->data + c->at;
    c->at += (size_t)n;
    return ST_OK;
}

static status_t take_u32(cursor_t *c, const char *what, uint32_t *v) {
    const uint8_t *p = NULL;
    status_t st = take(c, 4, what, &p);
    if (!st) memcpy(v, p, 4);
    return st;
}

static status_t take_u64(cursor_t *c, const char *what, uint64_t *v) {
    const uint8_t *p = NULL;
    status_t st = take(c, 8, what, &p);
    if (!st) memcpy(v, p, 8);
    return st;
}

static status_t take_string(cursor_t *c, const char *what, uint64_t max, const char **s, size_t *n) {
    uint64_t len = 0;
    const uint8_t *p = NULL;
    size_t at = c->at;
    status_t st = take_u64(c, what, &len);
    if (st) return st;
    if (len > max)
        return status_fail(ST_INPUT, "%s: byte %zu: %s of %" PRIu64 " bytes, at most %" PRIu64 "; the file is damaged, download it again",
                           c->name, at, what, len, max);
    if ((st = take(c, len, what, &p))) return st;
    *s = (const char *)p;
    *n = (size_t)len;
    return ST_OK;
}

/* A name: a string that can be printed and compared as C does. */
static status_t take_name(cursor_t *c, const char *what, uint64_t max, const char **s, size_t *n) {
    size_t at = c->at;
    status_t st = take_string(c, what, max, s, n);
    if (st) return st;
    if (memchr(*s, 0, *n))
        return status_fail(ST_INPUT, "%s: byte %zu: %s with a NUL byte in it; the file is damaged, download it again", c->name, at, what);
    return ST_OK;
}

static status_t check_count(const cursor_t *c, uint64_t n, size_t least_bytes, const char *what) {
    if (n <= (c->bytes - c->at) / least_bytes) return ST_OK;
    return status_fail(ST_INPUT, "%s: byte %zu: %" PRIu64 " %s cannot be in a file of %zu bytes; it is cut or damaged, download it again",
                       c->name, c->at, n, what, c->bytes);
}

/* ---- metadata ---- */

/* Twice over the strings: a wrong count runs into the end of the file before anything is allocated for it. */
static status_t read_strings(cursor_t *c, kv_t *kv) {
    cursor_t ahead = *c;
    const char *s;
    size_t n;
    status_t st = check_count(c, kv->n, 8, "strings");
    for (uint64_t i = 0; i < kv->n && !st; i++) st = take_string(&ahead, "a string of an array", UINT64_MAX, &s, &n);
    if (st || (st = mem_alloc(&kv->strings, (size_t)kv->n, sizeof *kv->strings, "string offsets of a GGUF array"))) return st;
    for (uint64_t i = 0; i < kv->n && !st; i++) {
        kv->strings[i] = c->data + c->at;
        st = take_string(c, "a string of an array", UINT64_MAX, &s, &n);
    }
    return st;
}

static status_t read_array(cursor_t *c, kv_t *kv) {
    size_t at = c->at;
    status_t st;
    if ((st = take_u32(c, "an array's type", &kv->item_type)) || (st = take_u64(c, "an array's count", &kv->n))) return st;
    if (kv->item_type == GT_STRING) return read_strings(c, kv);
    size_t item = gguf_scalar_bytes(kv->item_type);
    if (!item)
        return status_fail(
            ST_INPUT,
            "%s: byte %zu: key %.*s: an array of type %u (%s); only arrays of numbers and strings are read, convert the model again",
            c->name, at, (int)kv->key_n, kv->key, kv->item_type, kv->item_type == GT_ARRAY ? "nested array" : "unknown");
    if ((st = check_count(c, kv->n, item, "array items"))) return st;
    return take(c, kv->n * item, "an array", &kv->value);
}

static status_t read_kv(cursor_t *c, kv_t *kv) {
    size_t at = c->at;
    status_t st;
    if ((st = take_name(c, "a key", KEY_BYTES_MAX, &kv->key, &kv->key_n)) || (st = take_u32(c, "a value's type", &kv->type))) return st;
    if (kv->type == GT_ARRAY) return read_array(c, kv);
    if (kv->type == GT_STRING) {
        const char *s;
        size_t n;
        if ((st = take_string(c, "a string", UINT64_MAX, &s, &n))) return st;
        kv->value = (const uint8_t *)s;
        kv->n = n;
        return ST_OK;
    }
    size_t item = gguf_scalar_bytes(kv->type);
    if (!item)
        return status_fail(
            ST_INPUT, "%s: byte %zu: key %.*s: value type %u is unknown; the file is damaged or newer than this program, convert it again",
            c->name, at, (int)kv->key_n, kv->key, kv->type);
    return take(c, item, "a value", &kv->value);
}

static int by_key(const void *a, const void *b) {
    const kv_t *x = *(const kv_t *const *)a, *y = *(const kv_t *const *)b;
    return gguf_compare_keys(x->key, x->key_n, y->key, y->key_n);
}

static status_t index_kv(gguf_t *g, const char *name) {
    status_t st = mem_alloc(&g->kv_sorted, (size_t)g->n_kv, sizeof *g->kv_sorted, "the key index of a GGUF file");
    if (st) return st;
    for (int64_t i = 0; i < g->n_kv; i++) g->kv_sorted[i] = g->kv + i;
    if (g->n_kv) qsort(g->kv_sorted, (size_t)g->n_kv, sizeof *g->kv_sorted, by_key);
    for (int64_t i = 1; i < g->n_kv; i++)
        if (!by_key(g->kv_sorted + i - 1, g->kv_sorted + i))
            return status_fail(ST_INPUT, "%s: key %.*s is there twice; the file is damaged, convert the model again", name,
                               (int)g->kv_sorted[i]->key_n, g->kv_sorted[i]->key);
    return ST_OK;
}

/* ---- tensors ---- */

/* bytes = blocks of the innermost dim x the other dims; every product checked. */
static status_t size_tensor(const cursor_t *c, size_t at, tensor_t *t, const gguf_type_t *type) {
    int64_t cols = tensor_cols(t);
    size_t bytes = 0, count = 1;
    if (cols % type->values)
        return status_fail(ST_INPUT,
                           "%s: byte %zu: tensor %s: rows of %" PRId64
                           " values are no multiple of %s's block of %d; convert the model again",
                           c->name, at, t->name, cols, type->name, type->values);
    bool fits = size_mul((size_t)(cols / type->values), (size_t)type->bytes, &bytes);
    for (int i = 0; i < t->n_dim; i++) {
        fits = fits && size_mul(count, (size_t)t->dims[i], &count) && count <= INT64_MAX;
        if (i + 1 < t->n_dim) fits = fits && size_mul(bytes, (size_t)t->dims[i], &bytes);
    }
    if (!fits)
        return status_fail(ST_INPUT, "%s: byte %zu: tensor %s is larger than can be addressed; the file is damaged, download it again",
                           c->name, at, t->name);
    t->bytes = bytes;
    return ST_OK;
}

static status_t read_dims(cursor_t *c, size_t at, tensor_t *t) {
    uint32_t n_dim = 0;
    status_t st = take_u32(c, "a tensor's dimension count", &n_dim);
    if (st) return st;
    if (n_dim > GGUF_DIMS_MAX)
        return status_fail(ST_INPUT, "%s: byte %zu: tensor %s has %u dimensions, at most %d; the file is damaged, download it again",
                           c->name, at, t->name, n_dim, GGUF_DIMS_MAX);
    t->n_dim = (int)n_dim;
    for (uint32_t i = 0; i < n_dim; i++) {
        uint64_t d = 0;
        if ((st = take_u64(c, "a tensor's dimension", &d))) return st;
        if (d > INT64_MAX)
            return status_fail(ST_INPUT, "%s: byte %zu: tensor %s: dimension %u is %" PRIu64 "; the file is damaged, download it again",
                               c->name, at, t->name, i, d);
        t->dims[n_dim - 1 - i] = (int64_t)d;
    }
    return ST_OK;
}

/* One tensor's entry; t->data is left NULL and its offset goes to *offset, because the data section's place is known only at the end. */
static status_t read_tensor(cursor_t *c, tensor_t *t, char **names, uint64_t *offset) {
    size_t at = c->at, n;
    const char *name;
    uint32_t id;
    status_t st = take_name(c, "a tensor's name", NAME_BYTES_MAX, &name, &n);
    if (st) return st;
    memcpy(*names, name, n);
    (*names)[n] = 0;
    t->name = *names;
    *names += n + 1;
    if ((st = read_dims(c, at, t)) || (st = take_u32(c, "a tensor's type", &id)) || (st = take_u64(c, "a tensor's offset", offset)))
        return st;
    const gguf_type_t *type = gguf_type(id);
    if (!type)
        return status_fail(
            ST_INPUT, "%s: byte %zu: tensor %s: type %u is unknown; the file is damaged or newer than this program, convert it to Q8_0",
            c->name, at, t->name, id);
    t->enc = type->enc;
    t->enc_name = type->name;
    return size_tensor(c, at, t, type);
}

static int by_place(const void *a, const void *b) {
    const tensor_t *x = *(const tensor_t *const *)a, *y = *(const tensor_t *const *)b;
    return x->data != y->data ? (x->data < y->data ? -1 : 1) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}
/* Places the tensors of a part behind its header and refuses those that leave the file or lie on one another. */
static status_t place_tensors(const cursor_t *c, tensor_t *t, const uint64_t *offset, int64_t n, size_t align) {
    size_t start = size_round_up(c->at, align), room = start < c->bytes ? c->bytes - start : 0;
    const tensor_t **order = NULL;
    status_t st = mem_alloc(&order, (size_t)n, sizeof *order, "the tensor order of a GGUF file");
    if (st) return st;
    for (int64_t i = 0; i < n; i++) {
        if (offset[i] % align) {
            st =
                status_fail(ST_INPUT,
                            "%s: tensor %s: offset %" PRIu64 " is no multiple of the alignment %zu; the file is damaged, download it again",
                            c->name, t[i].name, offset[i], align);
            goto out;
        }
        if (offset[i] > room || t[i].bytes > room - offset[i]) {
            st = status_fail(ST_INPUT,
                             "%s: tensor %s: %zu bytes at offset %" PRIu64 ", the data section has %zu; the file is cut, download it again",
                             c->name, t[i].name, t[i].bytes, offset[i], room);
            goto out;
        }
        t[i].data = c->data + start + offset[i];
        order[i] = t + i;
    }
    if (n) qsort(order, (size_t)n, sizeof *order, by_place);
    for (int64_t i = 1; i < n; i++)
        if (order[i]->data < order[i - 1]->data + order[i - 1]->bytes) {
            st = status_fail(ST_INPUT, "%s: tensors %s and %s lie on one another; the file is damaged, download it again", c->name,
                             order[i - 1]->name, order[i]->name);
            goto out;
        }
out:
    mem_free(order);
    return st;
}

/* Room for all names: NAME_BYTES_MAX + 1 each would be too much for a hostile count, so they are measured first. */
static status_t measure_names(cursor_t c, uint64_t n, size_t *bytes) {
    status_t st;
    *bytes = 0;
    for (uint64_t i = 0; i < n; i++) {
        const char *name;
        const uint8_t *skip;
        size_t len = 0;
        uint32_t n_dim = 0;
        if ((st = take_name(&c, "a tensor's name", NAME_BYTES_MAX, &name, &len)) ||
            (st = take_u32(&c, "a tensor's dimension count", &n_dim)) ||
            (st = take(&c, 8 * (uint64_t)n_dim + 12, "a tensor's entry", &skip)))
            return st;
        *bytes += len + 1;
    }
    return ST_OK;
}

static status_t read_tensors(gguf_t *g, part_t *part, cursor_t *c, uint64_t n, size_t align) {
    uint64_t *offset = NULL;
    size_t name_bytes = 0;
    status_t st = check_count(c, n, TENSOR_BYTES_MIN, "tensors");
    if (st || n == 0 || (st = measure_names(*c, n, &name_bytes))) return st;
    if ((st = mem_alloc(&part->names, name_bytes, 1, "tensor names")) ||
        (st = mem_grow(&g->tensors, (size_t)g->n_tensor + (size_t)n, sizeof *g->tensors, "tensors of a GGUF file")) ||
        (st = mem_alloc(&offset, (size_t)n, sizeof *offset, "tensor offsets")))
        goto out;
    tensor_t *t = g->tensors + g->n_tensor;
    char *names = part->names;
    for (uint64_t i = 0; i < n; i++) {
        t[i] = (tensor_t){0};
        if ((st = read_tensor(c, t + i, &names, offset + i))) goto out;
    }
    if ((st = place_tensors(c, t, offset, (int64_t)n, align))) goto out;
    g->n_tensor += (int64_t)n;
out:
    mem_free(offset);
    return st;
}

static status_t index_tensors(gguf_t *g, const char *name) {
    status_t st = mem_alloc(&g->tensors_sorted, (size_t)g->n_tensor, sizeof *g->tensors_sorted, "the tensor index of a GGUF file");
    if (st) return st;
    const char *twice = tensors_index(g->tensors, g->n_tensor, g->tensors_sorted);
    return twice ? status_fail(ST_INPUT, "%s: tensor %s is there twice; the file is damaged, convert the model again", name, twice) : ST_OK;
}

/* ---- files ---- */

static status_t read_version(cursor_t *c) {
    const uint8_t *magic = NULL;
    uint32_t version = 0;
    status_t st = take(c, 4, "the magic number", &magic);
    if (st) return st;
    if (memcmp(magic, "GGUF", 4))
        return status_fail(ST_INPUT,
                           "%s: byte 0: not a GGUF file (it begins %02x %02x %02x %02x); give a .gguf model or a folder with safetensors",
                           c->name, magic[0], magic[1], magic[2], magic[3]);
    if ((st = take_u32(c, "the version", &version))) return st;
    if (version == 2 || version == 3) return ST_OK;
    return status_fail(ST_INPUT, "%s: byte 4: GGUF version %u%s; versions 2 and 3 are read, convert the model again", c->name, version,
                       version && !(version & 0xffff) ? " (a big-endian file)" : "");
}

static status_t read_align(const gguf_t *g, const char *name, size_t *align) {
    int64_t v = ALIGN_DEFAULT;
    if (gguf_find_key(g, "general.alignment") && !gguf_get_i64(g, "general.alignment", &v)) v = 0;
    if (v < 1 || v > ALIGN_MAX || (v & (v - 1)))
        return status_fail(ST_INPUT, "%s: general.alignment is no power of two from 1 to %d; the file is damaged, convert the model again",
                           name, ALIGN_MAX);
    *align = (size_t)v;
    return ST_OK;
}

/* Parses one file into g: its metadata replace those in g, its tensors are added. */
static status_t parse_part(gguf_t *g, part_t *part, const char *name) {
    cursor_t c = {part->map.data, part->map.bytes, 0, name};
    uint64_t n_tensor = 0, n_kv = 0;
    size_t align = ALIGN_DEFAULT;
    status_t st;
    if ((st = read_version(&c)) || (st = take_u64(&c, "the tensor count", &n_tensor)) || (st = take_u64(&c, "the key count", &n_kv)))
        return st;
    if ((st = check_count(&c, n_kv, KV_BYTES_MIN, "keys"))) return st;
    if (n_kv > KEYS_MAX)
        return status_fail(ST_INPUT, "%s: byte 16: %" PRIu64 " keys, at most %d; the file is damaged, download it again", name, n_kv,
                           KEYS_MAX);
    if ((st = mem_zalloc(&g->kv, (size_t)n_kv, sizeof *g->kv, "keys of a GGUF file"))) return st;
    for (uint64_t i = 0; i < n_kv; i++) {
        g->n_kv++; /* also when it fails half way: its strings are freed */
        if ((st = read_kv(&c, g->kv + i))) return st;
    }
    if ((st = index_kv(g, name)) || (st = read_align(g, name, &align))) return st;
    return read_tensors(g, part, &c, n_tensor, align);
}

static void free_kv(gguf_t *g) {
    for (int64_t i = 0; i < g->n_kv; i++) mem_free(g->kv[i].strings);
    mem_free(g->kv);
    mem_free(g->kv_sorted);
    g->kv = NULL;
    g->kv_sorted = NULL;
    g->n_kv = 0;
}

static status_t create(gguf_t **out, int n_part) {
    status_t st = mem_zalloc(out, 1, sizeof **out, "a GGUF file");
    if (st) return st;
    if ((st = mem_zalloc(&(*out)->parts, (size_t)n_part, sizeof *(*out)->parts, "parts of a GGUF file"))) {
        mem_free(*out);
        *out = NULL;
        return st;
    }
    (*out)->n_part = n_part;
    return ST_OK;
}

status_t gguf_parse(const void *data, size_t bytes, const char *name, gguf_t **out) {
    gguf_t *g;
    *out = NULL;
    status_t st = create(&g, 1);
    if (st) return st;
    g->parts[0].map = (file_map_t){data, bytes};
    if (!(st = parse_part(g, g->parts, name))) st = index_tensors(g, name);
    g->parts[0].map = (file_map_t){NULL, 0}; /* borrowed: not ours to unmap */
    if (st)
        gguf_close(g);
    else
        *out = g;
    return st;
}

/* Maps and parses part `no` (from 0) of a split model; its metadata are compared and dropped. */
static status_t open_part(gguf_t *g, int no, int n_part, const char *path) {
    kv_t *kv = g->kv;
    const kv_t **sorted = g->kv_sorted;
    int64_t n_kv = g->n_kv, here = -1, count = -1;
    g->kv = NULL;
    g->kv_sorted = NULL;
    g->n_kv = 0;
    status_t st = file_map(path, &g->parts[no].map);
    if (!st) st = parse_part(g, g->parts + no, path);
    if (!st && (!gguf_get_i64(g, "split.no", &here) || !gguf_get_i64(g, "split.count", &count) || here != no || count != n_part))
        st = status_fail(ST_INPUT, "%s: says it is part %lld of %lld, expected part %d of %d; download the parts again", path,
                         (long long)here + 1, (long long)count, no + 1, n_part);
    free_kv(g);
    g->kv = kv;
    g->kv_sorted = sorted;
    g->n_kv = n_kv;
    return st;
}

/* NAME-00001-of-00003.gguf: replaces the number. */
static status_t part_path(const char *first, int no, int n_part, char out[PATH_MAX]) {
    char tail[40];
    snprintf(tail, sizeof tail, "-00001-of-%05d.gguf", n_part);
    size_t n = strlen(first), t = strlen(tail);
    if (n < t || strcmp(first + n - t, tail) || n >= PATH_MAX)
        return status_fail(ST_INPUT, "%s: is the first of %d parts, so its name must end in %s; rename the parts", first, n_part, tail);
    snprintf(out, PATH_MAX, "%.*s-%05d-of-%05d.gguf", (int)(n - t), first, no + 1, n_part);
    return ST_OK;
}

static status_t open_splits(gguf_t *g, const char *path) {
    int64_t count = 1, no = 0, n_tensor = -1;
    gguf_get_i64(g, "split.count", &count);
    gguf_get_i64(g, "split.no", &no);
    if (count <= 1) return ST_OK;
    if (count > SPLITS_MAX)
        return status_fail(ST_INPUT, "%s: split.count is %lld, at most %d; the file is damaged, download it again", path, (long long)count,
                           SPLITS_MAX);
    if (no != 0)
        return status_fail(ST_INPUT, "%s: is part %lld of %lld of a split model; give the first part", path, (long long)no + 1,
                           (long long)count);
    status_t st = mem_grow(&g->parts, (size_t)count, sizeof *g->parts, "parts of a GGUF file");
    if (st) return st;
    memset(g->parts + 1, 0, (size_t)(count - 1) * sizeof *g->parts);
    g->n_part = (int)count;
    for (int i = 1; i < g->n_part; i++) {
        char name[PATH_MAX];
        if ((st = part_path(path, i, g->n_part, name)) || (st = open_part(g, i, g->n_part, name))) return st;
    }
    if (gguf_get_i64(g, "split.tensors.count", &n_tensor) && n_tensor != g->n_tensor)
        return status_fail(ST_INPUT, "%s: the %lld parts hold %lld tensors, split.tensors.count says %lld; download the parts again", path,
                           (long long)count, (long long)g->n_tensor, (long long)n_tensor);
    return ST_OK;
}

status_t gguf_open(const char *path, gguf_t **out) {
    gguf_t *g;
    *out = NULL;
    status_t st = create(&g, 1);
    if (st) return st;
    if ((st = file_map(path, &g->parts[0].map)) || (st = parse_part(g, g->parts, path)) || (st = open_splits(g, path)) ||
        (st = index_tensors(g, path)))
        gguf_close(g);
    else
        *out = g;
    return st;
}

void gguf_close(gguf_t *g) {
    if (!g) return;
    free_kv(g);
    mem_free(g->tensors);
    mem_free(g->tensors_sorted);
    for (int i = 0; i < g->n_part; i++) {
        file_unmap(&g->parts[i].map);
        mem_free(g->parts[i].names);
    }
    mem_free(g->parts);
    mem_free(g);
}
