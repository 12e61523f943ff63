/* precis encode: a corpus into a store. */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/stop.h"
#include "cli/commands.h"
#include "cli/job_options.h"
#include "encode/encode.h"
#include "io/file.h"
#include "io/json.h"

static split_t split_option(const options_t *o) {
    const char *s = opt_text(o, "split") ? opt_text(o, "split") : "tokens";
    return !strcmp(s, "lines") ? SPLIT_LINES : !strcmp(s, "paragraphs") ? SPLIT_PARAGRAPHS : SPLIT_TOKENS;
}

static dtype_t kv_option(const options_t *o) {
    const char *s = opt_text(o, "kv-dtype");
    return !strcmp(s, "f32") ? DT_F32 : !strcmp(s, "f16") ? DT_F16 : DT_BF16;
}

static sharding_t shard_option(const options_t *o) {
    const char *s = opt_text(o, "shard") ? opt_text(o, "shard") : "auto";
    return !strcmp(s, "document") ? SHARD_DOCUMENT : !strcmp(s, "segments") ? SHARD_NONE : SHARD_AUTO;
}

enum { WHOLE_SEGMENT = 1 << 24 }; /* tokens: longer documents are cut all the same */

static void profile_fill(const options_t *o, const context_t *c, align_t align, const layout_info_t *info, const ids_t *sink,
                         store_profile_t *p) {
    const model_config_t *m = model_file_config(c->file);
    *p = (store_profile_t){.n_layer = info->edits ? kv_upper_layers(m) : m->n_layer,
                           .n_kv_head = m->n_kv_head,
                           .d_head = m->d_head,
                           .n_vocab = m->n_vocab,
                           .segment = info->whole ? WHOLE_SEGMENT : opt_int(o, "segment"),
                           .n_sink = sink->n,
                           .sink = sink->ids,
                           .kv_type = kv_option(o),
                           .act = c->dtype};
    snprintf(p->model_name, sizeof p->model_name, "%s", m->name);
    hash_hex(model_file_fingerprint(c->file), p->model_fingerprint);
    if (c->adapter) hash_hex(adapter_hash(c->adapter), p->adapter);
    snprintf(p->layout, sizeof p->layout, "%s", info->name);
    snprintf(p->align, sizeof p->align, "%s", job_align_name(align));
    snprintf(p->backend, sizeof p->backend, "%s", c->backend->ops->name);
}

static void summary(const options_t *o, const context_t *c, const encode_report_t *r) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    double rate = r->seconds > 0 ? (double)r->tokens_encoded / r->seconds : 0;
    const char *format = opt_text(o, "format");
    log_info("%lld documents, %lld segments: %lld encoded, %lld in the store already", (long long)r->n_document, (long long)r->n_segment,
             (long long)r->n_encoded, (long long)r->n_reused);
    log_info("%lld tokens encoded in %.2f s: %.0f tokens/s on %d x %d threads; %.1f MB of K/V written; peak memory of rank 0 %.0f MB",
             (long long)r->tokens_encoded, r->seconds, rate, c->comm->size, c->n_threads, (double)r->bytes_written / 1e6,
             (double)u.ru_maxrss / 1e3);
    if (r->n_sharded)
        log_info("%lld documents shared by all ranks: %.1f MB of K/V between ranks (planned: %.1f MB)", (long long)r->n_sharded,
                 (double)r->kv_sent / 1e6, (double)r->kv_sent_plan / 1e6);
    const encode_profile_t *p = &r->profile;
    bool profile = opt_flag(o, "profile") && r->seconds > 0;
    if (profile)
        log_info("rank 0 computed for %.2f of %.2f s and had nothing to do for %.1f %% of it; its host waited %.2f s for tokens, %.2f for "
                 "copies, "
                 "%.2f for the store",
                 p->computing_s, r->seconds, 100 * (1 - p->computing_s / r->seconds), p->tokens_s, p->copies_s, p->store_s);
    if (!format || strncmp(format, "json", 4)) return;
    json_out_t j;
    json_begin(&j, stdout);
    json_open(&j, NULL, '{');
    json_str(&j, "schema", "precis.encode.1");
    json_str(&j, "store", opt_text(o, "store"));
    json_int(&j, "documents", r->n_document);
    json_int(&j, "segments", r->n_segment);
    json_int(&j, "encoded", r->n_encoded);
    json_int(&j, "reused", r->n_reused);
    json_int(&j, "tokens_encoded", r->tokens_encoded);
    json_int(&j, "bytes_written", r->bytes_written);
    json_int(&j, "documents_shared", r->n_sharded);
    json_int(&j, "kv_sent_bytes", r->kv_sent);
    json_int(&j, "kv_sent_bytes_planned", r->kv_sent_plan);
    json_num(&j, "seconds", r->seconds);
    json_num(&j, "tokens_per_s", rate);
    json_int(&j, "peak_rss_bytes", u.ru_maxrss * 1024);
    json_int(&j, "ranks", c->comm->size);
    json_int(&j, "threads", c->n_threads);
    json_str(&j, "dtype", dtype_name(c->dtype));
    json_str(&j, "backend", c->backend->ops->name);
    if (profile) {
        json_num(&j, "computing_s", p->computing_s);
        json_num(&j, "tokens_wait_s", p->tokens_s);
        json_num(&j, "copies_wait_s", p->copies_s);
        json_num(&j, "store_wait_s", p->store_s);
        json_int(&j, "segments_early", r->n_early);
    }
    json_end(&j);
}

static status_t check_lengths(const context_t *c, const store_profile_t *p) {
    int64_t most = p->n_sink + p->segment, ctx = model_file_config(c->file)->n_ctx;
    if (!strcmp(p->layout, "full") || p->segment == WHOLE_SEGMENT) return ST_OK;
    if (ctx > 0 && most > ctx)
        log_warn("sink and segment take %lld positions, but the model was trained for %lld; use --segment %lld or less", (long long)most,
                 (long long)ctx, (long long)i64_max(1, ctx - p->n_sink));
    return ST_OK;
}

/* Missing inputs are told before the model is loaded. */
static status_t inputs_check(const char *const *inputs, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(inputs[i], "-") && !file_exists(inputs[i]))
            return status_fail(ST_INPUT, "%s: no such file or folder; check the path", inputs[i]);
    return ST_OK;
}

status_t encode_run(const options_t *o, context_t *c) {
    const char *const *inputs;
    int n_input = opt_args(o, &inputs);
    const tokenizer_t *tokenizer;
    ids_t sink = {0};
    encode_report_t report = {0};
    layout_method_t layout = LAYOUT_PCE;
    kept_t kept;
    stop_install();
    align_t align = job_align(o, ALIGN_LEFT);
    if (align == ALIGN_SEQUENTIAL)
        return status_fail(ST_USAGE, "--align sequential makes a segment's K/V depend on the text before it, so it cannot be stored by "
                                     "content; use left, right or even");
    status_t st = context_open_file(c);
    if (!st) st = job_tokenizer(c, &tokenizer);
    if (!st) { /* edits of a model that has no BOS begin without one */
        bool edits = !opt_text(o, "layout");
        st = job_sink(c, job_bos(o) && !(edits && tokenizer_bos(tokenizer) < 0), &sink);
    }
    if (!st) st = job_kept(o, model_file_config(c->file), &layout, &kept);
    if (!st) st = job_adapter(c, layout, &kept);
    if (!st) st = job_positions(o, layout, &align, &kept);
    if (!st && align == ALIGN_SEQUENTIAL)
        st = status_fail(ST_USAGE,
                         "--positions global makes a segment's K/V depend on the text before it, so it cannot be stored by content; "
                         "leave it out");
    if (!st && layout_info(layout)->streams)
        st = status_fail(ST_USAGE, "--layout streaming keeps nothing of a text, so there is nothing to store; precis eval ppl, eval agree "
                                   "and logits run it");
    if (!st && layout_info(layout)->whole && align != ALIGN_LEFT)
        st = status_fail(ST_USAGE, "--align has no meaning for --layout %s; leave it out", layout_info(layout)->name);
    if (!st) {
        const layout_info_t *info = layout_info(layout);
        bool on = info->chained || info->whole; /* positions go on through the document */
        st = job_window(model_file_config(c->file), layout, on ? INT64_MAX : sink.n + kept.n_blank + opt_int(o, "segment") + 1);
    }
    if (!st) st = inputs_check(inputs, n_input);
    if (!st && shard_option(o) == SHARD_DOCUMENT && !layout_shards(layout_info(layout), kept.compact, model_file_config(c->file)->window))
        st = status_fail(ST_USAGE, "--shard document: --layout %s%s is not encoded by several ranks together; leave it out",
                         layout_info(layout)->name,
                         kept.compact                         ? " with --positions compact"
                         : model_file_config(c->file)->window ? " of a model with a sliding window"
                                                              : "");
    if ((st = comm_agree(c->comm, st))) goto out;
    if ((st = context_load_model(c))) goto out;
    encode_spec_t spec = {.inputs = inputs,
                          .n_input = n_input,
                          .store_dir = opt_text(o, "store"),
                          .layout = layout,
                          .kept = kept,
                          .shard = shard_option(o),
                          .align = align,
                          .split = split_option(o),
                          .parse_special = opt_given(o, "special") && opt_flag(o, "special"),
                          .verify = opt_flag(o, "verify"),
                          .speed = opt_real(o, "speed"),
                          .watch = opt_flag(o, "profile"),
                          .progress = context_progress(c)};
    if ((st = comm_agree(c->comm, job_pass_rows(o, c, opt_int(o, "segment"), &spec.max_row)))) goto out;
    profile_fill(o, c, align, layout_info(layout), &sink, &spec.profile);
    kept_text(&kept, spec.profile.gists, sizeof spec.profile.gists);
    if (kept.gist.ratio) spec.max_row = i64_max(spec.max_row, kept.gist.ratio + 1);
    if (kept.gist.ratio && kept.keep != KEEP_RAW) job_warn_untrained(o, &kept);
    if (!(st = check_lengths(c, &spec.profile))) st = encode_corpus(c->model, tokenizer, c->comm, &spec, &report);
    if (c->comm->rank == 0 && (!st || st == ST_STOPPED)) summary(o, c, &report);
    if (!st && c->comm->rank == 0 && !report.n_document)
        st = status_fail(ST_INPUT, "%s%s: no document in it, so nothing was encoded; check the path", inputs[0],
                         n_input > 1 ? " and the other inputs" : "");
out:
    ids_free(&sink);
    return st;
}

const command_t cmd_encode = {
    .spec = {.name = "encode",
             .summary = "encode a corpus into a store, over any number of ranks",
             .usage = "precis encode --model M --store DIR [options] INPUT...",
             .text = "Cuts each document into segments, encodes them in parallel behind a shared sink and keeps their keys and values in "
                     "DIR. INPUT is a text file, JSON lines\n"
                     "({\"id\",\"text\"} a line), either compressed with zstd or gzip, a folder of these, or - for standard input. What "
                     "DIR holds already is not encoded again, so the\n"
                     "same command resumes after a kill and an edited corpus costs only what changed. SIGTERM and SIGUSR1 stop at the next "
                     "segment, or layer of a document that ranks\n"
                     "share, with exit code 75.",
             .examples = "  precis encode --model M.gguf --store book.store --segment 2K --sink 'Read the following text.' book.txt\n"
                         "  precis encode --model M.gguf --store book.store --segment 1K --layout blockselect --score reconstruct --ratio "
                         "4 --keep both "
                         "book.txt\n"
                         "  mpirun -n 4 precis encode --model M.gguf --store corpus.store corpus.jsonl.zst\n"
                         "  srun --mpi=pmix precis encode --model M.gguf --store corpus.store corpus/\n",
             .keys = "model! store! layout segment ratio keep-by budget local gist-init adapter keep sinks sink align positions split "
                     "shard bos special "
                     "kv-dtype rope-length dtype "
                     "backend share-gpu threads speed "
                     "batch verify format "
                     "profile progress quiet verbose config print-config",
             .min_args = 1,
             .max_args = -1},
    .ranks = true,
    .run = encode_run};
