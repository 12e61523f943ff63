#include "encode/plan.h"

#include "base/mem.h"
#include "encode/picker.h"
#include "encode/spill.h"
#include "layout/assign.h"
#include "layout/shard.h"

void encode_plan_document(encode_plan_in_t *in, int64_t n) {
    const layout_info_t *info = layout_info(in->layout);
    const kept_t *k = &in->kept;
    int64_t segment = info->whole ? i64_max(n, 1) : in->segment, rows = 0, count = i64_ceil_div(n, segment), full = i64_max(count - 1, 0);
    for (int last = 0; last < 2 && count; last++) { /* the segments before the last are alike */
        int64_t times = last ? 1 : full, length = last ? n - full * segment : segment, picked = kept_picked(k, length);
        rows += times * kept_rows(k, length);
        in->n_summary += times * (picked ? picked : kept_gists(k, length));
        in->n_picked += times * picked;
    }
    /* the first is seen by all others, or each by those behind it */
    double later = info->anchored ? (double)full : info->chained ? (double)full * (double)count / 2 : 0;
    in->n_seen += later * (double)(info->gists ? gist_count(&k->gist, segment) : segment);
    in->n_row += rows;
    in->longest_rows = i64_max(in->longest_rows, rows);
    in->longest_document = i64_max(in->longest_document, n);
    in->n_token += n;
    in->n_segment += count;
    in->n_document++;
}

static int64_t longest_segment(const encode_plan_in_t *in) { return i64_min(in->segment, in->longest_document); }

/* K/V rows that a rank holds while it encodes: what is written, twice where segments are apart, and what is not kept. */
static int64_t buffer_rows(const encode_plan_in_t *in) {
    const layout_info_t *info = layout_info(in->layout);
    const kept_t *k = &in->kept;
    int64_t batch = info->whole ? in->longest_document : i64_min(in->n_token, i64_max(longest_segment(in), in->max_row));
    int64_t spare = k->keep == KEEP_GIST ? batch : k->keep == KEEP_RAW && k->gist.ratio ? gist_count(&k->gist, batch) : 0;
    int64_t copies = info->chained || (info->whole && in->n_document < 2) ? 1 : 2;
    encoder_spec_t pages = {.gist = k->gist, .max_row = in->max_row};
    if (k->keep == KEEP_TAIL) spare = i64_min(encoder_pages(&pages), in->longest_document / PAGE_ROWS + 1) * PAGE_ROWS;
    return (info->chained ? in->longest_rows : copies * kept_rows(k, batch)) + spare;
}

static picker_spec_t picker_of(const encode_plan_in_t *in) {
    return (picker_spec_t){.kept = &in->kept, .n_repeat = 16, .max_row = in->max_row, .max_tokens = longest_segment(in)};
}

/* Do K/V of the longest document, or of two segments, fit beside weights and work space? As room_choose decides. */
static void plan_device(const model_config_t *c, const encode_plan_in_t *in, encode_plan_t *out) {
    picker_spec_t picker = picker_of(in);
    bool picks = in->kept.select.ratio > 0;
    int64_t own = picks ? picker_kv_rows(&picker) : 0;
    size_t chooses = picks ? picker_device_bytes(c, in->act, &picker) : 0, all = 2 * kv_bytes(c, in->act, buffer_rows(in) + own) + chooses;
    if (!in->device_bytes || in->kept.gist.single || out->shared || (double)all <= out->kv_room) return;
    out->kv_layers = chooses + spill_bytes(c, in->act, (picks ? longest_segment(in) + own : buffer_rows(in)) + in->n_sink);
}

/* Passes of the model over a row, on average: gists are rows too, and scores read segments again. */
static double row_factor(const encode_plan_in_t *in) {
    const kept_t *k = &in->kept;
    double gists = k->gist.ratio ? 1.0 / (double)k->gist.ratio : 0;
    bool again = k->select.ratio && k->select.by != SCORE_KNORM && k->select.by != SCORE_SNAPKV;
    return 1 + gists + (again ? 1 : 0);
}

enum { MAX_SHARED_RANKS = 4096 }; /* every pair of ranks is looked at */

/* Of one rank of those that share a document: K/V that it writes, and what it works on: two layers of what its rows see, and its rows. */
typedef struct {
    size_t kept, work;
} portion_t;

static portion_t shared_bytes(const model_config_t *c, const encode_plan_in_t *in, const shard_t *plan, int rank) {
    const gist_spec_t *g = &in->kept.gist;
    int64_t n = in->longest_document, kept = 0, raw = 0, gists = 0;
    for (int64_t s = 0; s < plan->spec.n_segment; s++)
        if (shard_writer(plan, s) == rank) kept += kept_rows(&in->kept, plan->segment[s + 1] - plan->segment[s]);
    for (int back = 0; back < 2; back++)
        for (int64_t i = 0; shard_step(plan, rank, back, i); i++) {
            raw += shard_step(plan, rank, back, i)->raw_n;
            gists += shard_step(plan, rank, back, i)->gist_n;
        }
    int64_t seen =
        plan->spec.raw_chain ? n : i64_min(n, raw + 2 * (g->window >= 0 ? g->window + g->ratio : in->segment)) + gist_count(g, n);
    return (portion_t){.kept = 2 * kv_bytes(c, in->act, kept),
                       .work = spill_bytes(c, in->act, seen + in->n_sink) + forward_ws_rows_bytes(c, in->act, raw + gists)};
}

/* The longest document over all ranks, cut into segments of the same length; with more memory than there is, nothing is told. */
static void plan_shared(const model_config_t *c, const encode_plan_in_t *in, encode_plan_t *out) {
    const layout_info_t *info = layout_info(in->layout);
    int64_t n = in->longest_document, L = info->whole ? n : in->segment, count = n ? i64_ceil_div(n, L) : 0, *segment = NULL;
    keep_t keep = in->kept.keep;
    shard_spec_t spec = {.gist = in->kept.gist,
                         .raw_chain = !in->kept.gist.ratio,
                         .raw_kept = keep == KEEP_RAW || keep == KEEP_BOTH,
                         .n_segment = count,
                         .size = in->n_rank,
                         .max_row = i64_max(in->max_row, in->kept.gist.ratio + 1)};
    shard_t plan;
    if (!count || in->n_rank < 2 || in->n_rank > MAX_SHARED_RANKS || !layout_shards(info, in->kept.compact, c->window)) return;
    if (mem_alloc(&segment, (size_t)count + 1, sizeof *segment, "segments of a document")) return;
    for (int64_t s = 0; s <= count; s++) segment[s] = i64_min(s * L, n);
    spec.segment = segment;
    if (!shard_make(&spec, &plan)) {
        portion_t most = {0};
        for (int r = 0; r < in->n_rank; r++) {
            portion_t mine = shared_bytes(c, in, &plan, r);
            if (mine.kept + mine.work > most.kept + most.work) most = mine;
            out->shared_wire += 2 * kv_bytes(c, in->act, shard_sent_rows(&plan, r));
            out->shared_ring += 2 * kv_bytes(c, in->act, shard_ring_rows(&plan, r));
        }
        out->shared = n * in->n_rank > in->n_token && n >= (int64_t)SHARD_ROWS * in->n_rank &&
                      (!in->device_bytes || (double)most.work <= out->kv_room); /* as --shard auto does */
        bool spilled = in->device_bytes && (double)((info->chained ? 1 : 2) * most.kept + most.work) > out->kv_room;
        if (out->shared) out->kv_buffers = spilled ? most.kept : most.kept + most.work;
        if (out->shared && spilled) out->kv_layers = most.work;
        shard_free(&plan);
    }
    mem_free(segment);
}

void encode_plan(const model_config_t *c, const encode_plan_in_t *in, encode_plan_t *out) {
    const layout_info_t *info = layout_info(in->layout);
    encoder_spec_t spec = {.n_sink = in->n_sink, .max_row = in->max_row};
    picker_spec_t picker = picker_of(in);
    int64_t budget = i64_min(encode_round_tokens(in->n_rank, in->segment), i64_max(in->n_token, 1)) + in->longest_document;
    size_t round_bytes =
        (size_t)budget * sizeof(int32_t) + (size_t)i64_ceil_div(budget, in->segment) * (sizeof(round_item_t) + sizeof(hash_t));
    size_t sink = 2 * kv_bytes(c, in->act, in->n_sink);
    assign_cost_t cost = {.row = model_flops_row(c) / 2,
                          .key = 2.0 * (double)(c->n_layer * c->n_head * c->d_head),
                          .n_sink = in->n_sink,
                          .window = c->window};
    int64_t each = info->chained ? in->n_document : in->n_segment, mean = each ? in->n_token / each : 0;
    int64_t lists = c->n_layer * c->n_kv_head * in->n_picked;
    if (in->kept.keep == KEEP_TAIL) cost.window = in->kept.gist.window + in->kept.gist.ratio;

    *out = (encode_plan_t){.weights_node = in->packed_bytes, .round = round_bytes};
    out->weights_rank = in->packed_bytes / (size_t)in->ranks_per_node;
    out->workspace = encoder_bytes(c, in->act, &spec);
    out->kv_room = ROOM_USABLE * ((double)in->device_bytes - (double)in->packed_bytes - (double)out->workspace);
    if (in->kept.select.ratio) out->workspace += picker_bytes(c, in->act, &picker) + 2 * kv_bytes(c, in->act, picker_kv_rows(&picker));
    out->kv_buffers = 2 * kv_bytes(c, in->act, buffer_rows(in));
    plan_shared(c, in, out);
    plan_device(c, in, out);
    out->rank_total = out->weights_rank + out->workspace + out->kv_buffers + out->round + PROGRAM_BYTES;
    out->mapped = in->file_bytes / (size_t)in->ranks_per_node;
    out->kv_raw = 2 * kv_bytes(c, in->kv_type, in->n_token);
    out->kv_kept = 2 * kv_bytes(c, in->kv_type, in->n_row);
    out->kv_summary = 2 * kv_bytes(c, in->kv_type, in->n_summary);
    out->kv_seen = in->n_seen * 2 * (double)kv_bytes(c, in->act, 1);
    out->store = out->kv_kept + (size_t)(in->n_token + lists) * sizeof(int32_t);
    out->wire = (size_t)(in->n_rank - 1) * ((size_t)in->n_token * sizeof(int32_t) + (size_t)in->n_segment * sizeof(round_item_t) + sink);
    out->resident = out->rank_total - out->weights_rank + out->weights_node + out->mapped;
    out->flops = 2 * assign_cost(&cost, mean) * (double)each * row_factor(in);
}
