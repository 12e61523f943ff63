/* The two type tables of GGUF: of metadata values and of tensor elements. */
#ifndef IO_GGUF_TYPES_H
#define IO_GGUF_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/tensor.h"

enum { GT_U8, GT_I8, GT_U16, GT_I16, GT_U32, GT_I32, GT_F32, GT_BOOL, GT_STRING, GT_ARRAY, GT_U64, GT_I64, GT_F64, GT_COUNT };

size_t gguf_scalar_bytes(uint32_t type); /* 0 for strings, arrays and unknown types */
const char *gguf_scalar_name(uint32_t type);
/* The value at p (unaligned). false when it is of another kind or does not fit. A bool is 0 or 1. */
bool gguf_scalar_i64(uint32_t type, const uint8_t *p, int64_t *out);
bool gguf_scalar_f64(uint32_t type, const uint8_t *p, double *out);

typedef struct {
    const char *name;
    int values, bytes; /* of one block */
    enc_t enc;         /* ENC_OTHER: its size is known, its values are not read */
} gguf_type_t;
const gguf_type_t *gguf_type(uint32_t id); /* NULL for ids that are unknown or were withdrawn */

#endif
