/* precis eval agree: a layout against full attention. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cli/commands.h"
#include "cli/job_options.h"
#include "eval/agree.h"
#include "io/corpus.h"

static void row_print(const char *name, const agree_sum_t *s) {
    double n = s->n ? (double)s->n : 1, next = s->n_next ? (double)s->n_next : 1;
    printf("%s,%lld,%.6f,%.4f,%.4f,%.4f\n", name, (long long)s->n, s->kl / n, s->same / n, s->nll_full / next, s->nll / next);
}

static void result_print(const options_t *o, const context_t *c, const sequence_spec_t *spec, int64_t n_window, const agree_t *a) {
    char name[32];
    printf("# precis eval agree: %s, %s, dtype %s, layout %s, segment %lld, ratio %lld, window %lld, %lld windows\n",
           model_file_path(c->file), opt_text(o, "input"), dtype_name(c->dtype), layout_info(spec->layout)->name, (long long)spec->segment,
           (long long)spec->kept.gist.ratio, (long long)opt_int(o, "window"), (long long)n_window);
    puts("place,rows,kl,top1,nll_full,nll");
    row_print("all", &a->all);
    for (int b = 0; b < AGREE_BINS; b++) {
        snprintf(name, sizeof name, "%d/%d", b, AGREE_BINS);
        if (a->bin[b].n) row_print(name, &a->bin[b]);
    }
}

/* Windows are dealt over the ranks, w to rank w % size, and summed in their order, so that figures do not depend on the number of ranks. */
typedef struct {
    agree_t *mine; /* [n_mine] */
    int64_t n_mine, cap, n;
    comm_t *alone;
} windows_t;

static status_t window_run(context_t *c, const sequence_spec_t *spec, const int32_t *tokens, int64_t n, windows_t *w) {
    if (w->n++ % c->comm->size != c->comm->rank) return ST_OK;
    status_t st = mem_room(&w->mine, w->n_mine, &w->cap, sizeof *w->mine, "results");
    if (st) return st;
    w->mine[w->n_mine] = (agree_t){0};
    return agree_window(c->model, w->alone, spec, tokens, n, &w->mine[w->n_mine++]);
}

static status_t windows_sum(comm_t *comm, const windows_t *w, agree_t *sum) {
    agree_t *all = NULL;
    int64_t *bytes = NULL;
    status_t st = mem_alloc(&all, (size_t)i64_max(1, w->n), sizeof *all, "results");
    if (!st) st = mem_alloc(&bytes, (size_t)comm->size, sizeof *bytes, "results");
    st = comm_agree(comm, st);
    for (int r = 0; !st && r < comm->size; r++) bytes[r] = (w->n - r + comm->size - 1) / comm->size * (int64_t)sizeof *all;
    if (!st) st = comm->ops->gather(comm, 0, w->mine, all, bytes);
    for (int64_t i = 0; i < w->n && !st && comm->rank == 0; i++) {
        int64_t at = i / comm->size;
        for (int64_t r = 0; r < i % comm->size; r++) at += bytes[r] / (int64_t)sizeof *all;
        agree_sum(sum, &all[at]);
    }
    mem_free(all);
    mem_free(bytes);
    return st;
}

static status_t windows_run(const options_t *o, context_t *c, const tokenizer_t *t, const sequence_spec_t *spec) {
    int64_t window = opt_int(o, "window"), limit = opt_given(o, "limit") ? opt_int(o, "limit") : INT64_MAX;
    const char *path = opt_text(o, "input");
    corpus_t *in = NULL;
    ids_t ids = {0};
    windows_t w = {0};
    agree_t sum = {0};
    status_t st = comm_self_create(&w.alone);
    if (!st) st = corpus_open(&path, 1, "text", &in);
    for (bool got = true; !st && got && w.n < limit;) {
        document_t doc;
        if ((st = corpus_next(in, &doc, &got)) || !got) break;
        ids.n = 0;
        st = tokenizer_encode(t, doc.text, doc.bytes, false, &ids);
        for (int64_t at = 0; !st && at + window <= ids.n && w.n < limit; at += window) st = window_run(c, spec, ids.ids + at, window, &w);
    }
    corpus_close(in);
    ids_free(&ids);
    if (!st && !w.n)
        st = status_fail(ST_INPUT, "%s: no document has %lld tokens; use a smaller --window or longer texts", path, (long long)window);
    st = comm_agree(c->comm, st);
    if (!st) st = comm_agree(c->comm, windows_sum(c->comm, &w, &sum));
    if (!st && c->comm->rank == 0) result_print(o, c, spec, w.n, &sum);
    mem_free(w.mine);
    if (w.alone) w.alone->ops->close(w.alone);
    return st;
}

static status_t run_eval_agree(const options_t *o, context_t *c) {
    const tokenizer_t *tokenizer;
    ids_t sink = {0};
    sequence_spec_t spec = {.align = job_align(o, ALIGN_LEFT), .segment = opt_int(o, "segment"), .max_row = 256};
    status_t st = context_open_file(c);
    if (!st) st = job_tokenizer(c, &tokenizer);
    if (!st) st = job_sink(c, job_bos(o), &sink);
    if (!st) st = job_kept(o, model_file_config(c->file), &spec.layout, &spec.kept);
    if (!st) st = job_adapter(c, spec.layout, &spec.kept);
    if (!st) st = job_positions(o, spec.layout, &spec.align, &spec.kept);
    if (!st) st = job_window(model_file_config(c->file), spec.layout, sink.n + opt_int(o, "window"));
    if (!(st = comm_agree(c->comm, st))) st = context_load_model(c);
    if (opt_given(o, "batch")) spec.max_row = opt_int(o, "batch");
    spec.sink = sink.ids;
    spec.n_sink = sink.n;
    if (!st) st = windows_run(o, c, tokenizer, &spec);
    ids_free(&sink);
    return st;
}

const command_t cmd_eval_agree = {
    .spec =
        {.name = "eval agree",
         .summary = "agreement of a layout with full attention: KL, equal likeliest tokens, by place inside segments",
         .usage = "precis eval agree --model M --input F.jsonl --layout NAME [--window 1K] [--segment N] [options]",
         .text = "Runs every full window of every document under full attention and under --layout, and prints as CSV, over all rows "
                 "and by sixteenths of a segment: mean\n"
                 "KL(full || layout) in nats, the share of rows whose likeliest next token is the same, and the mean -log p of the "
                 "text under both. High KL in the first\n"
                 "sixteenths is the boundary failure: a segment's first rows know little of what was before. A window takes 4 x tokens x "
                 "vocabulary bytes of memory. Rows see their own segment's past as their layout has it, so blockselect is as pce here: "
                 "what a query "
                 "makes of kept rows is compared by\n"
                 "eval ppl --agree.",
         .examples = "  precis eval agree --model M.gguf --input dev.jsonl --layout pce --segment 256 --window 1K --limit 4\n"
                     "  precis eval agree --model M.gguf --input dev.jsonl --layout unigist --ratio 4 --local 128 --sinks 4\n",
         .keys =
             "model! input! layout segment ratio local gist-init adapter positions sinks sink bos align window=1K limit rope-length dtype "
             "backend share-gpu threads "
             "batch quiet verbose config print-config",
         .min_args = 0,
         .max_args = 0},
    .ranks = true,
    .run = run_eval_agree};
