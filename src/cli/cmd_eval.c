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

static double mean_of(double sum, int64_t n) { return n ? sum / (double)n : 0; }

static void row_csv(const ppl_spec_t *s, const ppl_row_t *r) {
    printf("%lld,%s,%lld,%lld,%.3f,%.4f,%.4f,%.2f,%s,%lld,%lld,%lld,%lld", (long long)r->pieces, s->n_sink ? "yes" : "no",
           (long long)s->attend.select, (long long)r->n_token, r->nll, r->ppl, r->entropy, r->seconds, job_align_name(s->align),
           (long long)s->window, (long long)r->n_window, (long long)r->kv_bytes, (long long)r->move_bytes);
    if (s->agree) printf(",%.6f,%.4f", mean_of(r->agree.kl, r->n_token), mean_of(r->agree.same, r->n_token));
    puts("");
}

static void row_text(const ppl_spec_t *s, const ppl_row_t *r) {
    printf("%6lld  %4lld  %6lld  %8lld  %9.4f  %8.4f  %8.2f", (long long)r->pieces, (long long)s->n_sink, (long long)s->attend.select,
           (long long)r->n_token, r->ppl, r->entropy, r->seconds);
    if (s->agree) printf("  %8.4f  %5.3f", mean_of(r->agree.kl, r->n_token), mean_of(r->agree.same, r->n_token));
    puts("");
}

/* Losses by place, and entropies by layer and head: tables of their own behind a row. */
static void tables_text(const ppl_spec_t *s, const model_config_t *m, const ppl_row_t *r) {
    if (s->by_position) puts("# by position: place,pieces,context rows,context nll,scored rows,scored nll");
    for (int b = 0; b < PPL_BINS && s->by_position; b++)
        printf("%d/%d,%lld,%lld,%.4f,%lld,%.4f\n", b, PPL_BINS, (long long)r->pieces, (long long)r->context[b].n,
               mean_of(r->context[b].nll, r->context[b].n), (long long)r->scored[b].n, mean_of(r->scored[b].nll, r->scored[b].n));
    if (s->by_head) puts("# entropy: layer,pieces,its mean,then head by head");
    for (int64_t l = 0; l < m->n_layer && s->by_head; l++) {
        double sum = 0;
        for (int64_t h = 0; h < m->n_head; h++) sum += r->by_head[l * m->n_head + h];
        printf("%lld,%lld,%.4f", (long long)l, (long long)r->pieces, sum / (double)m->n_head);
        for (int64_t h = 0; h < m->n_head; h++) printf(",%.4f", r->by_head[l * m->n_head + h]);
        puts("");
    }
}

static void tables_json(json_out_t *j, const ppl_spec_t *s, const model_config_t *m, const ppl_row_t *r) {
    if (s->by_position) {
        json_open(j, "nll_by_place_in_piece", '[');
        for (int b = 0; b < PPL_BINS; b++) json_num(j, NULL, mean_of(r->context[b].nll, r->context[b].n));
        json_close(j);
        json_open(j, "nll_by_place_in_scored", '[');
        for (int b = 0; b < PPL_BINS; b++) json_num(j, NULL, mean_of(r->scored[b].nll, r->scored[b].n));
        json_close(j);
    }
    if (!s->by_head) return;
    json_open(j, "entropy_by_layer_and_head", '[');
    for (int64_t l = 0; l < m->n_layer; l++) {
        json_open(j, NULL, '[');
        for (int64_t h = 0; h < m->n_head; h++) json_num(j, NULL, r->by_head[l * m->n_head + h]);
        json_close(j);
    }
    json_close(j);
}

static void row_json(const ppl_spec_t *s, const model_config_t *m, const ppl_row_t *r) {
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
    json_int(&j, "kv_bytes", r->kv_bytes);
    json_int(&j, "move_bytes", r->move_bytes);
    if (s->agree) json_num(&j, "kl", mean_of(r->agree.kl, r->n_token));
    if (s->agree) json_num(&j, "top1", mean_of(r->agree.same, r->n_token));
    if (s->agree) json_num(&j, "nll_full", r->agree.nll_full);
    tables_json(&j, s, m, r);
    json_num(&j, "seconds", r->seconds);
    json_end(&j);
}

typedef enum { PRINT_TEXT, PRINT_CSV, PRINT_JSON } print_t;

static void head_print(const options_t *o, const context_t *c, const ppl_spec_t *spec, int64_t n_window, print_t how) {
    if (how == PRINT_CSV) {
        printf("# precis eval ppl: %s, %s, dtype %s, window %lld, score %lld, %lld windows, %d ranks\n", model_file_path(c->file),
               opt_text(o, "input"), dtype_name(c->dtype), (long long)spec->window, (long long)spec->score, (long long)n_window,
               c->comm->size);
        printf("pieces,sink,select,tokens,nll,ppl,entropy,seconds,align,window,windows,kv_bytes,move_bytes%s\n",
               spec->agree ? ",kl,top1" : "");
    } else if (how == PRINT_TEXT)
        printf("pieces  sink  select    tokens        ppl   entropy   seconds%s\n", spec->agree ? "        kl   top1" : "");
}

static status_t rows_run(const options_t *o, context_t *c, const ppl_spec_t *spec, const ids_t *tokens, int64_t n_window) {
    const int64_t *pieces;
    const model_config_t *m = model_config(c->model);
    int n = opt_list(o, "pieces", &pieces);
    for (int i = 0; i < n; i++)
        if (pieces[i] > spec->window - spec->score - 1)
            return status_fail(ST_USAGE,
                               "--pieces %lld: the context of a window is %lld tokens (--window less --score), no more pieces than that; "
                               "use a larger --window",
                               (long long)pieces[i], (long long)(spec->window - spec->score - 1));
    const char *format = opt_text(o, "format");
    print_t how = !format ? PRINT_TEXT : !strcmp(format, "csv") ? PRINT_CSV : !strncmp(format, "json", 4) ? PRINT_JSON : PRINT_TEXT;
    bool first = c->comm->rank == 0;
    if (first) head_print(o, c, spec, n_window, how);
    for (int i = 0; i < n; i++) {
        ppl_row_t row;
        ppl_spec_t s = *spec;
        if (s.attend.select >= pieces[i]) s.attend.select = 0; /* keeping all pieces is no selection; the row says what was asked */
        status_t st = ppl_run(c->model, c->comm, &s, tokens->ids, n_window, pieces[i], &row);
        s.attend.select = spec->attend.select;
        if (!st && first && how == PRINT_CSV) row_csv(&s, &row);
        if (!st && first && how == PRINT_JSON) row_json(&s, m, &row);
        if (!st && first && how == PRINT_TEXT) row_text(&s, &row);
        if (!st && first && how != PRINT_JSON) tables_text(&s, m, &row);
        mem_free(row.by_head);
        if (st) return st;
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
    if (!st) st = job_sink(c, job_bos(o), &sink);
    if (!st) st = tokenizer_encode(tokenizer, score_repeat_text, strlen(score_repeat_text), false, &repeat);
    if (!st) st = job_kept(o, model_file_config(c->file), &layout, &kept);
    if (!st) st = job_adapter(c, layout, &kept);
    if (!st) st = job_positions(o, layout, &align, &kept);
    if (!st) st = job_attend(o, layout, AGG_NONE, &attend);
    attend.by_rule = opt_flag(o, "mask");
    if (!st && attend.by_rule && layout_info(layout)->streams)
        st = status_fail(ST_USAGE, "--mask: --layout %s has no such rule here; leave it out", layout_info(layout)->name);
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
                       .agree = opt_flag(o, "agree"),
                       .by_position = opt_flag(o, "by-position"),
                       .by_head = !strcmp(opt_text(o, "entropy"), "per-layer"),
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
                 "beginning-of-sequence token is used unless --bos is given. kv_bytes: K/V of a window's context that a query sees; "
                 "move_bytes: K/V of other pieces that\n"
                 "pieces see while they are encoded. --agree takes 4 x score x vocabulary bytes of memory.",
         .examples =
             "  precis eval ppl --model M.gguf --input dev.jsonl --window 4K --pieces 1,2,4,8,16 --format csv\n"
             "  precis eval ppl --model M.gguf --input dev.jsonl --window 4K --pieces 8 --sink 'Here are parts of a text:' --select 2\n"
             "  precis eval ppl --model M.gguf --input dev.jsonl --window 4K --pieces 6 --layout blockselect --score reconstruct --ratio 4 "
             "--agree\n",
         .keys =
             "model! input! window score pieces layout ratio local gist-init adapter keep keep-by budget positions sinks sink bos select "
             "aggregate select-by ape-temperature ape-scale align reserve limit agree by-position entropy mask rope-length dtype "
             "backend share-gpu threads batch "
             "format quiet verbose progress config print-config",
         .min_args = 0,
         .max_args = 0,
         .csv = true},
    .ranks = true,
    .run = run_eval_ppl};
