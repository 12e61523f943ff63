/* precis plan: what an encoding will take, before it waits in a queue. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "cli/commands.h"
#include "cli/job_options.h"
#include "io/corpus.h"
#include "io/json.h"
#include "query/plan.h"

/* Documents of the inputs, tokenised and cut as encode will. */
static status_t corpus_measure(const options_t *o, const tokenizer_t *t, encode_plan_in_t *in) {
    const char *const *inputs;
    int n = opt_args(o, &inputs);
    if (opt_given(o, "corpus-tokens")) {
        encode_plan_document(in, opt_int(o, "corpus-tokens"));
        return n ? status_fail(ST_USAGE, "give either INPUT files or --corpus-tokens, not both") : ST_OK;
    }
    if (!n) return status_fail(ST_USAGE, "no corpus; give INPUT files, or --corpus-tokens N");
    corpus_t *corpus = NULL;
    ids_t ids = {0};
    status_t st = corpus_open(inputs, n, "text", &corpus);
    for (bool got = true; !st && got;) {
        document_t doc;
        if ((st = corpus_next(corpus, &doc, &got)) || !got) break;
        ids.n = 0;
        st = tokenizer_encode(t, doc.text, doc.bytes, false, &ids);
        if (!st) encode_plan_document(in, ids.n);
    }
    corpus_close(corpus);
    ids_free(&ids);
    return st;
}

static int64_t memory_bytes(void) { return (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE); }

static void line(const char *what, double bytes, const char *note) {
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    for (; bytes >= 1024 && u < 4; u++) bytes /= 1024;
    printf("  %-28s %9.2f %s%s%s\n", what, bytes, unit[u], *note ? u ? "  " : "    " : "", note);
}

static void print_text(const options_t *o, const encode_plan_in_t *in, const encode_plan_t *p, const query_plan_t *q) {
    int nodes = (in->n_rank + in->ranks_per_node - 1) / in->ranks_per_node;
    printf("corpus: %lld documents, %lld tokens, %lld segments of at most %lld; layout %s, sink of %lld tokens\n",
           (long long)in->n_document, (long long)in->n_token, (long long)in->n_segment, (long long)in->segment, opt_text(o, "layout"),
           (long long)in->n_sink);
    printf("work: %.3g floating-point operations, %.3g on each of %d ranks\n", p->flops, p->flops / in->n_rank, in->n_rank);
    char prompts[64];
    snprintf(prompts, sizeof prompts, "prompts of up to %d tokens", PLAN_PROMPT);
    puts("memory");
    line("weights, per node", (double)p->weights_node, "shared by its ranks");
    line("work space, per rank", (double)p->workspace, "");
    line("K/V buffers, per rank", (double)p->kv_buffers,
         p->shared && p->kv_layers          ? "of the longest document, which all ranks share: in host memory"
         : p->shared                        ? "of the longest document, which all ranks share, and rows under way"
         : layout_info(in->layout)->chained ? "the longest document"
                                            : "a segment encoded, one written");
    if (p->kv_layers)
        line(p->shared ? "on the GPU, per rank" : "of them on the GPU", (double)p->kv_layers,
             p->shared ? "two layers at a time of what a rank sees, and rows under way"
                       : "two layers at a time: all of them are more than it has");
    line("round of segments", (double)p->round, "");
    line("total per rank", (double)p->rank_total, "with its share of the weights and the program");
    line("shown by top, per rank", (double)p->resident, "with all weights and the model's file, which goes when memory is short");
    puts("memory of a query on as many ranks");
    line("store, per rank", (double)q->mapped, "read where it lies: goes when memory is short");
    line("work space, per rank", (double)q->work, prompts);
    line("shown by top, per rank", (double)q->resident, "");
    puts("disk and wire");
    line("store", (double)p->store, in->n_picked ? "K/V, token ids and lists of kept rows" : "K/V and token ids");
    line("K/V kept", (double)p->kv_kept, "");
    if (p->kv_kept != p->kv_raw) line("K/V of all raw rows", (double)p->kv_raw, "of which not all are kept");
    if (in->n_summary) line("gists or selected rows", (double)p->kv_summary, "what queries see, or choose segments by");
    if (in->n_seen) line("K/V moved", p->kv_seen, "that segments see of others, were each on a rank of its own");
    line("sent while encoding", (double)p->wire, "token ids and the sink");
    if (p->shared_wire) {
        char ring[64];
        snprintf(ring, sizeof ring, "all ranks together; ring attention: %.1f MB", (double)p->shared_ring / 1e6);
        line("K/V, longest document shared", (double)p->shared_wire, ring);
    }
    line("gathered per query row", (double)q->wire_row, "partial results, per rank, when queried on as many ranks");
    printf("job header\n#SBATCH --nodes=%d --ntasks-per-node=%d --mem=%lldM\n", nodes, in->ranks_per_node,
           (long long)((p->weights_node + (p->rank_total - p->weights_rank) * (size_t)in->ranks_per_node) * 5 / 4 >> 20) + 256);
}

static void print_json(const encode_plan_in_t *in, const encode_plan_t *p, const query_plan_t *q) {
    json_out_t j;
    json_begin(&j, stdout);
    json_open(&j, NULL, '{');
    json_str(&j, "schema", "precis.plan.1");
    json_int(&j, "ranks", in->n_rank);
    json_int(&j, "ranks_per_node", in->ranks_per_node);
    json_int(&j, "documents", in->n_document);
    json_int(&j, "tokens", in->n_token);
    json_int(&j, "segments", in->n_segment);
    json_num(&j, "flops", p->flops);
    json_int(&j, "weights_node_bytes", (int64_t)p->weights_node);
    json_int(&j, "workspace_bytes", (int64_t)p->workspace);
    json_int(&j, "kv_buffers_bytes", (int64_t)p->kv_buffers);
    json_int(&j, "kv_gpu_layers_bytes", (int64_t)p->kv_layers);
    json_int(&j, "round_bytes", (int64_t)p->round);
    json_int(&j, "rank_total_bytes", (int64_t)p->rank_total);
    json_int(&j, "mapped_bytes", (int64_t)p->mapped);
    json_int(&j, "resident_bytes", (int64_t)p->resident);
    json_int(&j, "query_mapped_bytes", (int64_t)q->mapped);
    json_int(&j, "query_workspace_bytes", (int64_t)q->work);
    json_int(&j, "query_resident_bytes", (int64_t)q->resident);
    json_int(&j, "store_bytes", (int64_t)p->store);
    json_int(&j, "kv_kept_bytes", (int64_t)p->kv_kept);
    json_int(&j, "kv_raw_bytes", (int64_t)p->kv_raw);
    json_int(&j, "kv_summary_bytes", (int64_t)p->kv_summary);
    json_int(&j, "kv_moved_bytes", (int64_t)fmin(p->kv_seen, 0x1p62));
    json_int(&j, "wire_bytes", (int64_t)p->wire);
    json_int(&j, "shared_wire_bytes", (int64_t)p->shared_wire);
    json_int(&j, "shared_ring_bytes", (int64_t)p->shared_ring);
    json_int(&j, "query_wire_row_bytes", (int64_t)q->wire_row);
    json_end(&j);
}

static size_t gpu_bytes(const options_t *o, const context_t *c) {
    size_t left = 0, total;
    if (opt_given(o, "gpu-memory")) return (size_t)opt_int(o, "gpu-memory");
    if (!c->backend->host_memory) c->backend->ops->memory_left(c->backend, &left, &total);
    return left;
}

static status_t run_plan(const options_t *o, context_t *c) {
    const tokenizer_t *tokenizer = NULL;
    ids_t sink = {0};
    const char *kv = opt_text(o, "kv-dtype"), *format = opt_text(o, "format");
    encode_plan_in_t in = {.n_rank = (int)opt_int(o, "ranks"),
                           .ranks_per_node = (int)i64_min(opt_int(o, "ranks"), opt_int(o, "ranks-per-node")),
                           .segment = opt_int(o, "segment"),
                           .act = c->dtype,
                           .kv_type = !strcmp(kv, "f32")   ? DT_F32
                                      : !strcmp(kv, "f16") ? DT_F16
                                                           : DT_BF16};
    encode_plan_t plan;
    query_plan_t query;
    status_t st = context_open_file(c);
    if (!st) st = context_open_backend(c);
    if (!st) st = job_tokenizer(c, &tokenizer);
    if (!st) st = job_sink(c, opt_flag(o, "bos"), &sink);
    if (!st) st = job_kept(o, model_file_config(c->file), &in.layout, &in.kept);
    if (!st && layout_info(in.layout)->streams)
        st = status_fail(ST_USAGE, "--layout streaming keeps nothing of a text, so there is nothing to plan");
    if (!st) st = corpus_measure(o, tokenizer, &in);
    if (st) goto out;
    in.n_sink = sink.n + in.kept.n_blank;
    in.max_row = job_rows(o, in.segment);
    in.packed_bytes = model_file_packed_bytes(c->file, c->backend);
    in.device_bytes = gpu_bytes(o, c);
    if (in.device_bytes && !opt_given(o, "batch"))
        in.max_row = job_device_rows(model_file_config(c->file), in.act, (double)in.device_bytes - (double)in.packed_bytes);
    for (int64_t i = 0; i < model_file_n_tensors(c->file); i++) in.file_bytes += model_file_tensor(c->file, i)->bytes;
    encode_plan(model_file_config(c->file), &in, &plan);
    query_plan(model_file_config(c->file), &in, &plan, &query);
    if (format && !strncmp(format, "json", 4))
        print_json(&in, &plan, &query);
    else
        print_text(o, &in, &plan, &query);
    int64_t have = opt_given(o, "max-bytes") ? opt_int(o, "max-bytes") : memory_bytes() / in.ranks_per_node;
    if ((int64_t)plan.rank_total > have)
        st = status_fail(ST_FAIL,
                         "does not fit: a rank needs %.2f GiB and has %.2f GiB; use a smaller --segment or --batch, fewer ranks per node%s",
                         (double)plan.rank_total / 0x1p30, (double)have / 0x1p30,
                         layout_info(in.layout)->chained ? ", or --layout pce" : "");
    if (!st && plan.kv_layers > 0 && (double)plan.kv_layers > plan.kv_room)
        st = status_fail(
            ST_FAIL,
            "does not fit: two layers of K/V take %.2f GiB of the GPU, and beside weights and work space %.2f GiB are left for them; use "
            "gists, a smaller --batch, more GPUs, or a GPU with more memory",
            (double)plan.kv_layers / 0x1p30, fmax(plan.kv_room, 0) / 0x1p30);
out:
    ids_free(&sink);
    return st;
}

const command_t cmd_plan = {
    .spec = {.name = "plan",
             .summary = "bytes and work of an encoding before it runs",
             .usage = "precis plan --model M [options] (INPUT... | --corpus-tokens N)",
             .text = "Prints what encode with the same options would take on --ranks ranks, and a query on as many: memory per node and "
                     "rank, the store's size, bytes on the wire and\n"
                     "a job header. Exit code 1 with the numbers when a rank's memory (--max-bytes; else this machine's, shared by "
                     "--ranks-per-node) is too small.",
             .examples = "  precis plan --model M.gguf --ranks 16 --ranks-per-node 4 --segment 4K corpus.jsonl.zst\n"
                         "  precis plan --model M.gguf --segment 1K --layout blockselect --score reconstruct --ratio 4 book.txt\n"
                         "  precis plan --model M.gguf --layout full --corpus-tokens 1M --gpu-memory 80GiB\n"
                         "  precis plan --model M.gguf --ranks 4096 --corpus-tokens 100G --max-bytes 16GiB --format json\n",
             .keys = "model! layout segment ratio keep-by budget local gist-init keep sinks sink bos kv-dtype dtype backend threads batch "
                     "ranks ranks-per-node corpus-tokens max-bytes gpu-memory "
                     "format quiet verbose config print-config",
             .min_args = 0,
             .max_args = -1},
    .ranks = false,
    .run = run_plan};
