/* The architectures we run: one row each. What differs between them is flags; the decoder block is the same (forward.c).
 *
 * A new family of this block is a new row in config.c. A new kind of block (experts, other norms, other activations) is more than a row:
 * until it is written the family is refused by name.
 */
#ifndef MODEL_ARCH_H
#define MODEL_ARCH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"
#include "model/config.h"

typedef struct {
    const char *name; /* general.architecture of GGUF, model_type of config.json */
    bool qkv_bias;    /* q, k and v have a bias */
    bool qk_norm;     /* q and k are normalised head by head before the rotation */
    bool gguf_pairs;  /* GGUF files hold the rows of q and k in the order for rotating adjacent pairs: undone when weights are read */
    bool window_flag; /* config.json's sliding_window counts only with use_sliding_window, from layer max_window_layers upward */
    /* What transformers takes where config.json has no such key. 0: one for each query head; hidden_size over heads; none; layer 0 */
    int64_t kv_heads, d_head, window, window_from;
} arch_t;

/* ST_INPUT naming path, the unknown name and those that are known. `name` has n bytes and need not be printable. */
status_t arch_find(const char *name, size_t n, const char *path, const arch_t **out);
/* Copies the row's flags into c. */
void arch_apply(const arch_t *a, model_config_t *c);
/* s[0..n) for a message: bytes that are not printable ASCII become '?'; long text is cut. Returns buf. */
const char *printable(const char *s, size_t n, char *buf, size_t cap);

#endif
