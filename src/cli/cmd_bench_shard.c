/* precis bench shard: one document over all ranks, and what of its messages is hidden. */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "bench/bench.h"
#include "cli/commands.h"
#include "cli/registry.h"

static double percent(double part, double of) { return of > 0 ? 100 * fmin(fmax(part / of, 0), 1) : 0; }

/* Messages are hidden as far as nobody waits for them. Where waits are not seen, as far as the run is no longer than its computing. */
static void overlap_print(const bench_sharded_t *r) {
    bool seen = r->stalled_s >= 0;
    double open_s = seen ? r->stalled_least_s : r->seconds - r->compute_s, longer_s = r->seconds - r->compute_s;
    printf("overlap    messages alone %.4f s (%.1f GB/s a rank), ", r->wire_s, (double)r->most / r->wire_s * 1e-9);
    printf(seen ? "of which the hindmost rank waited for %.4f s" : "with which the run takes %.4f s longer", open_s);
    printf(": %.1f %% of the messages hidden\n", r->wire_s > 0 ? 100 - percent(open_s, r->wire_s) : 100);
    printf("beside     %.4f s with messages, %.4f s without: %.1f %% longer", r->seconds, r->compute_s, 100 * longer_s / r->compute_s);
    if (seen)
        printf("; devices stood still for %.4f to %.4f s, for messages and for ranks that are behind; the rest is power, clock and memory "
               "shared with messages",
               r->stalled_least_s, r->stalled_s);
    puts("");
}

static void wire_print(const context_t *c, const bench_sharded_t *r) {
    static const int mb[SHARD_SIZES] = {16, 64, 256};
    printf("wire       %.1f MB of K/V between ranks (planned %.1f; ring attention %.1f), at most %.1f MB from one rank, by %s\n",
           (double)r->sent / 1e6, (double)r->planned / 1e6, (double)r->ring / 1e6, (double)r->most / 1e6,
           c->comm->device ? c->comm->device->ops->name : c->comm->ops->name);
    overlap_print(r);
    for (int i = 0; i < SHARD_SIZES; i++) {
        printf("messages   %d MB in all: exchange %.2f GB/s a rank", mb[i], r->exchange_bytes_s[i] * 1e-9);
        if (r->gather_bytes_s[i] > 0)
            printf(", all-gather %.2f GB/s: %.1f %%", r->gather_bytes_s[i] * 1e-9, 100 * r->exchange_bytes_s[i] / r->gather_bytes_s[i]);
        puts("");
    }
}

static status_t run_shard(const options_t *o, context_t *c) {
    const model_config_t *m = bench_shape(opt_text(o, "shape"));
    const char *layout = opt_text(o, "layout");
    bool full = !strcmp(layout, "full");
    bench_shard_t b = {.gist = {.window = -1},
                       .tokens = opt_int(o, "window"),
                       .segment = opt_int(o, "segment"),
                       .n_sink = opt_int(o, "sinks"),
                       .max_row = opt_int(o, "batch"),
                       .repeats = (int)opt_int(o, "repeats")};
    bench_sharded_t r;
    if (!m) return status_fail(ST_USAGE, "--shape %s is not known", opt_text(o, "shape"));
    if (!full && strcmp(layout, "unigist")) return status_fail(ST_USAGE, "--layout %s: not measured; use full or unigist", layout);
    if (!full) {
        b.gist.ratio = opt_int(o, "ratio");
        b.gist.window = opt_int(o, "local") / b.gist.ratio * b.gist.ratio;
    }
    if (!strcmp(opt_text(o, "backend"), "cuda") && !strcmp(opt_text(o, "dtype"), "auto")) c->dtype = DT_BF16;
    status_t st = comm_agree(c->comm, context_open_backend(c));
    if (!st) st = registry_device_open(c->comm, c->backend, opt_flag(o, "share-gpu"));
    if (!st) st = bench_shard(m, c->backend, c->comm, &b, &r);
    if (st || c->comm->rank) return st;
    printf("machine    %d ranks of: %s\n", c->comm->size, c->backend->detail);
    printf("problem    %s, one document of %lld tokens, %lld sinks, %lld rows a step, model %s with random weights\n", layout,
           (long long)b.tokens, (long long)b.n_sink, (long long)b.max_row, m->name);
    printf("rate       %.0f tokens/s, %.4f s\n", (double)b.tokens / r.seconds, r.seconds);
    if (c->comm->size > 1) wire_print(c, &r);
    printf("digest     %s\n", r.digest);
    puts(r.sent == r.planned || c->comm->size == 1 ? "VALID" : "INVALID");
    return r.sent == r.planned || c->comm->size == 1 ? ST_OK
                                                     : status_fail(ST_FAIL, "bytes between ranks are not as planned; report this as a bug");
}

const command_t cmd_bench_shard = {
    .spec = {.name = "bench shard",
             .summary = "how fast ranks encode one document together, and how much of their messages is hidden",
             .usage = "mpirun -n N precis bench shard [options]",
             .text =
                 "Encodes one document of --window random tokens over all ranks with a model of the shape and random weights: all of it, "
                 "without the messages, and the\n"
                 "messages alone. Prints the rate, bytes beside the plan's and ring attention's, the share of the messages that nobody "
                 "waits for, "
                 "exchanges of known sizes beside\n"
                 "an all-gather, and a digest of the K/V, which is the same at every number of ranks.",
             .examples = "  mpirun -n 8 precis bench shard --backend cuda --shape 8b --layout unigist --ratio 8 --window 128K\n"
                         "  mpirun -n 2 precis bench shard --shape tiny --layout full --window 4K\n",
             .keys =
                 "shape layout=unigist ratio local=128 window segment=4K sinks=16 batch=8K repeats backend share-gpu dtype threads quiet "
                 "verbose config print-config",
             .min_args = 0,
             .max_args = 0},
    .ranks = true,
    .run = run_shard,
};
