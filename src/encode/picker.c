#include "encode/picker.h"

#include <string.h>

#include "base/mem.h"

struct picker {
    backend_t *be;
    const model_config_t *config;
    const kept_t *kept;
    scorer_t *scorer;
    float *score;   /* [n_layer][n_kv_head][max_tokens] */
    uint8_t *keep;  /* the same */
    int32_t *count; /* [n_layer][n_kv_head] */
};

static size_t heads(const model_config_t *c) { return (size_t)(c->n_layer * c->n_kv_head); }

static score_spec_t score_spec(const picker_spec_t *s) {
    return (score_spec_t){.method = s->kept->select.by,
                          .repeat = s->repeat,
                          .n_repeat = s->n_repeat,
                          .align = s->align,
                          .reserve = s->reserve,
                          .max_row = s->max_row,
                          .max_tokens = s->max_tokens};
}

size_t picker_bytes(const model_config_t *c, dtype_t act, const picker_spec_t *s) {
    score_spec_t score = score_spec(s);
    return heads(c) * (size_t)s->max_tokens * (sizeof(float) + 1) + scorer_bytes(c, act, &score);
}

size_t picker_device_bytes(const model_config_t *c, dtype_t act, const picker_spec_t *s) {
    score_spec_t score = score_spec(s);
    return scorer_device_bytes(c, act, &score);
}

int64_t picker_kv_rows(const picker_spec_t *s) {
    score_spec_t score = score_spec(s);
    return scorer_kv_rows(&score);
}

status_t picker_create(model_t *m, encoder_t *e, const picker_spec_t *s, picker_t **out) {
    picker_t *p = NULL;
    score_spec_t score = score_spec(s);
    status_t st = mem_zalloc(&p, 1, sizeof *p, "the choice of rows");
    *out = NULL;
    if (st) return st;
    p->be = model_backend(m);
    p->config = model_config(m);
    p->kept = s->kept;
    st = scorer_create(m, e, &score, &p->scorer);
    if (!st) st = mem_alloc(&p->score, heads(p->config) * (size_t)s->max_tokens, sizeof *p->score, "scores");
    if (!st) st = mem_alloc(&p->keep, heads(p->config) * (size_t)s->max_tokens, sizeof *p->keep, "scores");
    if (!st) st = mem_alloc(&p->count, heads(p->config), sizeof *p->count, "kept rows");
    if (st)
        picker_free(p);
    else
        *out = p;
    return st;
}

void picker_free(picker_t *p) {
    if (!p) return;
    scorer_free(p->scorer);
    mem_free(p->score);
    mem_free(p->keep);
    mem_free(p->count);
    mem_free(p);
}

status_t picker_run(picker_t *p, const piece_t *piece, kv_pool_t *packed, int32_t *count, int32_t *list) {
    int64_t m = pick_rows(p->kept->select.ratio, piece->n);
    status_t st = scorer_run(p->scorer, piece, p->score);
    if (!st) st = pick_choose(p->config, p->kept->select.budget, m, piece->n, p->score, p->count, p->keep);
    if (st) return st;
    if (count) memcpy(count, p->count, heads(p->config) * sizeof *count);
    if (list) pick_list(p->config, m, piece->n, p->keep, list);
    return packed ? pick_pack(p->be, p->config, piece->n, m, p->keep, &piece->pool, packed) : ST_OK;
}
