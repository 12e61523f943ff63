/* One buffer holds the part of the file that is being looked at: a line of a .jsonl, or the whole of a text.
 *
 *     walk (which file) --> stream (unpacked bytes) --> buf[start .. end) --> a line or all of it --> document
 *
 * A line is ended in place with a NUL and parsed there; the document points into the JSON tree, which lives until the next call.
 */
#include "io/corpus.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/json_span.h"
#include "io/stream.h"
#include "io/utf8.h"
#include "io/walk.h"

enum { BUF_BYTES = 1 << 16, SNIFF_BYTES = 8192, EXACT_DIGITS = 15 };
static const size_t DOCUMENT_BYTES_MAX = (size_t)1 << 30;

struct corpus {
    walk_t *walk; /* NULL: from memory */
    char *field;  /* NULL: none is required */
    size_t limit;
    stream_t *stream; /* NULL between files */
    atomic_bool given_up;
    char *source;
    bool lines, warned, text_given; /* of this file: .jsonl; told of bad UTF-8; its one text was handed out */
    int64_t line;
    char *buf;
    size_t cap, start, end;
    bool ended;      /* nothing more in the stream */
    cJSON *record;   /* of the document last handed out, as are these */
    char *repaired;  /* line or text with its UTF-8 mended */
    char *unescaped; /* text with NUL characters in it */
    char *id;
};

/* ---- opening ---- */

static status_t create(const char *field, corpus_t **out) {
    corpus_t *c;
    *out = NULL;
    status_t st = mem_zalloc(&c, 1, sizeof *c, "a corpus reader");
    if (st) return st;
    c->limit = DOCUMENT_BYTES_MAX;
    if (field && !(c->field = mem_strdup(field))) {
        corpus_close(c);
        return ST_FAIL;
    }
    *out = c;
    return ST_OK;
}

status_t corpus_open(const char *const *paths, int n_path, const char *field, corpus_t **out) {
    status_t st = create(field, out);
    if (st) return st;
    if ((st = walk_open(paths, n_path, &(*out)->walk))) {
        corpus_close(*out);
        *out = NULL;
    }
    return st;
}

void corpus_set_limit(corpus_t *c, size_t document_bytes) { c->limit = document_bytes; }

void corpus_give_up(corpus_t *c) { atomic_store(&c->given_up, true); }

static void drop_document(corpus_t *c) {
    cJSON_Delete(c->record);
    mem_free(c->repaired);
    mem_free(c->unescaped);
    mem_free(c->id);
    c->record = NULL;
    c->repaired = c->unescaped = c->id = NULL;
}

static void close_file(corpus_t *c) {
    stream_close(c->stream);
    c->stream = NULL;
    mem_free(c->source);
    c->source = NULL;
}

void corpus_close(corpus_t *c) {
    if (!c) return;
    drop_document(c);
    close_file(c);
    walk_close(c->walk);
    mem_free(c->field);
    mem_free(c->buf);
    mem_free(c);
}

/* ---- the buffer ---- */

/* Reads once more behind buf[end); what was used up before start is dropped first. One byte stays free for a NUL. */
static status_t fill(corpus_t *c) {
    status_t st;
    size_t got;
    if (c->start && c->end + 1 >= c->cap) {
        memmove(c->buf, c->buf + c->start, c->end - c->start);
        c->end -= c->start;
        c->start = 0;
    }
    if (c->end + 1 >= c->cap) {
        size_t cap = c->cap ? c->cap * 2 : BUF_BYTES;
        if ((st = mem_grow(&c->buf, cap, 1, "a document"))) return st;
        c->cap = cap;
    }
    if ((st = stream_read(c->stream, c->buf + c->end, c->cap - c->end - 1, &got))) return st;
    c->end += got;
    c->ended = got == 0;
    return ST_OK;
}

static status_t fail_long(const corpus_t *c, size_t limit) {
    if (c->lines)
        return status_fail(ST_INPUT, "%s line %" PRId64 ": longer than %zu bytes; cut the document into several", c->source, c->line,
                           limit);
    return status_fail(ST_INPUT, "%s: longer than %zu bytes; cut the text into several files", c->source, limit);
}

/* ---- starting a file ---- */

static bool is_jsonl(const char *name) {
    size_t n = strlen(name);
    if (n > 4 && !strcmp(name + n - 4, ".zst")) n -= 4;
    if (n > 3 && !strcmp(name + n - 3, ".gz")) n -= 3;
    return (n > 6 && !strncmp(name + n - 6, ".jsonl", 6)) || (n > 7 && !strncmp(name + n - 7, ".ndjson", 7));
}

/* Looks at the first bytes. *skip: a file met in a folder that is no text. */
static status_t begin_file(corpus_t *c, bool in_folder, bool *skip) {
    status_t st;
    c->start = c->end = 0;
    c->line = 0;
    c->ended = c->warned = c->text_given = *skip = false;
    while (!c->ended && c->end < SNIFF_BYTES)
        if ((st = fill(c))) return st;
    if (!in_folder && c->end >= 2 && (!memcmp(c->buf, "\xFF\xFE", 2) || !memcmp(c->buf, "\xFE\xFF", 2)))
        return status_fail(ST_INPUT, "%s: byte 0: UTF-16, but texts are UTF-8; convert it: iconv -f UTF-16 -t UTF-8", c->source);
    if (c->end >= 3 && !memcmp(c->buf, "\xEF\xBB\xBF", 3)) c->start = 3;
    c->lines = is_jsonl(c->source) || (!strcmp(c->source, "-") && c->end > c->start && c->buf[c->start] == '{');
    if (!c->lines && memchr(c->buf, 0, c->end < SNIFF_BYTES ? c->end : SNIFF_BYTES)) {
        log_warn("%s: has NUL bytes in it, so it is no text; %s", c->source,
                 in_folder ? "skipped" : "taken as it is, since it was named (UTF-16 needs iconv -f UTF-16 -t UTF-8)");
        *skip = in_folder;
    }
    return ST_OK;
}

static status_t next_file(corpus_t *c, bool *got) {
    *got = false;
    while (c->walk) {
        const char *path;
        bool in_folder, skip;
        status_t st = walk_next(c->walk, &path, &in_folder);
        if (st || !path) return st;
        if (!(c->source = mem_strdup(path))) return ST_FAIL;
        if ((st = stream_open(path, &c->given_up, &c->stream)) || (st = begin_file(c, in_folder, &skip))) return st;
        *got = !skip;
        if (!skip) return ST_OK;
        close_file(c);
    }
    return ST_OK;
}

status_t corpus_open_memory(const void *data, size_t bytes, const char *name, const char *field, corpus_t **out) {
    bool skip;
    status_t st = create(field, out);
    if (st) return st;
    corpus_t *c = *out;
    if (!(c->source = mem_strdup(name))) st = ST_FAIL;
    if (!st) st = stream_open_memory(data, bytes, name, &c->stream);
    if (!st) st = begin_file(c, false, &skip);
    if (!st) return ST_OK;
    corpus_close(c);
    *out = NULL;
    return st;
}

/* ---- documents ---- */

static void warn_repaired(corpus_t *c, int64_t n_bad) {
    if (c->warned) return;
    c->warned = true;
    char place[40] = "";
    if (c->line) snprintf(place, sizeof place, " line %" PRId64, c->line);
    log_warn("%s%s: not UTF-8; %" PRId64 " bad place(s) became U+FFFD; later ones in this file are not reported", c->source, place, n_bad);
}

/* Makes *s valid UTF-8, in c->repaired when it was not. */
static status_t repair(corpus_t *c, char **s, size_t *n) {
    int64_t n_bad;
    if (utf8_valid_bytes(*s, *n) == *n) return ST_OK;
    status_t st = utf8_repair(*s, *n, &c->repaired, n, &n_bad);
    if (st) return st;
    *s = c->repaired;
    warn_repaired(c, n_bad);
    return ST_OK;
}

/* All that is left of the stream, NUL-terminated in the buffer. */
static status_t read_text(corpus_t *c, document_t *doc) {
    status_t st;
    while (!c->ended) {
        if (c->end - c->start > c->limit) return fail_long(c, c->limit);
        if ((st = fill(c))) return st;
    }
    char *text = c->buf + c->start;
    size_t n = c->end - c->start;
    if (n > c->limit) return fail_long(c, c->limit);
    text[n] = 0;
    if ((st = repair(c, &text, &n))) return st;
    *doc = (document_t){.id = c->source, .source = c->source, .text = text, .bytes = n};
    c->text_given = true;
    return ST_OK;
}

/* The next line that is not blank, without its end, NUL-terminated; *s NULL at the end. */
static status_t next_line(corpus_t *c, char **s, size_t *n) {
    size_t limit = c->limit > SIZE_MAX / 2 ? SIZE_MAX : 2 * c->limit, seen = 0;
    status_t st;
    *s = NULL;
    c->line++;
    for (;;) {
        char *line = c->buf + c->start, *nl = memchr(line + seen, '\n', c->end - c->start - seen);
        if (!nl && !c->ended) {
            seen = c->end - c->start;
            if (seen > limit) return fail_long(c, limit);
            if ((st = fill(c))) return st;
            continue;
        }
        *n = nl ? (size_t)(nl - line) : c->end - c->start;
        if (*n > limit) return fail_long(c, limit);
        c->start += *n + (nl != NULL);
        line[*n] = 0;
        if (strspn(line, " \t\r") < *n) {
            *s = line;
            return ST_OK;
        }
        if (!nl) return ST_OK;
        c->line++;
        seen = 0;
    }
}

static status_t fail_line(const corpus_t *c, const char *why) {
    return status_fail(ST_INPUT, "%s line %" PRId64 ": %s", c->source, c->line, why);
}

/* A number too long for a double keeps its digits: the tree's node becomes a raw one. */
static status_t keep_digits(cJSON *v, const char *digits, size_t n) {
    if (n <= EXACT_DIGITS) return ST_OK;
    char *copy = cJSON_malloc(n + 1);
    if (!copy) return status_fail(ST_FAIL, "out of memory: %zu bytes for a document's id; use a machine with more memory", n + 1);
    memcpy(copy, digits, n);
    copy[n] = 0;
    v->type = cJSON_Raw;
    v->valuestring = copy;
    return ST_OK;
}

static status_t make_id(corpus_t *c, const char *line, size_t n, document_t *doc) {
    cJSON *v = (cJSON *)(uintptr_t)json_get(c->record, "id");
    const char *digits;
    size_t digits_n, room;
    status_t st;
    if (v && cJSON_IsString(v)) {
        doc->id = v->valuestring;
        return ST_OK;
    }
    if (v && cJSON_IsNumber(v) && json_span(line, n, "id", &digits, &digits_n)) {
        if ((st = mem_alloc(&c->id, digits_n + 1, 1, "a document's id"))) return st;
        memcpy(c->id, digits, digits_n);
        c->id[digits_n] = 0;
        doc->id = c->id;
        return keep_digits(v, digits, digits_n);
    }
    if (v && !cJSON_IsNull(v)) return fail_line(c, "\"id\" is neither a string nor a number; make it one of them");
    room = strlen(c->source) + 24;
    if ((st = mem_alloc(&c->id, room, 1, "a document's id"))) return st;
    snprintf(c->id, room, "%s:%" PRId64, c->source, c->line);
    doc->id = c->id;
    return ST_OK;
}

/* The text of the wanted member. Where NUL characters are written in it the tree has only a part, so it is decoded again from the line. */
static status_t make_text(corpus_t *c, const char *line, size_t n, document_t *doc) {
    const char *key = c->field ? c->field : "text";
    const cJSON *v = json_get(c->record, key);
    const char *raw;
    size_t raw_n;
    status_t st;
    if (c->field) {
        bool list = !strcmp(c->field, "tokens");
        if (!v || !(list ? cJSON_IsArray(v) : cJSON_IsString(v)))
            return status_fail(ST_INPUT, "%s line %" PRId64 ": \"%s\" is %s; every record needs a \"%s\" that is %s", c->source, c->line,
                               key, v ? "of another type" : "missing", key, list ? "a list" : "a string");
    }
    if (!v || !cJSON_IsString(v)) {
        doc->text = "";
        return ST_OK;
    }
    doc->text = v->valuestring;
    doc->bytes = strlen(doc->text);
    if (memmem(line, n, "\\u0000", 6) && json_span(line, n, key, &raw, &raw_n) && raw_n >= 2) {
        if ((st = mem_alloc(&c->unescaped, raw_n, 1, "a document"))) return st;
        doc->bytes = json_unescape(raw + 1, raw_n - 2, c->unescaped);
        c->unescaped[doc->bytes] = 0;
        doc->text = c->unescaped;
    }
    return doc->bytes > c->limit ? fail_long(c, c->limit) : ST_OK;
}

static status_t read_record(corpus_t *c, document_t *doc, bool *got) {
    char *line;
    size_t n;
    status_t st = next_line(c, &line, &n);
    *got = !st && line;
    if (!*got) return st;
    if ((st = repair(c, &line, &n))) return st;
    if (memmem(line, n, "\\ud", 3) || memmem(line, n, "\\uD", 3)) {
        int64_t mended = json_mend(line, n);
        if (mended) warn_repaired(c, mended);
    }
    if ((st = json_parse(line, n, "", &c->record))) return status_prefix(st, "%s line %" PRId64, c->source, c->line);
    if (!cJSON_IsObject(c->record)) return fail_line(c, "is JSON, but no object {..}; write one object a line");
    *doc = (document_t){.source = c->source, .record = c->record, .line = c->line};
    if ((st = make_id(c, line, n, doc))) return st;
    return make_text(c, line, n, doc);
}

status_t corpus_next(corpus_t *c, document_t *doc, bool *got) {
    status_t st = ST_OK;
    drop_document(c);
    *got = false;
    for (;;) {
        if (c->stream && c->lines) {
            st = read_record(c, doc, got);
        } else if (c->stream && !c->text_given) {
            st = read_text(c, doc);
            *got = true;
        }
        if (st || *got) break;
        close_file(c);
        if ((st = next_file(c, got)) || !*got) break;
    }
    if (st) *got = false;
    return st;
}
