/* The safetensors header of a data file. It follows from the index alone, so that it can be written last, rewritten, and checked byte for
 * byte. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "io/safetensors.h"
#include "store/index.h"
#include "store/profile.h"

enum { TENSORS = 6, NAME_MAX_BYTES = 48 }; /* tokens, kept, k, pad, v, pad */

static const char *st_dtype(dtype_t t) {
    static const char *const name[DT_COUNT] = {"F32", "F16", "BF16", "I32", "I64", "U8"};
    return name[t];
}

typedef struct {
    st_entry_t *entries;
    char (*names)[NAME_MAX_BYTES];
    int64_t n;
} table_t;

static void entry_add(table_t *t, const char *address, const char *what, const char *dtype, int n_dim, const int64_t *dims, int64_t bytes) {
    st_entry_t *e = &t->entries[t->n];
    snprintf(t->names[t->n], NAME_MAX_BYTES, "%s.%s", address, what);
    *e = (st_entry_t){.name = t->names[t->n], .dtype = dtype, .n_dim = n_dim, .bytes = (size_t)bytes};
    memcpy(e->dims, dims, (size_t)n_dim * sizeof *dims);
    t->n++;
}

static void segment_add(table_t *t, const store_profile_t *p, const store_segment_t *s) {
    char address[HASH_HEX];
    segment_size_t size = {0};
    segment_size(p, s->n_token, s->n_row, s->n_kept, &size);
    hash_hex(s->address, address);
    const int64_t kv[] = {p->n_layer, p->n_kv_head, s->n_row, p->d_head};
    entry_add(t, address, "tokens", "I32", 1, &size.token_rows, size.token_rows * (int64_t)sizeof(int32_t));
    if (size.kept_rows) entry_add(t, address, "kept", "I32", 1, &size.kept_rows, size.kept_rows * (int64_t)sizeof(int32_t));
    entry_add(t, address, "k", st_dtype(p->kv_type), 4, kv, size.kv);
    if (size.pad) entry_add(t, address, "pad_k", "U8", 1, &size.pad, size.pad);
    entry_add(t, address, "v", st_dtype(p->kv_type), 4, kv, size.kv);
    if (size.pad) entry_add(t, address, "pad_v", "U8", 1, &size.pad, size.pad);
}

status_t data_header(const store_profile_t *p, const store_segment_t *segments, int64_t n, char **out) {
    table_t t = {0};
    char profile[HASH_HEX];
    size_t bytes;
    *out = NULL;
    hash_hex(profile_hash(p), profile);
    const char *const meta[] = {"format", "precis-store-1", "profile", profile, NULL};
    status_t st = mem_alloc(&t.entries, (size_t)n * TENSORS, sizeof *t.entries, "a file's header");
    if (!st) st = mem_alloc(&t.names, (size_t)n * TENSORS, sizeof *t.names, "a file's header");
    for (int64_t i = 0; !st && i < n; i++) segment_add(&t, p, &segments[i]);
    if (!st) st = safetensors_header(t.entries, t.n, meta, DATA_HEADER_BYTES, out, &bytes);
    mem_free(t.names);
    mem_free(t.entries);
    return st;
}
