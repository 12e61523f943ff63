/* What a GGUF file is in memory; for gguf.c, which reads it, and gguf_get.c, which answers from it. */
#ifndef IO_GGUF_FILE_H
#define IO_GGUF_FILE_H

#include "io/gguf.h"
#include "io/gguf_types.h"

typedef struct {
    const char *key; /* not NUL-terminated */
    size_t key_n;
    uint32_t type, item_type; /* item_type: of an array */
    uint64_t n;               /* items of an array, bytes of a string */
    const uint8_t *value;     /* scalar, string bytes or first item */
    const uint8_t **strings;  /* array of strings: where each one's length stands */
} kv_t;

typedef struct {
    file_map_t map;
    char *names; /* all tensor names of this part, NUL-terminated */
} part_t;

struct gguf {
    int n_part;
    part_t *parts;
    int64_t n_kv, n_tensor;
    kv_t *kv;
    tensor_t *tensors;
    const kv_t **kv_sorted;
    const tensor_t **tensors_sorted;
};

const kv_t *gguf_find_key(const gguf_t *g, const char *key); /* NULL when absent; works once kv_sorted is filled */
int gguf_compare_keys(const char *a, size_t a_n, const char *b, size_t b_n);

#endif
