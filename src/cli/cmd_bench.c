/* precis bench: what this machine does, beside what it could. Printed in the manner of nccl-tests and HPCG: machine, ceilings, problem,
 * check, rate, share of the ceiling, VALID or INVALID. */
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "cli/commands.h"

static status_t open_bench(const options_t *o, context_t *c, const model_config_t **shape) {
    *shape = bench_shape(opt_text(o, "shape"));
    if (!*shape) return status_fail(ST_USAGE, "--shape %s is not known", opt_text(o, "shape"));
    const char *backend = opt_text(o, "backend"), *type = opt_text(o, "dtype");
    if (!strcmp(backend, "cuda") && !strcmp(type, "auto")) c->dtype = DT_BF16; /* what GPUs are for */
    return context_open_backend(c);
}

static void head(const context_t *c, const model_config_t *m, const bench_ceiling_t *top) {
    printf("machine    %s\n", c->backend->detail);
    printf("ceilings   products %.4g TFLOP/s, copies %.0f GB/s (measured now)\n", top->flops * 1e-12, top->bytes * 1e-9);
    printf("model      %s: %lld layers, width %lld, %lld/%lld heads of %lld, feed-forward %lld, random weights\n", m->name,
           (long long)m->n_layer, (long long)m->d_model, (long long)m->n_head, (long long)m->n_kv_head, (long long)m->d_head,
           (long long)m->d_ff);
}

static status_t verdict(double error, double limit, bool valid) {
    printf("check      two layers of this shape against the CPU in f32: off by %.2e, limit %.0e\n", error, limit);
    puts(valid ? "VALID" : "INVALID");
    return valid
               ? ST_OK
               : status_fail(ST_FAIL, "the results are off by %.3g, more than %.3g; do not trust this build on this machine", error, limit);
}

static void profile(const profile_line_t *lines, int n, double seconds, int64_t steps) {
    double sum = 0;
    if (!n) return;
    puts("profile    each operation waited for, so slower than above");
    for (int i = 0; i < n; i++) {
        printf("  %-24s %8lld calls %10.3f ms  %5.1f %%\n", lines[i].name, (long long)(lines[i].calls / steps),
               lines[i].seconds * 1e3 / (double)steps, lines[i].seconds / seconds * 100);
        sum += lines[i].seconds;
    }
    printf("  %-24s %14s %10.3f ms  %5.1f %%\n", "outside of operations", "", (seconds - sum) * 1e3 / (double)steps,
           (1 - sum / seconds) * 100);
}

/* ---- encode --------------------------------------------------------------------------------------------------------------- */
static status_t run_encode(const options_t *o, context_t *c) {
    const model_config_t *m;
    bench_encode_t b = {.gist = {.window = -1},
                        .segment = opt_int(o, "segment"),
                        .n_segment = opt_int(o, "segments"),
                        .n_sink = opt_int(o, "sinks"),
                        .max_row = opt_int(o, "batch"),
                        .to_host = !strcmp(opt_text(o, "kv-to"), "host"),
                        .repeats = (int)opt_int(o, "repeats"),
                        .profile = opt_flag(o, "profile")};
    bench_encoded_t r;
    status_t st = open_bench(o, c, &m);
    if (!layout_find(opt_text(o, "layout"), &b.layout) || (b.layout != LAYOUT_PCE && b.layout != LAYOUT_FULL && b.layout != LAYOUT_UNIGIST))
        return status_fail(ST_USAGE, "--layout %s: not measured; use pce, full or unigist", opt_text(o, "layout"));
    if (b.layout == LAYOUT_UNIGIST) {
        b.gist.ratio = opt_int(o, "ratio");
        b.gist.window = opt_given(o, "local") ? opt_int(o, "local") / b.gist.ratio * b.gist.ratio : 512 / b.gist.ratio * b.gist.ratio;
    }
    if (!st) st = bench_encode(m, c->backend, c->comm, &b, &r);
    if (st) return st;
    double rate = (double)r.tokens / r.median_s, flops = r.linear + r.attention;
    head(c, m, &r.ceiling);
    printf("problem    %s, %lld segments of %lld tokens behind %lld sinks, %lld rows a pass, K/V %s\n", opt_text(o, "layout"),
           (long long)b.n_segment, (long long)b.segment, (long long)b.n_sink, (long long)b.max_row, b.to_host ? "to host memory" : "stay");
    printf("memory     weights %.2f, work space %.2f, K/V %.2f GiB", (double)r.weights / 0x1p30, (double)r.work / 0x1p30,
           (double)r.pools / 0x1p30);
    if (r.left != SIZE_MAX) printf("; %.2f of %.2f GiB were free", (double)r.left / 0x1p30, (double)r.total / 0x1p30);
    printf("\nrate       %.0f tokens/s (best %.0f); %lld tokens in %.4f s; K/V %.2f GB/s\n", rate, (double)r.tokens / r.best_s,
           (long long)r.tokens, r.median_s, r.kv_bytes / r.median_s * 1e-9);
    printf("share      %.4g GFLOP a token (%.4g in linear layers): %.4g TFLOP/s = %.1f %% of the ceiling\n",
           flops / (double)r.tokens * 1e-9, r.linear / (double)r.tokens * 1e-9, flops / r.median_s * 1e-12,
           flops / r.median_s / r.ceiling.flops * 100);
    profile(r.lines, r.n_line, r.profiled_s, 1);
    return verdict(r.error, r.limit, r.valid);
}

const command_t cmd_bench_encode = {
    .spec = {.name = "bench encode",
             .summary = "how fast this machine encodes a model of a known shape, beside its ceilings",
             .usage = "precis bench encode [options]",
             .text =
                 "Makes a model of the shape with random weights, checks two of its layers against the CPU in f32, measures the machine's "
                 "matrix products and copies,\n"
                 "then encodes random tokens. Exit code 1 when the check fails.",
             .examples = "  precis bench encode --backend cuda --shape 8b --segment 4K --segments 32 --batch 16K\n"
                         "  precis bench encode --backend cuda --shape 8b --layout unigist --ratio 8 --segment 128K --segments 1\n"
                         "  precis bench encode --shape tiny --profile\n",
             .keys =
                 "shape layout ratio local segment=1K segments sinks=16 batch=4K kv-to repeats profile backend dtype threads quiet verbose "
                 "config print-config",
             .min_args = 0,
             .max_args = 0},
    .run = run_encode,
};

/* ---- query ---------------------------------------------------------------------------------------------------------------- */
static status_t run_query(const options_t *o, context_t *c) {
    const model_config_t *m;
    bench_query_t b = {.context = opt_int(o, "context"),
                       .segment = opt_int(o, "segment"),
                       .slots = opt_int(o, "slots"),
                       .steps = opt_int(o, "max-tokens"),
                       .repeats = (int)opt_int(o, "repeats"),
                       .profile = opt_flag(o, "profile")};
    bench_queried_t r;
    status_t st = open_bench(o, c, &m);
    if (!st) st = bench_query(m, c->backend, c->comm, &b, &r);
    if (st) return st;
    double bytes = r.weight_bytes + r.kv_bytes;
    head(c, m, &r.ceiling);
    printf("problem    greedy decoding of %lld prompts side by side over %lld rows of context in segments of %lld\n", (long long)b.slots,
           (long long)b.context, (long long)b.segment);
    printf("rate       %.3f ms a step (best %.3f): %.1f tokens/s\n", r.step_s * 1e3, r.best_s * 1e3, (double)b.slots / r.step_s);
    printf("share      a step reads %.2f GB of weights and %.2f GB of K/V: %.0f GB/s = %.1f %% of the ceiling\n", r.weight_bytes * 1e-9,
           r.kv_bytes * 1e-9, bytes / r.step_s * 1e-9, bytes / r.step_s / r.ceiling.bytes * 100);
    profile(r.lines, r.n_line, r.profiled_s, 4);
    return verdict(r.error, r.limit, r.valid);
}

const command_t cmd_bench_query = {
    .spec = {.name = "bench query",
             .summary = "how fast this machine decodes with a model of a known shape, beside its ceilings",
             .usage = "precis bench query [options]",
             .text =
                 "Greedy decoding over made-up K/V with a model of the shape and random weights, checked on two of its layers against the "
                 "CPU in f32. Exit code 1 when the\n"
                 "check fails.",
             .examples = "  precis bench query --backend cuda --shape 8b --context 8K --slots 1\n",
             .keys = "shape context segment slots=1 max-tokens=16 repeats profile backend dtype threads quiet verbose config print-config",
             .min_args = 0,
             .max_args = 0},
    .run = run_query,
};

/* ---- ops ------------------------------------------------------------------------------------------------------------------ */
typedef struct {
    bench_ceiling_t top;
    bool valid;
} ops_table_t;

static status_t ops_line(void *ctx, const bench_op_t *op) {
    ops_table_t *t = ctx;
    bool fine = op->error <= op->limit;
    t->valid &= fine;
    printf("%-24s %-24s %10.1f us ", op->name, op->shape, op->median_s * 1e6);
    if (op->bytes > 0)
        printf("%9.1f GB/s    %5.1f %%", op->bytes / op->median_s * 1e-9, op->bytes / op->median_s / t->top.bytes * 100);
    else
        printf("%9.2f TFLOP/s %5.1f %%", op->flops / op->median_s * 1e-12, op->flops / op->median_s / t->top.flops * 100);
    printf("  off by %.1e %s\n", op->error, fine ? "ok" : "TOO MUCH");
    fflush(stdout);
    return ST_OK;
}

static status_t run_ops(const options_t *o, context_t *c) {
    const model_config_t *m;
    ops_table_t t = {.valid = true};
    status_t st = open_bench(o, c, &m);
    if (!st) st = c->backend->ops->ceilings(c->backend, &t.top.flops, &t.top.bytes);
    if (st) return st;
    head(c, m, &t.top);
    puts("checks     640 rows against the CPU in f32; % of the ceiling that bounds the operation");
    st = bench_ops(m, c->backend, opt_int(o, "batch"), (int)opt_int(o, "repeats"), ops_line, &t);
    if (st) return st;
    puts(t.valid ? "VALID" : "INVALID");
    return t.valid ? ST_OK : status_fail(ST_FAIL, "some results are off by more than they may; do not trust this build on this machine");
}

const command_t cmd_bench_ops = {
    .spec =
        {.name = "bench ops",
         .summary = "how fast this machine does each operation of a decoder layer, beside its ceilings",
         .usage = "precis bench ops [options]",
         .text =
             "Checks each operation at the model's shapes against the CPU in f32 and times it for --batch rows. Exit code 1 when a check "
             "fails.",
         .examples = "  precis bench ops --backend cuda --shape 8b --batch 16K\n  precis bench ops --shape smollm2 --threads 2\n",
         .keys = "shape batch=2K repeats backend dtype threads quiet verbose config print-config",
         .min_args = 0,
         .max_args = 0},
    .run = run_ops,
};
