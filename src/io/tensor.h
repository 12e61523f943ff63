/* A named tensor inside a mapped model file: what GGUF and safetensors readers both hand out. */
#ifndef IO_TENSOR_H
#define IO_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

typedef enum {
    ENC_F32,
    ENC_F16,
    ENC_BF16,
    ENC_Q8_0,
    ENC_Q4_0,
    ENC_Q4_1,
    ENC_Q5_0,
    ENC_Q5_1,
    ENC_Q4_K,
    ENC_Q5_K,
    ENC_Q6_K,
    ENC_OTHER,
    ENC_COUNT
} enc_t;

enum { TENSOR_DIMS = 8 };
typedef struct {
    const char *name; /* borrowed from the file object */
    enc_t enc;
    const char *enc_name; /* as the file calls it: "Q4_1", "BF16", "I64" */
    int n_dim;
    int64_t dims[TENSOR_DIMS]; /* outermost first, also for GGUF (which stores them the other way round) */
    const uint8_t *data;       /* in the map; not necessarily aligned */
    size_t bytes;
} tensor_t;

int64_t tensor_rows(const tensor_t *t); /* product of all dims but the last */
int64_t tensor_cols(const tensor_t *t); /* the last dim (1 for a scalar) */
/* An index by name: fills index [n] with the tensors in order. The name that two of them have, or NULL. */
const char *tensors_index(const tensor_t *t, int64_t n, const tensor_t **index);
const tensor_t *tensors_find(const tensor_t *const *index, int64_t n, const char *name); /* NULL when there is none */
/* Bytes of a row of `cols` elements; 0 when the encoding is unknown or cols is no multiple of its block. */
size_t enc_row_bytes(enc_t enc, int64_t cols);
const char *enc_name(enc_t enc);
/* The rows as they lie in the map, when they are numbers of this type and of its alignment; else NULL. */
const void *tensor_rows_of(const tensor_t *t, int64_t row0, int64_t n, dtype_t type);
/* Rows row0 .. row0+n-1 dequantised to f32, bit for bit as the gguf Python package does. ST_INPUT for ENC_OTHER. */
status_t tensor_read_rows(const tensor_t *t, int64_t row0, int64_t n, float *out);

#endif
