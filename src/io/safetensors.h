/* safetensors: a JSON header and then raw little-endian tensors. Reader (one file) and a writer of whole files.
 *
 *     [u64 LE: N][N bytes of JSON, space-padded][tensor data, offsets relative to here, no holes]
 *
 * The reader trusts nothing: header size, JSON, dtype x shape = bytes, offsets in order without gap or overlap and inside the file, no
 * duplicate names. Errors are ST_INPUT naming file, tensor and value.
 */
#ifndef IO_SAFETENSORS_H
#define IO_SAFETENSORS_H

#include "io/file.h"
#include "io/tensor.h"

typedef struct safetensors safetensors_t;

status_t safetensors_open(const char *path, safetensors_t **out);
/* The same from bytes already in memory (borrowed; for tests and fuzzing); `name` is used in messages. */
status_t safetensors_parse(const void *data, size_t bytes, const char *name, safetensors_t **out);
void safetensors_close(safetensors_t *s);
int64_t safetensors_count(const safetensors_t *s);
const tensor_t *safetensors_at(const safetensors_t *s, int64_t i);
const tensor_t *safetensors_find(const safetensors_t *s, const char *name); /* NULL when absent */
const char *safetensors_meta(const safetensors_t *s, const char *key);      /* from __metadata__; NULL when absent */
size_t safetensors_data_offset(const safetensors_t *s);                     /* 8 + N */

typedef struct {
    const char *name;
    const char *dtype; /* "F32", "BF16", "I32", .. */
    int n_dim;
    int64_t dims[TENSOR_DIMS];
    size_t bytes;
} st_entry_t;
/* The header of a file holding `n` tensors one after the other in this order, padded with spaces so that 8 + N == header_bytes when
 * header_bytes > 0 (ST_FAIL when it does not fit), else to a multiple of 4096. meta: key, value, key, value, .. NULL (or NULL). *out is the
 * caller's (mem_free), 8-byte length included. */
status_t safetensors_header(const st_entry_t *entries, int64_t n, const char *const *meta, size_t header_bytes, void *out_pp,
                            size_t *out_bytes);

#endif
