#include "encode/round.h"

#include <string.h>

#include "base/log.h"
#include "base/mem.h"

/* 2: a blank line ends with this token, 1: a line does, 0: neither. `newline_before`: the token before ended with a line end. */
static int line_end(const tokenizer_t *t, int32_t id, bool newline_before) {
    size_t n;
    const char *s = tokenizer_piece(t, id, &n);
    if (n == 0 || s[n - 1] != '\n') return 0;
    return (n > 1 ? s[n - 2] == '\n' : newline_before) ? 2 : 1;
}

int64_t segment_cut(const tokenizer_t *t, split_t split, int64_t segment, const int32_t *tokens, int64_t n) {
    if (n <= segment) return n;
    if (split == SPLIT_TOKENS) return segment;
    int64_t line = 0, blank = 0;
    bool newline = false;
    for (int64_t i = 0; i < segment; i++) {
        int end = line_end(t, tokens[i], newline);
        newline = end > 0;
        if (i + 1 <= segment / 2) continue;
        if (end) line = i + 1;
        if (end == 2) blank = i + 1;
    }
    if (split == SPLIT_PARAGRAPHS && blank) return blank;
    return line ? line : segment;
}

static status_t item_add(round_t *r, round_item_t item) {
    status_t st = mem_room(&r->items, r->n_item, &r->cap_item, sizeof *r->items, "segments of a round");
    if (st) return st;
    r->items[r->n_item++] = item;
    return ST_OK;
}

static status_t doc_add(round_t *r, const document_t *doc, int64_t n_token, int64_t n_segment) {
    status_t st = mem_room(&r->docs, r->n_doc, &r->cap_doc, sizeof *r->docs, "documents of a round");
    if (st) return st;
    store_document_t *d = &r->docs[r->n_doc];
    *d = (store_document_t){.id = mem_strdup(doc->id), .source = mem_strdup(doc->source), .n_token = n_token, .n_segment = n_segment};
    d->text_hash = hash_bytes(doc->text, doc->bytes);
    r->n_doc++;
    return d->id && d->source ? ST_OK : status_fail(ST_FAIL, "out of memory for document names");
}

/* Tokens begin .. end of the round are one document: cuts it. */
static status_t document_cut(const round_spec_t *spec, round_t *r, int64_t begin, int64_t *n_segment) {
    hash_t previous;
    int64_t at = begin, end = r->tokens.n;
    for (*n_segment = 0; at < end; ++*n_segment) {
        const int32_t *tokens = r->tokens.ids + at;
        int64_t n = segment_cut(spec->tokenizer, spec->split, spec->segment, tokens, end - at);
        round_item_t item = {.begin = at, .n = n, .before = at - begin, .todo = 1};
        item.slice = spec->chained ? (int32_t)*n_segment : 0;
        item.address = store_address(spec->profile, tokens, n, item.slice ? &previous : NULL);
        previous = item.address;
        status_t st = item_add(r, item);
        if (st) return st;
        at += n;
    }
    return ST_OK;
}

static status_t document_read(const round_spec_t *spec, const document_t *doc, round_t *r) {
    int64_t begin = r->tokens.n, n_segment;
    status_t st = tokenizer_encode(spec->tokenizer, doc->text, doc->bytes, spec->parse_special, &r->tokens);
    if (st) return status_prefix(st, "%s: ", doc->id);
    if ((st = ids_check(&r->tokens, begin, spec->max_id, doc->id))) return st;
    if (r->tokens.n == begin) log_warn("%s: no text; recorded without segments", doc->id);
    if ((st = document_cut(spec, r, begin, &n_segment))) return st;
    return doc_add(r, doc, r->tokens.n - begin, n_segment);
}

status_t round_read(const round_spec_t *spec, corpus_t *corpus, round_t *r) {
    round_clear(r);
    while (r->tokens.n < spec->budget && !r->last) {
        document_t doc;
        bool got;
        status_t st = corpus_next(corpus, &doc, &got);
        if (!st && got) st = document_read(spec, &doc, r);
        if (st) return st;
        r->last = !got;
    }
    mem_free(r->addresses);
    status_t st = mem_alloc(&r->addresses, (size_t)r->n_item, sizeof *r->addresses, "addresses of a round");
    if (st) return st;
    for (int64_t i = 0; i < r->n_item; i++) r->addresses[i] = r->items[i].address;
    for (int64_t d = 0, at = 0; d < r->n_doc; at += r->docs[d++].n_segment) r->docs[d].segments = r->addresses + at;
    return ST_OK;
}

status_t round_share(comm_t *comm, round_t *r) {
    if (comm->size == 1) return ST_OK;
    int64_t head[3] = {r->n_item, r->tokens.n, r->last};
    status_t st = comm->ops->bcast(comm, 0, head, sizeof head);
    if (st) return st;
    if (comm->rank) {
        round_clear(r);
        if (r->cap_item < head[0]) {
            if ((st = mem_grow(&r->items, (size_t)head[0], sizeof *r->items, "segments of a round"))) return st;
            r->cap_item = head[0];
        }
        if (r->tokens.cap < head[1]) {
            if ((st = mem_grow(&r->tokens.ids, (size_t)head[1], sizeof(int32_t), "tokens of a round"))) return st;
            r->tokens.cap = head[1];
        }
        r->n_item = head[0];
        r->tokens.n = head[1];
        r->last = head[2] != 0;
    }
    if (r->n_item) st = comm->ops->bcast(comm, 0, r->items, r->n_item * (int64_t)sizeof *r->items);
    if (!st && r->tokens.n) st = comm->ops->bcast(comm, 0, r->tokens.ids, r->tokens.n * (int64_t)sizeof(int32_t));
    return st;
}

void round_clear(round_t *r) {
    for (int64_t i = 0; i < r->n_doc; i++) {
        mem_free(r->docs[i].id);
        mem_free(r->docs[i].source);
    }
    r->n_item = r->n_doc = r->tokens.n = 0;
    r->last = false;
}

void round_free(round_t *r) {
    round_clear(r);
    mem_free(r->items);
    mem_free(r->docs);
    mem_free(r->addresses);
    ids_free(&r->tokens);
    *r = (round_t){0};
}
