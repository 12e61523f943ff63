/* precis eval ppl: perplexity and attention entropy, a row for each number of pieces. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/commands.h"
#include "cli/job_options.h"
#include "eval/ppl.h"
#include "io/corpus.h"
#include "io/json.h"

/* Every full window of every document. All ranks read the same. */
static status_t windows_read(const options_t *o, const tokenizer_t *t, ids_t *out, int64_t *n_window) {
    int64_t window = opt_int(o, "window"), limit = opt_given(o, "limit") ? opt_int(o, "limit") : INT64_MAX, n_doc = 0;
    const char *path = opt_text(o, "input");
    corpus_t *in = NULL;
    ids_t doc_ids = {0};
    *n_window = 0;
    status_t st = corpus_open(&path, 1, "text", &in);
    for (bool got = true; !st && got && *n_window < limit;) {
        document_t doc;
        if ((st = corpus_next(in, &doc, &got)) || !got) break;
        doc_ids.n = 0;
        st = tokenizer_encode(t, doc.text, doc.bytes, false, &doc_ids);
        for (int64_t at = 0; !st && at + window <= doc_ids.n && *n_window < limit; at += window, ++*n_window)
            for (int64_t i = 0; !st && i < window; i++) st = ids_push(out, doc_ids.ids[at + i]);
        n_doc++;
    }
    corpus_close(in);
    ids_free(&doc_ids);
    if (!st && !*n_window)
        st = status_fail(ST_INPUT, "%s: none of its %lld documents has %lld tokens; use a smaller --window or longer texts", path,
                         (long long)n_doc, (long long)window);
    return st;
}

static void row_csv(const ppl_spec_t *s, const ppl_row_t *r, int64_t sink_tokens) {
    printf("%lld,%s,%lld,%lld,%.3f,%.4f,%.4f,%.2f,%s,%lld,%lld\n", (long long)r->pieces, sink_tokens ? "yes" : "no",
           (long long)s->attend.select, (long long)r->n_token, r->nll, r->ppl, r->entropy, r->seconds, job_align_name(s->align),
           (long long)s->window, (long long)r->n_window);
}

static void row_text(const ppl_spec_t *s, const ppl_row_t *r) {
    printf("%6lld  %4lld  %6lld  %8lld  %9.4f  %8.4f  %8.2f\n", (long long)r->pieces, (long long)s->n_sink, (long long)s->attend.select,
           (long long)r->n_token, r->ppl, r->entropy, r->seconds);
}

static void row_json(const ppl_spec_t *s, const ppl_row_t *r) {
    json_out_t j;
    json_begin(&j, stdout);
    json_open(&j, NULL, '{');
    json_int(&j, "pieces", r->pieces);
    json_int(&j, "sink", s->n_sink);
    json_int(&j, "select", s->attend.select);
    json_int(&j, "window", s->window);
    json_int(&j, "windows", r->n_window);
    json_int(&j, "tokens", r->n_token);
    json_num(&j, "nll", r->nll);
    json_num(&j, "ppl", r->ppl);
    json_num(&j, "entropy", r->entropy);
    json_str(&j, "align", job_align_name(s->align));
    json_num(&j, "seconds", r->seconds);
    json_end(&j);
}

static status_t rows_run(const options_t *o, context_t *c, const ppl_spec_t *spec, const ids_t *tokens, int64_t n_window) {
    const int64_t *pieces;
    int n = opt_list(o, "pieces", &pieces);
    const char *format = opt_text(o, "format");
    bool csv = format && !strcmp(format, "csv"), json = format && !strncmp(format, "json", 4), first = c->comm->rank == 0;
    if (first && csv) {
        printf("# precis eval ppl: %s, %s, dtype %s, window %lld, score %lld, %lld windows, %d ranks\n", model_file_path(c->file),
               opt_text(o, "input"), dtype_name(c->dtype), (long long)spec->window, (long long)spec->score, (long long)n_window,
               c->comm->size);
        puts("pieces,sink,select,tokens,nll,ppl,entropy,seconds,align,window,windows");
    } else if (first && !json)
        puts("pieces  sink  select    tokens        ppl   entropy   seconds");
    for (int i = 0; i < n; i++) {
        ppl_row_t row;
        ppl_spec_t s = *spec;
        if (s.attend.select >= pieces[i]) s.attend.select = 0; /* keeping all pieces is no selection; the row says what was asked */
        status_t st = ppl_run(c->model, c->comm, &s, tokens->ids, n_window, pieces[i], &row);
        if (st) return st;
        s.attend.select = spec->attend.select;
        if (!first) continue;
        if (csv)
            row_csv(&s, &row, spec->n_sink);
        else if (json)
            row_json(&s, &row);
        else
            row_text(&s, &row);
        fflush(stdout);
    }
    return ST_OK;
}

static status_t run_eval_ppl(const options_t *o, context_t *c) {
    const tokenizer_t *tokenizer;
    ids_t sink = {0}, tokens = {0}, repeat = {0};
    layout_method_t layout = LAYOUT_PCE;
    kept_t kept;
    align_t align = job_align(o, ALIGN_EVEN);
    attend_spec_t attend = {0};
    int64_t n_window = 0, window = opt_int(o, "window"), score = opt_int(o, "score");
    if (score + 2 > window)
        return status_fail(ST_USAGE, "--score %lld: a window of %lld tokens leaves no context; --score must be at most window - 2",
                           (long long)score, (long long)window);
    status_t st = context_open_file(c);
    if (!st) st = job_tokenizer(c, &tokenizer);
    if (!st) st = job_sink(o, tokenizer, job_bos(o), &sink);
    if (!st) st = tokenizer_encode(tokenizer, score_repeat_text, strlen(score_repeat_text), false, &repeat);
    if (!st) st = job_kept(o, model_file_config(c->file), &layout, &kept);
    if (!st) st = job_adapter(c, layout, &kept);
    if (!st) st = job_positions(o, layout, &align, &kept);
    if (!st) st = job_attend(o, layout, AGG_NONE, &attend);
    attend.by_rule = opt_flag(o, "mask");
    if (!st) st = job_window(model_file_config(c->file), layout, sink.n + window);
    if (!st) st = windows_read(o, tokenizer, &tokens, &n_window);
    if (!(st = comm_agree(c->comm, st))) st = context_load_model(c);
    if (st) goto out;
    ppl_spec_t spec = {.layout = layout,
                       .kept = kept,
                       .repeat = repeat.ids,
                       .n_repeat = repeat.n,
                       .window = window,
                       .score = score,
                       .sink = sink.ids,
                       .n_sink = sink.n,
                       .align = align,
                       .reserve = job_reserve(o),
                       .attend = attend,
                       .max_row = i64_max(opt_given(o, "batch") ? opt_int(o, "batch") : 512, kept.gist.ratio + 1),
                       .progress = context_progress(c)};
    st = rows_run(o, c, &spec, &tokens, n_window);
out:
    ids_free(&sink);
    ids_free(&tokens);
    ids_free(&repeat);
    return st;
}

const command_t cmd_eval_ppl = {
    .spec =
        {.name = "eval ppl",
         .summary = "perplexity and attention entropy of full attention and of parallel context encoding",
         .usage = "precis eval ppl --model M --input F.jsonl [--window 8K] [--score 1K] [--pieces 1,2,4,8] [options]",
         .text = "Of every full window of every document the last --score tokens are scored; what stands before them is cut into P pieces "
                 "that are encoded apart. P = 1 without\n"
                 "--sink is full attention. --sink puts a text in front that all pieces see, --select K keeps the K best pieces for each "
                 "head and token (SEL). No\n"
                 "beginning-of-sequence token is used unless --bos is given.",
         .examples =
             "  precis eval ppl --model M.gguf --input dev.jsonl --window 4K --pieces 1,2,4,8,16 --format csv\n"
             "  precis eval ppl --model M.gguf --input dev.jsonl --window 4K --pieces 8 --sink 'Here are parts of a text:' --select 2\n",
         .keys =
             "model! input! window score pieces layout ratio local gist-init adapter keep keep-by budget positions sinks sink bos select "
             "aggregate select-by ape-temperature ape-scale align reserve limit mask rope-length dtype backend threads batch "
             "format quiet verbose progress config print-config",
         .min_args = 0,
         .max_args = 0},
    .ranks = true,
    .run = run_eval_ppl};
