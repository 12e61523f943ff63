#include "query/plan.h"

#include "query/attend.h"

void query_plan(const model_config_t *c, const encode_plan_in_t *in, const encode_plan_t *encode, query_plan_t *out) {
    const layout_info_t *info = layout_info(in->layout);
    const kept_t *k = &in->kept;
    int64_t groups = i64_max(1, i64_min(in->n_segment, MAX_GROUPS)), mine = i64_ceil_div(groups, in->n_rank), rows = PLAN_PROMPT;
    int64_t local = i64_ceil_div(in->n_segment * mine, groups); /* whole groups are dealt */
    size_t share = (size_t)((double)encode->store * (double)mine / (double)groups), own = 0;
    attend_spec_t attend = {.select = 0};
    if (info->joined) own = 2 * kv_bytes(c, in->act, in->n_token);                                  /* keys move: copies */
    if (k->select.ratio && k->keep == KEEP_BOTH) own = 2 * kv_bytes(c, in->kv_type, in->n_summary); /* packed out of the raw rows */
    *out = (query_plan_t){.mapped = share};
    out->work = forward_ws_bytes(c, in->act, rows) + attend_bytes(c, in->n_segment, local, &attend, rows) +
                2 * kv_bytes(c, in->act, rows + in->n_sink) + (size_t)((double)own * (double)mine / (double)groups);
    out->resident = encode->weights_node + encode->mapped + PROGRAM_BYTES + out->work + out->mapped;
    if (in->n_rank > 1)
        out->wire_row = (size_t)(i64_min(in->n_segment, MAX_GROUPS) * c->n_layer * c->n_head * (c->d_head + 2)) * sizeof(float);
}
