/* Answers of a query as they are printed: text or JSON lines, in the order of the prompts, with the segments that carried their attention.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/query_job.h"

enum { SHOWN = 3, QUOTE_BYTES = 240 };

static int by_mass(const void *a, const void *b, void *mass) {
    double x = ((double *)mass)[*(const int64_t *)a], y = ((double *)mass)[*(const int64_t *)b];
    if (x != y) return x > y ? -1 : 1;
    return *(const int64_t *)a < *(const int64_t *)b ? -1 : 1;
}

static status_t quote_write(query_job_t *j, json_out_t *out, int64_t i) {
    const int32_t *tokens;
    const void *k, *v;
    char *text;
    size_t bytes;
    status_t st = store_map(j->store, j->sources.segments[i], &tokens, &k, &v);
    if (!st) st = tokenizer_decode(j->tokenizer, tokens, j->sources.segments[i]->n_token, true, &text, &bytes);
    if (st) return st;
    size_t n = bytes < QUOTE_BYTES ? bytes : QUOTE_BYTES;
    while (n && n < bytes && ((unsigned char)text[n] & 0xc0) == 0x80) n--; /* not in the middle of a character */
    if (out)
        json_strn(out, "text", text, n);
    else {
        for (size_t b = 0; b < n; b++) putchar(text[b] == '\n' ? ' ' : text[b]);
        puts(n < bytes ? " ..." : "");
    }
    mem_free(text);
    return ST_OK;
}

/* The segments that carried most of the attention mass; all of them with --stats. */
static status_t evidence_write(query_job_t *j, json_out_t *out, const double *mass) {
    int64_t n = j->sources.n, *order = NULL, shown = opt_flag(j->o, "stats") ? n : i64_min(SHOWN, n);
    status_t st = mem_alloc(&order, (size_t)n, sizeof *order, "evidence");
    if (st) return st;
    for (int64_t i = 0; i < n; i++) order[i] = i;
    qsort_r(order, (size_t)n, sizeof *order, by_mass, (void *)(uintptr_t)mass);
    if (out) json_open(out, "evidence", '[');
    for (int64_t r = 0; r < shown && !st; r++) {
        int64_t i = order[r];
        const store_document_t *d = store_document(j->store, j->sources.doc[i]);
        if (out) {
            json_open(out, NULL, '{');
            json_str(out, "doc", d->id);
            json_int(out, "segment", j->sources.ordinal[i]);
            json_num(out, "mass", mass[i]);
            if (r < SHOWN) st = quote_write(j, out, i);
            json_close(out);
        } else {
            printf("  [%5.1f %%] %s, segment %d: ", 100 * mass[i], d->id, j->sources.ordinal[i]);
            st = quote_write(j, NULL, i);
        }
    }
    if (out) json_close(out);
    mem_free(order);
    return st;
}

static void piece_print(const char *text, size_t n) {
    if (!n) return;
    fwrite(text, 1, n, stdout);
    fflush(stdout);
}

status_t query_token(void *self, int64_t i, int32_t id) {
    query_job_t *j = self;
    const char *text;
    size_t n;
    (void)i; /* there is one */
    status_t st = tokenizer_stream_put(&j->stream, id, &text, &n);
    if (!st) piece_print(text, n);
    return st;
}

/* The answer as text. A streamed one has been printed but for what was held back. */
static status_t text_write(query_job_t *j, int64_t i, const char *text) {
    size_t n;
    if (j->n > 1) printf("%s%lld> ", i ? "\n" : "", (long long)i);
    if (!j->streams) {
        printf("%s\n", text);
        return ST_OK;
    }
    status_t st = tokenizer_stream_end(&j->stream, &text, &n);
    if (!st) piece_print(text, n);
    puts("");
    return st;
}

static status_t answer_write(query_job_t *j, int64_t i) {
    const generation_t *g = &j->gen[i];
    char *text;
    size_t bytes;
    status_t st = tokenizer_decode(j->tokenizer, g->ids.ids, g->ids.n, false, &text, &bytes);
    if (st) return st;
    double rate = g->ids.n > 1 ? (double)(g->ids.n - 1) / (g->total_s - g->first_token_s) : 0;
    const double *mass = g->mass;
    if (!j->json) {
        st = text_write(j, i, text);
        if (mass && !st) st = evidence_write(j, NULL, mass);
        if (opt_flag(j->o, "stats"))
            printf("  entropy %.3f nats; first token %.3f s, %lld tokens in %.3f s, %.1f tokens/s\n", g->entropy, g->first_token_s,
                   (long long)g->ids.n, g->total_s, rate);
        mem_free(text);
        return st;
    }
    json_out_t out;
    json_begin(&out, stdout);
    json_open(&out, NULL, '{');
    if (j->ids[i])
        json_raw(&out, "id", j->ids[i]);
    else
        json_int(&out, "id", i);
    json_strn(&out, "text", text, bytes);
    json_open(&out, "tokens", '[');
    for (int64_t t = 0; t < g->ids.n; t++) json_int(&out, NULL, g->ids.ids[t]);
    json_close(&out);
    json_str(&out, "finish_reason", g->ended ? "stop" : "length");
    json_int(&out, "prompt_tokens", g->n_prompt);
    json_num(&out, "entropy", g->entropy);
    if (query_edits(j)) json_num(&out, "edit_share", g->edits);
    if (mass) st = evidence_write(j, &out, mass);
    json_open(&out, "timings", '{');
    json_num(&out, "first_token_s", g->first_token_s);
    json_num(&out, "total_s", g->total_s);
    json_num(&out, "tokens_per_s", rate);
    json_close(&out);
    json_end(&out);
    mem_free(text);
    return st;
}

/* A generation has ended: its evidence comes to rank 0, and answers whose turn it is are printed. */
status_t query_done(void *self, generation_t *g) {
    query_job_t *j = self;
    comm_t *comm = j->c->comm;
    if (g->mass && comm->size > 1) {
        int64_t *bytes = NULL;
        double *all = NULL;
        status_t st = mem_alloc(&bytes, (size_t)comm->size, sizeof *bytes, "evidence");
        if (!st) st = mem_alloc(&all, (size_t)j->kv.n_segment, sizeof *all, "evidence");
        for (int r = 0; !st && r < comm->size; r++) {
            int64_t from = i64_min(j->kv.first_group[r] * j->kv.group, j->kv.n_segment),
                    to = i64_min(j->kv.first_group[r + 1] * j->kv.group, j->kv.n_segment);
            bytes[r] = (to - from) * (int64_t)sizeof(double);
        }
        if (!st) st = comm->ops->gather(comm, 0, g->mass, all, bytes);
        mem_free(bytes);
        mem_free(g->mass);
        g->mass = all;
        if (st) return st;
    }
    j->done[g - j->gen] = true;
    return query_print(j);
}

status_t query_print(query_job_t *j) {
    for (; j->next < j->n && j->done[j->next]; j->next++) {
        status_t st = j->c->comm->rank == 0 ? answer_write(j, j->next) : ST_OK;
        if (st) return st;
        ids_free(&j->gen[j->next].ids);
        mem_free(j->gen[j->next].mass);
        j->gen[j->next].mass = NULL;
    }
    return ST_OK;
}
