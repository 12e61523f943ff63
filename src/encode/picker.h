/* blockselect: scores a segment that has been encoded, chooses its rows and packs them (score.h and pick.h, with what they need between
 * them). */
#ifndef ENCODE_PICKER_H
#define ENCODE_PICKER_H

#include "encode/kept.h"

typedef struct {
    const kept_t *kept;    /* its selection */
    const int32_t *repeat; /* [n_repeat] score_repeat_text in tokens; copied */
    int64_t n_repeat;
    align_t align; /* as the encoder's, as are reserve and max_row */
    int64_t reserve, max_row, max_tokens;
} picker_spec_t;

typedef struct picker picker_t;
/* Uses the encoder between encodings, as a scorer does. */
status_t picker_create(model_t *m, encoder_t *e, const picker_spec_t *spec, picker_t **out);
void picker_free(picker_t *p);
/* Of an encoded piece of at most max_tokens: the kept rows into `packed` (its n_row rows a head, on average), their counts
 * [n_layer][n_kv_head] and their list [n_layer][n_kv_head * m]; each may be NULL. */
status_t picker_run(picker_t *p, const piece_t *piece, kv_pool_t *packed, int32_t *count, int32_t *list);
/* What picker_create takes, as scorer_bytes and the others say. */
size_t picker_bytes(const model_config_t *c, dtype_t act, const picker_spec_t *spec);
size_t picker_device_bytes(const model_config_t *c, dtype_t act, const picker_spec_t *spec);
int64_t picker_kv_rows(const picker_spec_t *spec);

#endif
