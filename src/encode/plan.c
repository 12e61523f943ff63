#include "encode/plan.h"

#include "layout/assign.h"
#include "query/context.h"

void encode_plan(const model_config_t *c, const encode_plan_in_t *in, encode_plan_t *out) {
    encoder_spec_t spec = {.n_sink = in->n_sink, .max_row = in->max_row};
    int64_t rows = in->chained ? in->longest_document : i64_max(in->segment, in->max_row), buffers = in->chained ? 1 : 2;
    int64_t budget = i64_min(encode_round_tokens(in->n_rank, in->segment), i64_max(in->n_token, 1)) + in->longest_document;
    int64_t groups = i64_min(in->n_segment, MAX_GROUPS);
    size_t round_bytes =
        (size_t)budget * sizeof(int32_t) + (size_t)i64_ceil_div(budget, in->segment) * (sizeof(round_item_t) + sizeof(hash_t));
    size_t sink = 2 * kv_bytes(c, in->act, in->n_sink);
    assign_cost_t cost = {.row = model_flops_row(c) / 2,
                          .key = 2.0 * (double)(c->n_layer * c->n_head * c->d_head),
                          .n_sink = in->n_sink,
                          .window = c->window};
    int64_t each = in->chained ? in->n_document : in->n_segment, mean = each ? in->n_token / each : 0;

    *out = (encode_plan_t){.weights_node = in->packed_bytes, .round = round_bytes};
    out->weights_rank = in->packed_bytes / (size_t)in->ranks_per_node;
    out->workspace = encoder_bytes(c, in->act, &spec);
    out->kv_buffers = (size_t)buffers * 2 * kv_bytes(c, in->act, rows);
    out->rank_total = out->weights_rank + out->workspace + out->kv_buffers + out->round;
    out->store = 2 * kv_bytes(c, in->kv_type, in->n_token) + (size_t)in->n_token * sizeof(int32_t);
    out->wire = (size_t)(in->n_rank - 1) * ((size_t)in->n_token * sizeof(int32_t) + (size_t)in->n_segment * sizeof(round_item_t) + sink);
    out->query_wire_row = in->n_rank == 1 ? 0 : (size_t)(groups * c->n_layer * c->n_head * (c->d_head + 2)) * sizeof(float);
    out->flops = 2 * assign_cost(&cost, mean) * (double)each;
}
