/* An adapter: what training adds to a model so that it writes summaries into gist rows. ADAPTER.md beside this file is the format.
 *
 *     adapter_t *a;  adapter_open(path, model_file, &a);            // checks every name, shape, number and the base model's fingerprint
 *     model_load_adapted(model_file, a, backend, comm, &m);         // folds, packs and keeps what the forward pass needs of it
 *
 * The file is trusted as little as a model: a tensor that is not known, has another shape, or holds a number that is not finite is refused
 * by name.
 */
#ifndef MODEL_ADAPTER_H
#define MODEL_ADAPTER_H

#include "io/tensor.h"
#include "model/model.h"

typedef enum { PROJ_Q, PROJ_K, PROJ_V, PROJ_O, PROJ_GATE, PROJ_UP, PROJ_DOWN, PROJ_COUNT } proj_t;
enum { ADAPTER_MAX_RANK = 4096 };

/* y += b (a x): low-rank factors of a linear layer. rank 0: none. */
typedef struct {
    int64_t rank;
    const tensor_t *a, *b; /* [rank][n_in], [n_out][rank] */
    float *fa, *fb;        /* the same in f32, for those of all rows (folded into the weights while they are packed); else NULL */
} lora_t;

/* One decoder layer's. */
typedef struct {
    lora_t all[PROJ_COUNT], gist[PROJ_COUNT]; /* of all rows; of gist rows alone */
    const tensor_t *gist_weight[3];           /* q, k, v of gist rows, in place of the model's; NULL: the model's */
} adapter_layer_t;

/* NULL path: *out = NULL, which all of this takes as "no adapter". ST_INPUT naming the file, the tensor or setting and what it must be. */
status_t adapter_open(const char *path, const model_file_t *base, adapter_t **out);
/* Shapes are checked against the base's config; a fingerprint of another model is ST_INPUT only with `base` (precis inspect has none). */
status_t adapter_parse(const void *data, size_t bytes, const char *name, const model_config_t *config, const char *fingerprint,
                       adapter_t **out);
void adapter_free(adapter_t *a);
const char *adapter_path(const adapter_t *a);
hash_t adapter_hash(const adapter_t *a); /* of the file's bytes */
/* May it be used so? ratio 0: not a layout of units. ST_INPUT with what it was trained for. */
status_t adapter_check(const adapter_t *a, const char *layout, int64_t ratio);

/* Rows of its own. */
int64_t adapter_n_gist(const adapter_t *a); /* gist embeddings; gist u of a segment takes number u mod that; 0: none */
const float *adapter_gist(const adapter_t *a, int64_t i);
bool adapter_adds_unit(const adapter_t *a); /* a gist's input is its unit's mean embedding plus its vector, else the vector */
int64_t adapter_n_sink(const adapter_t *a); /* sink rows without text; 0: none */
const float *adapter_sink(const adapter_t *a, int64_t i);
const float *adapter_zero_key(const adapter_t *a); /* [n_layer][n_kv_head][d_head], or NULL */

const adapter_layer_t *adapter_layer(const adapter_t *a, int64_t layer); /* NULL for no adapter */
/* For precis inspect: settings as text, and what there is of each kind. */
const char *adapter_models(const adapter_t *a);
const char *adapter_layouts(const adapter_t *a);
const char *adapter_ratios(const adapter_t *a);
int64_t adapter_count(const adapter_t *a, bool gist_alone, int64_t *largest_rank); /* linear layers with factors */
int64_t adapter_n_weights(const adapter_t *a);                                     /* q, k, v weights of gist rows */

#endif
