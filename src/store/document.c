#include "store/document.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"
#include "io/json_span.h"
#include "store/folder.h"

static const size_t DOCUMENTS_BYTES_MAX = (size_t)1 << 36;

/* ---- one record --------------------------------------------------------------------------------------------------- */

static void record_free(record_t *r) {
    mem_free(r->doc.id);
    mem_free(r->doc.source);
    mem_free((void *)r->doc.segments);
    r->doc = (store_document_t){0};
}

static status_t segments_get(const cJSON *list, record_t *r, bool *good) {
    hash_t *h;
    int64_t n = cJSON_IsArray(list) ? cJSON_GetArraySize(list) : -1;
    if (n < 0) return *good = false, ST_OK;
    status_t st = mem_alloc(&h, (size_t)n, sizeof *h, "a document's segments");
    if (st) return st;
    r->doc.segments = h;
    r->doc.n_segment = n;
    for (const cJSON *v = list->child; v; v = v->next) *good = *good && cJSON_IsString(v) && hash_parse(v->valuestring, h++);
    return ST_OK;
}

/* The id alone. Lines of this program begin with it, and their seal vouches for the rest. */
static status_t record_scan(const line_t *line, record_t *r, bool *good) {
    static const char begin[] = "{\"id\":\"";
    const char *id = line->text + sizeof begin - 1, *end = line->text + line->body, *quote = id;
    char *plain;
    if (line->body < sizeof begin || memcmp(line->text, begin, sizeof begin - 1)) return ST_OK;
    while (quote < end && *quote != '"') quote += *quote == '\\' ? 2 : 1;
    if (quote >= end) return ST_OK;
    status_t st = mem_alloc(&plain, (size_t)(quote - id) + 1, 1, "the id of a document");
    if (st) return st;
    r->id = hash_bytes(plain, json_unescape(id, (size_t)(quote - id), plain));
    mem_free(plain);
    *good = true;
    return ST_OK;
}

static status_t record_parse(const line_t *line, const char *name, record_t *r, bool *good) {
    cJSON *o;
    status_t st = json_parse(line->text, line->bytes, name, &o);
    if (st) return st == ST_INPUT ? ST_OK : st;
    const char *id = json_get_str(o, "id"), *source = json_get_str(o, "source"), *text = json_get_str(o, "text");
    *good =
        id && source && text && hash_parse(text, &r->doc.text_hash) && json_get_i64(o, "tokens", &r->doc.n_token) && r->doc.n_token >= 0;
    if (*good) {
        r->id = hash_bytes(id, strlen(id));
        r->doc.id = mem_strdup(id);
        r->doc.source = mem_strdup(source);
        st = r->doc.id && r->doc.source ? segments_get(json_get(o, "segments"), r, good) : ST_FAIL;
    }
    cJSON_Delete(o);
    if (st || !*good) record_free(r);
    return st;
}

static status_t record_write(const store_document_t *d, FILE *to) {
    char *text = NULL, hex[HASH_HEX];
    size_t bytes = 0;
    json_out_t j;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return status_fail(ST_FAIL, "out of memory for the record of document %s; use a machine with more memory", d->id);
    json_begin(&j, f);
    json_open(&j, NULL, '{');
    json_str(&j, "id", d->id);
    json_str(&j, "source", d->source ? d->source : "");
    hash_hex(d->text_hash, hex);
    json_str(&j, "text", hex);
    json_int(&j, "tokens", d->n_token);
    json_open(&j, "segments", '[');
    for (int64_t i = 0; i < d->n_segment; i++) {
        hash_hex(d->segments[i], hex);
        json_str(&j, NULL, hex);
    }
    json_close(&j);
    status_t st = line_finish(&j, f, &text, &bytes);
    if (!st) fwrite(text, 1, bytes, to);
    free(text);
    return st;
}

/* ---- many --------------------------------------------------------------------------------------------------------- */

static status_t record_add(documents_t *d, const record_t *r) {
    status_t st = mem_room(&d->records, d->n, &d->cap, sizeof *r, "the list of documents");
    if (st) return st;
    d->records[d->n++] = *r;
    return ST_OK;
}

status_t documents_parse(const char *text, size_t bytes, const char *name, problems_t *found, documents_t *out) {
    lines_t lines = {text, bytes, 0, 0};
    line_t line;
    line_state_t state;
    status_t st = ST_OK;
    while (!st && (state = lines_next(&lines, &line)) != LINE_END) {
        record_t r;
        bool good = false;
        if (state == LINE_TORN) {
            out->torn = true;
            break;
        }
        out->good_bytes = (int64_t)lines.at;
        r = (record_t){.seal = line.seal, .line = line.text, .line_bytes = line.bytes, .fresh = !found};
        if (state == LINE_GOOD) st = out->brief ? record_scan(&line, &r, &good) : record_parse(&line, name, &r, &good);
        if (st) break;
        if (good && (st = record_add(out, &r))) record_free(&r);
        if (good) continue;
        out->n_bad++;
        if (found)
            st = problem(found, "%s line %" PRId64 " is damaged: %s", name, lines.number,
                         state == LINE_BAD ? "its checksum does not match" : "it is no record of a document");
    }
    return st;
}

typedef struct {
    hash_t id;
    int64_t i;
} place_t;

static int place_compare(const void *a, const void *b) {
    const place_t *x = a, *y = b;
    int c = hash_compare(x->id, y->id);
    return c ? c : x->i < y->i ? -1 : x->i > y->i;
}

/* Places first .. last are records of one id, in order. */
static void group_settle(record_t *records, const place_t *first, const place_t *last) {
    record_t *to = &records[first->i], *from = &records[last->i];
    bool changed = from->fresh && (to->fresh || !hash_equal(to->seal, from->seal));
    for (const place_t *p = first; p < last; p++) record_free(&records[p->i]), records[p->i].gone = true;
    if (from != to) {
        *to = *from;
        from->doc = (store_document_t){0};
        from->gone = true;
    }
    to->changed = changed;
}

status_t documents_settle(documents_t *d) {
    place_t *places;
    status_t st = mem_alloc(&places, (size_t)d->n, sizeof *places, "sorting the documents");
    if (st || !d->n) return st;
    for (int64_t i = 0; i < d->n; i++) places[i] = (place_t){d->records[i].id, i};
    qsort(places, (size_t)d->n, sizeof *places, place_compare);
    for (int64_t i = 0, next; i < d->n; i = next) {
        for (next = i + 1; next < d->n && hash_equal(places[next].id, places[i].id);) next++;
        group_settle(d->records, &places[i], &places[next - 1]);
    }
    mem_free(places);
    int64_t n = 0;
    for (int64_t i = 0; i < d->n; i++)
        if (!d->records[i].gone) d->records[n++] = d->records[i];
    d->n = n;
    return ST_OK;
}

status_t documents_load(const char *dir, bool brief, problems_t *found, documents_t *out) {
    char path[FOLDER_PATH];
    size_t bytes;
    *out = (documents_t){.brief = brief};
    status_t st = folder_path(dir, "documents.jsonl", path);
    if (st || !file_exists(path)) return st;
    st = file_read_text(path, DOCUMENTS_BYTES_MAX, &out->text, &bytes);
    if (!st) st = documents_parse(out->text, bytes, path, found, out);
    if (!st) st = documents_settle(out);
    if (st) documents_free(out);
    return st;
}

void documents_free(documents_t *d) {
    for (int64_t i = 0; i < d->n; i++) record_free(&d->records[i]);
    mem_free(d->records);
    mem_free(d->text);
    *d = (documents_t){0};
}

/* ---- writing ------------------------------------------------------------------------------------------------------ */

/* The lines of all records, or of the changed ones. The caller frees *text (free). */
static status_t lines_join(const documents_t *d, bool changed, char **text, size_t *bytes) {
    FILE *f = open_memstream(text, bytes);
    if (!f) return status_fail(ST_FAIL, "out of memory for the list of documents; use a machine with more memory");
    for (int64_t i = 0; i < d->n; i++)
        if (!changed || d->records[i].changed) fwrite(d->records[i].line, 1, d->records[i].line_bytes, f);
    bool whole = !ferror(f);
    return fclose(f) || !whole ? status_fail(ST_FAIL, "out of memory for the list of documents; use a machine with more memory") : ST_OK;
}

status_t documents_rewrite(const char *dir, const documents_t *d) {
    char path[FOLDER_PATH], *text = NULL;
    size_t bytes = 0;
    status_t st = folder_path(dir, "documents.jsonl", path);
    if (!st) st = lines_join(d, false, &text, &bytes);
    if (!st) st = file_write_atomic(path, text, bytes);
    free(text);
    return st;
}

static status_t file_extend(const char *dir, int64_t keep, const char *text, size_t bytes) {
    char path[FOLDER_PATH];
    status_t st = folder_path(dir, "documents.jsonl", path);
    if (st) return st;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) return disk_fail("cannot open", path);
    st = disk_cut(fd, path, keep);
    if (!st) {
        st = disk_write_at(fd, path, keep, text, bytes);
        if (!st) st = disk_sync(fd, path);
        if (st && ftruncate(fd, (off_t)keep)) {} /* what it fails to cut is a torn tail */
    }
    close(fd);
    return st ? st : disk_sync_dir(dir);
}

status_t documents_cut(const char *dir, const documents_t *d) { return file_extend(dir, d->good_bytes, "", 0); }

/* The given documents as lines. */
static status_t batch_write(const store_document_t *docs, int64_t n, char **text, size_t *bytes) {
    status_t st = ST_OK;
    FILE *f = open_memstream(text, bytes);
    if (!f) return status_fail(ST_FAIL, "out of memory for the list of documents; use a machine with more memory");
    for (int64_t i = 0; !st && i < n; i++) st = record_write(&docs[i], f);
    bool whole = !ferror(f);
    if ((fclose(f) || !whole) && !st) st = status_fail(ST_FAIL, "out of memory for the list of documents; use a machine with more memory");
    return st;
}

/* New lines are read back as they would be from disk, so that ids compare as they are stored. */
status_t store_add_documents(const char *dir, const store_document_t *docs, int64_t n) {
    problems_t quiet = {0};
    documents_t d;
    char *batch = NULL, *text = NULL;
    size_t batch_bytes = 0, bytes = 0;
    status_t st = documents_load(dir, true, &quiet, &d);
    if (st) return st;
    int64_t keep = d.good_bytes;
    st = batch_write(docs, n, &batch, &batch_bytes);
    if (!st) st = documents_parse(batch, batch_bytes, "new documents", NULL, &d);
    if (!st) st = documents_settle(&d);
    if (!st) st = lines_join(&d, true, &text, &bytes);
    if (!st && bytes) st = file_extend(dir, keep, text, bytes);
    documents_free(&d);
    free(text);
    free(batch);
    return st;
}
