/* The header is JSON, parsed whole; entries are then put in the order of their data, where the rules are easy to check: the first begins at
 * 0, each begins where the one before ended, the last ends with the file.
 */
#include "io/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "io/json.h"
#include "io/utf8.h"

enum { LENGTH_BYTES = 8, HEADER_BYTES_MAX = 100 * 1000 * 1000, HEADER_ALIGN = 4096 };

struct safetensors {
    file_map_t map;
    cJSON *header; /* owns the names */
    const cJSON *meta;
    int64_t n;
    tensor_t *tensors; /* in the order of their data */
    const tensor_t **sorted;
    size_t data_offset;
};

static const struct {
    const char *name;
    int bits;
    enc_t enc;
} dtypes[] = {
    {"F32", 32, ENC_F32},   {"F16", 16, ENC_F16},      {"BF16", 16, ENC_BF16},    {"BOOL", 8, ENC_OTHER},    {"U8", 8, ENC_OTHER},
    {"I8", 8, ENC_OTHER},   {"F8_E5M2", 8, ENC_OTHER}, {"F8_E4M3", 8, ENC_OTHER}, {"F8_E8M0", 8, ENC_OTHER}, {"I16", 16, ENC_OTHER},
    {"U16", 16, ENC_OTHER}, {"I32", 32, ENC_OTHER},    {"U32", 32, ENC_OTHER},    {"F64", 64, ENC_OTHER},    {"I64", 64, ENC_OTHER},
    {"U64", 64, ENC_OTHER}, {"C64", 64, ENC_OTHER},    {"F4", 4, ENC_OTHER},      {"F6_E2M3", 6, ENC_OTHER}, {"F6_E3M2", 6, ENC_OTHER},
};
enum { N_DTYPE = sizeof dtypes / sizeof *dtypes };

static int find_dtype(const char *name) {
    for (int i = 0; name && i < N_DTYPE; i++)
        if (!strcmp(name, dtypes[i].name)) return i;
    return -1;
}

/* product(dims) x dtype in bytes; false on overflow or when the bits fill no whole number of bytes. */
static bool shape_bytes(int dtype, int n_dim, const int64_t *dims, size_t *bytes) {
    size_t n = (size_t)dtypes[dtype].bits;
    for (int i = 0; i < n_dim; i++)
        if (dims[i] < 0 || !size_mul(n, (size_t)dims[i], &n)) return false;
    *bytes = n / 8;
    return n % 8 == 0;
}

/* ---- reading ---- */

static int by_string(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* ST_INPUT when two members of the object have one name; "" in `what` for the header itself. */
static status_t check_doubles(const cJSON *o, const char *name, const char *what) {
    const char **keys = NULL;
    size_t n = 0, i = 0;
    for (const cJSON *c = o->child; c; c = c->next) n++;
    status_t st = mem_alloc(&keys, n, sizeof *keys, "keys of a safetensors header");
    if (st) return st;
    for (const cJSON *c = o->child; c; c = c->next) keys[i++] = c->string;
    if (n) qsort(keys, n, sizeof *keys, by_string);
    for (i = 1; i < n && !st; i++)
        if (!strcmp(keys[i - 1], keys[i]))
            st = status_fail(ST_INPUT, "%s: %s\"%.100s\" is there twice; the file is damaged, download it again", name, what, keys[i]);
    mem_free(keys);
    return st;
}

static status_t fail_entry(const char *name, const cJSON *e, const char *why) {
    return status_fail(ST_INPUT, "%s: tensor %.200s: %s; the file is damaged, download it again", name, e->string, why);
}

/* A whole number from 0 to 2^53. */
static bool whole(const cJSON *v, int64_t *out) {
    if (!v || !cJSON_IsNumber(v) || !(v->valuedouble >= 0 && v->valuedouble <= 0x1p53)) return false;
    *out = (int64_t)v->valuedouble;
    return (double)*out == v->valuedouble;
}

static status_t read_shape(const char *name, const cJSON *e, tensor_t *t) {
    const cJSON *shape = json_get(e, "shape");
    if (!cJSON_IsArray(shape)) return fail_entry(name, e, "no \"shape\" list");
    for (const cJSON *d = shape->child; d; d = d->next) {
        if (t->n_dim == TENSOR_DIMS)
            return status_fail(ST_INPUT, "%s: tensor %.200s: more than %d dimensions; reshape it", name, e->string, TENSOR_DIMS);
        if (!whole(d, &t->dims[t->n_dim++])) return fail_entry(name, e, "a dimension in \"shape\" is no whole number");
    }
    return ST_OK;
}

static status_t read_entry(const safetensors_t *s, const char *name, const cJSON *e, tensor_t *t) {
    int64_t begin, end;
    status_t st;
    if (!cJSON_IsObject(e)) return fail_entry(name, e, "its entry is no object");
    if ((st = check_doubles(e, name, "in a tensor's entry, "))) return st;
    const char *dtype_text = json_get_str(e, "dtype");
    int dtype = find_dtype(dtype_text);
    if (dtype < 0)
        return status_fail(ST_INPUT, "%s: tensor %.200s: dtype %.50s is unknown; save the model as BF16, F16 or F32", name, e->string,
                           dtype_text ? dtype_text : "(missing)");
    if ((st = read_shape(name, e, t))) return st;
    const cJSON *offsets = json_get(e, "data_offsets");
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 || !whole(offsets->child, &begin) ||
        !whole(offsets->child->next, &end) || begin > end)
        return fail_entry(name, e, "\"data_offsets\" are no two rising whole numbers");
    size_t room = s->map.bytes - s->data_offset, bytes;
    if ((uint64_t)end > room)
        return status_fail(ST_INPUT,
                           "%s: tensor %.200s: its data end at offset %" PRId64
                           ", the file has %zu bytes of data; it is cut, download it again",
                           name, e->string, end, room);
    if (!shape_bytes(dtype, t->n_dim, t->dims, &bytes) || bytes != (size_t)(end - begin))
        return status_fail(ST_INPUT,
                           "%s: tensor %.200s: %" PRId64
                           " bytes of data do not fit its shape and dtype %s; the file is damaged, download it again",
                           name, e->string, end - begin, dtypes[dtype].name);
    t->name = e->string;
    t->enc = dtypes[dtype].enc;
    t->enc_name = dtypes[dtype].name;
    t->data = s->map.data + s->data_offset + begin;
    t->bytes = bytes;
    return ST_OK;
}

static int by_place(const void *a, const void *b) {
    const tensor_t *x = a, *y = b;
    return x->data != y->data ? (x->data < y->data ? -1 : 1) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static status_t check_places(const safetensors_t *s, const char *name) {
    const uint8_t *next = s->map.data + s->data_offset, *end = s->map.data + s->map.bytes;
    for (int64_t i = 0; i < s->n; i++) {
        const tensor_t *t = s->tensors + i;
        if (t->data != next)
            return status_fail(ST_INPUT,
                               "%s: tensor %.200s begins at offset %zu, the one before ends at %zu; the file is damaged, download it again",
                               name, t->name, (size_t)(t->data - s->map.data) - s->data_offset,
                               (size_t)(next - s->map.data) - s->data_offset);
        next += t->bytes;
    }
    if (next != end)
        return status_fail(ST_INPUT, "%s: %zu bytes follow the last tensor; the file is damaged, download it again", name,
                           (size_t)(end - next));
    return ST_OK;
}

static status_t read_meta(safetensors_t *s, const char *name) {
    s->meta = json_get(s->header, "__metadata__");
    if (!s->meta) return ST_OK;
    bool good = cJSON_IsObject(s->meta) != 0;
    for (const cJSON *c = good ? s->meta->child : NULL; c && good; c = c->next) good = cJSON_IsString(c) != 0;
    if (!good) return status_fail(ST_INPUT, "%s: __metadata__ is no map of strings; the file is damaged, download it again", name);
    return check_doubles(s->meta, name, "in __metadata__, ");
}

static status_t read_header(safetensors_t *s, const char *name) {
    uint64_t n;
    if (s->map.bytes < LENGTH_BYTES)
        return status_fail(ST_INPUT, "%s: %zu bytes are too few for a safetensors file; download it again", name, s->map.bytes);
    memcpy(&n, s->map.data, LENGTH_BYTES);
    if (n > s->map.bytes - LENGTH_BYTES || n > HEADER_BYTES_MAX)
        return status_fail(ST_INPUT,
                           "%s: byte 0: a header of %" PRIu64
                           " bytes in a file of %zu (at most %d); it is cut or no safetensors file: name a whole one",
                           name, n, s->map.bytes, HEADER_BYTES_MAX);
    const char *text = (const char *)s->map.data + LENGTH_BYTES;
    s->data_offset = LENGTH_BYTES + (size_t)n;
    if (!n || text[0] != '{')
        return status_fail(ST_INPUT, "%s: byte 8: the header does not begin with '{'; is it a safetensors file?", name);
    size_t good = utf8_valid_bytes(text, (size_t)n);
    if (good < n)
        return status_fail(ST_INPUT, "%s: byte %zu: the header is not UTF-8; the file is damaged, download it again", name, good + 8);
    if (memmem(text, (size_t)n, "\\u0000", 6))
        return status_fail(ST_INPUT, "%s: the header has a NUL character in it; the file is damaged, download it again", name);
    status_t st = json_parse(text, (size_t)n, name, &s->header);
    return st ? status_prefix(st, "header of ") : check_doubles(s->header, name, "");
}

static status_t read_all(safetensors_t *s, const char *name) {
    status_t st = read_header(s, name);
    if (st || (st = read_meta(s, name))) return st;
    for (const cJSON *e = s->header->child; e; e = e->next) s->n += e != s->meta;
    if ((st = mem_zalloc(&s->tensors, (size_t)s->n, sizeof *s->tensors, "tensors of a safetensors file")) ||
        (st = mem_alloc(&s->sorted, (size_t)s->n, sizeof *s->sorted, "the index of a safetensors file")))
        return st;
    int64_t i = 0;
    for (const cJSON *e = s->header->child; e; e = e->next)
        if (e != s->meta && (st = read_entry(s, name, e, s->tensors + i++))) return st;
    if (s->n) qsort(s->tensors, (size_t)s->n, sizeof *s->tensors, by_place);
    tensors_index(s->tensors, s->n, s->sorted); /* no name twice: keys were checked */
    return check_places(s, name);
}

static status_t create(file_map_t map, const char *name, safetensors_t **out) {
    safetensors_t *s = NULL;
    status_t st = mem_zalloc(&s, 1, sizeof *s, "a safetensors file");
    if (st) return st;
    s->map = map;
    st = read_all(s, name);
    s->map = (file_map_t){NULL, 0};
    if (st)
        safetensors_close(s);
    else
        *out = s;
    return st;
}

status_t safetensors_open(const char *path, safetensors_t **out) {
    file_map_t map;
    *out = NULL;
    status_t st = file_map(path, &map);
    if (st) return st;
    if ((st = create(map, path, out)))
        file_unmap(&map);
    else
        (*out)->map = map;
    return st;
}

status_t safetensors_parse(const void *data, size_t bytes, const char *name, safetensors_t **out) {
    *out = NULL;
    return create((file_map_t){data, bytes}, name, out);
}

void safetensors_close(safetensors_t *s) {
    if (!s) return;
    cJSON_Delete(s->header);
    mem_free(s->tensors);
    mem_free(s->sorted);
    file_unmap(&s->map);
    mem_free(s);
}

int64_t safetensors_count(const safetensors_t *s) { return s->n; }
const tensor_t *safetensors_at(const safetensors_t *s, int64_t i) { return i >= 0 && i < s->n ? s->tensors + i : NULL; }

const tensor_t *safetensors_find(const safetensors_t *s, const char *name) { return tensors_find(s->sorted, s->n, name); }

const char *safetensors_meta(const safetensors_t *s, const char *key) { return json_get_str(s->meta, key); }
size_t safetensors_data_offset(const safetensors_t *s) { return s->data_offset; }

/* ---- writing ---- */

static status_t write_entries(FILE *f, const st_entry_t *e, int64_t n, const char *const *meta) {
    json_out_t j;
    size_t at = 0;
    json_begin(&j, f);
    json_open(&j, NULL, '{');
    if (meta && meta[0]) {
        json_open(&j, "__metadata__", '{');
        for (int i = 0; meta[i] && meta[i + 1]; i += 2) json_str(&j, meta[i], meta[i + 1]);
        json_close(&j);
    }
    for (int64_t i = 0; i < n; i++) {
        int dtype = find_dtype(e[i].dtype);
        size_t bytes = 0, end;
        if (dtype < 0 || e[i].n_dim > TENSOR_DIMS || !shape_bytes(dtype, e[i].n_dim, e[i].dims, &bytes) || bytes != e[i].bytes ||
            !size_add(at, bytes, &end))
            return status_fail(ST_FAIL, "tensor %s cannot be written: %zu bytes do not fit its shape and dtype %s; report this as a bug",
                               e[i].name, e[i].bytes, e[i].dtype);
        json_open(&j, e[i].name, '{');
        json_str(&j, "dtype", e[i].dtype);
        json_open(&j, "shape", '[');
        for (int d = 0; d < e[i].n_dim; d++) json_int(&j, NULL, e[i].dims[d]);
        json_close(&j);
        json_open(&j, "data_offsets", '[');
        json_int(&j, NULL, (int64_t)at);
        json_int(&j, NULL, (int64_t)end);
        json_close(&j);
        json_close(&j);
        at = end;
    }
    json_close(&j);
    return ST_OK;
}

status_t safetensors_header(const st_entry_t *entries, int64_t n, const char *const *meta, size_t header_bytes, void *out_pp,
                            size_t *out_bytes) {
    char *text = NULL, *out = NULL;
    size_t text_n = 0, total;
    *(void **)out_pp = NULL;
    FILE *f = open_memstream(&text, &text_n);
    if (!f) return status_fail(ST_FAIL, "out of memory for a safetensors header; use a machine with more memory");
    status_t st = write_entries(f, entries, n, meta);
    bool bad = ferror(f) != 0;
    if ((fclose(f) || bad) && !st) st = status_fail(ST_FAIL, "out of memory for a safetensors header; use a machine with more memory");
    if (st) goto out;
    total = header_bytes ? header_bytes : size_round_up(LENGTH_BYTES + text_n, HEADER_ALIGN);
    if (LENGTH_BYTES + text_n > total || total - LENGTH_BYTES > HEADER_BYTES_MAX) {
        st = status_fail(ST_FAIL, "a safetensors header of %zu bytes does not fit into %zu (at most %d); write fewer tensors a file",
                         text_n, total, HEADER_BYTES_MAX);
        goto out;
    }
    if ((st = mem_alloc(&out, total, 1, "a safetensors header"))) goto out;
    uint64_t length = total - LENGTH_BYTES;
    memcpy(out, &length, LENGTH_BYTES);
    memcpy(out + LENGTH_BYTES, text, text_n);
    memset(out + LENGTH_BYTES + text_n, ' ', total - LENGTH_BYTES - text_n);
    *(void **)out_pp = out;
    *out_bytes = total;
out:
    free(text);
    return st;
}
