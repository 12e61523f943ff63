/* GGUF version 2 and 3: key/value metadata and tensors of a mapped file (or of all files of a split model).
 * Trusts nothing in the file: every count, length, offset and type is checked before use; errors are ST_INPUT naming the file, the byte and
 * the value.
 */
#ifndef IO_GGUF_H
#define IO_GGUF_H

#include <stdbool.h>

#include "io/file.h"
#include "io/tensor.h"

typedef struct gguf gguf_t;

status_t gguf_open(const char *path, gguf_t **out); /* a first file of a split model opens the others beside it */
status_t gguf_parse(const void *data, size_t bytes, const char *name, gguf_t **out); /* borrowed bytes; tests and fuzzing */
void gguf_close(gguf_t *g);

int64_t gguf_count(const gguf_t *g);
const tensor_t *gguf_at(const gguf_t *g, int64_t i);
const tensor_t *gguf_find(const gguf_t *g, const char *name); /* NULL when absent */

/* Metadata. Each returns false when the key is absent or of another type (integers of all widths are accepted for i64, if they fit). */
bool gguf_get_i64(const gguf_t *g, const char *key, int64_t *out);
bool gguf_get_f64(const gguf_t *g, const char *key, double *out); /* f32 or f64 */
bool gguf_get_bool(const gguf_t *g, const char *key, bool *out);
bool gguf_get_str(const gguf_t *g, const char *key, const char **s, size_t *n); /* not NUL-terminated; bytes as in the file */
/* Arrays: number of items, or -1 when absent or no array. */
int64_t gguf_array_n(const gguf_t *g, const char *key);
bool gguf_array_str(const gguf_t *g, const char *key, int64_t i, const char **s, size_t *n); /* O(1) */
bool gguf_array_f64(const gguf_t *g, const char *key, int64_t i, double *out);
bool gguf_array_i64(const gguf_t *g, const char *key, int64_t i, int64_t *out);
/* All keys in file order, for `inspect`: text is a short rendering of the value. Returns the number of keys. */
int64_t gguf_keys(const gguf_t *g);
void gguf_key_text(const gguf_t *g, int64_t i, const char **key, size_t *key_n, char *text, size_t cap);

#endif
