#include "store/index.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "io/file.h"
#include "store/profile.h"

static const int64_t ROWS_MAX = (int64_t)1 << 31, KEPT_MAX = (int64_t)1 << 40;

/* ---- sizes -------------------------------------------------------------------------------------------------------- */

bool segment_size(const store_profile_t *p, int64_t n_token, int64_t n_row, int64_t n_kept, segment_size_t *out) {
    size_t kv, padded, total;
    if (n_token < 1 || n_token > ROWS_MAX || n_row < 0 || n_row > ROWS_MAX || n_kept < 0 || n_kept > KEPT_MAX) return false;
    if (!size_mul((size_t)p->n_layer, (size_t)p->n_kv_head, &kv) || !size_mul(kv, (size_t)p->d_head, &kv) ||
        !size_mul(kv, (size_t)n_row, &kv) || !size_mul(kv, dtype_bytes(p->kv_type), &kv) || kv > (size_t)INT64_MAX / 8)
        return false;
    out->token_rows = (int64_t)size_round_up((size_t)n_token, STORE_ALIGN / sizeof(int32_t));
    out->kept_rows = (int64_t)size_round_up((size_t)n_kept, STORE_ALIGN / sizeof(int32_t));
    padded = size_round_up(kv, STORE_ALIGN);
    total = (size_t)(out->token_rows + out->kept_rows) * sizeof(int32_t) + 2 * padded;
    out->kv = (int64_t)kv;
    out->pad = (int64_t)(padded - kv);
    out->total = (int64_t)total;
    return true;
}

void segment_place(const segment_size_t *size, store_segment_t *s) {
    s->kept_offset = s->tokens_offset + size->token_rows * (int64_t)sizeof(int32_t);
    s->k_offset = s->kept_offset + size->kept_rows * (int64_t)sizeof(int32_t);
    s->v_offset = s->k_offset + size->kv + size->pad;
}

/* ---- lines -------------------------------------------------------------------------------------------------------- */

size_t index_head_line(hash_t profile, char *out) {
    char hex[HASH_HEX];
    hash_hex(profile, hex);
    int n = snprintf(out, INDEX_LINE_MAX - LINE_SEAL, "{\"precis\":\"index\",\"version\":%d,\"profile\":\"%s\",\"header\":%d",
                     STORE_VERSION, hex, DATA_HEADER_BYTES);
    return line_seal(out, (size_t)n);
}

size_t index_segment_line(const store_profile_t *p, const store_segment_t *s, char *out) {
    char address[HASH_HEX], checksum[HASH_HEX], kept[40] = "";
    segment_size_t size = {0};
    segment_size(p, s->n_token, s->n_row, s->n_kept, &size);
    hash_hex(s->address, address);
    hash_hex(s->checksum, checksum);
    if (s->n_kept) snprintf(kept, sizeof kept, ",\"kept\":%" PRId64, s->n_kept);
    int n = snprintf(out, INDEX_LINE_MAX - LINE_SEAL,
                     "{\"address\":\"%s\",\"tokens\":%" PRId64 ",\"rows\":%" PRId64 "%s,\"pos\":%" PRId64 ",\"offset\":%" PRId64
                     ",\"bytes\":%" PRId64 ",\"checksum\":\"%s\"",
                     address, s->n_token, s->n_row, kept, s->first_pos, s->tokens_offset, size.total, checksum);
    return line_seal(out, (size_t)n);
}

static bool segment_scan(const line_t *line, const store_profile_t *p, int64_t end, store_segment_t *s, int64_t *bytes) {
    scan_t in = {line->text, line->text + line->body, true};
    segment_size_t size;
    scan_text(&in, "{\"address\":\"");
    s->address = scan_hash(&in);
    scan_text(&in, "\",\"tokens\":");
    s->n_token = scan_int(&in);
    scan_text(&in, ",\"rows\":");
    s->n_row = scan_int(&in);
    if (scan_maybe(&in, ",\"kept\":")) {
        s->n_kept = scan_int(&in);
        in.ok = in.ok && s->n_kept > 0; /* an empty list is written as none */
    }
    scan_text(&in, ",\"pos\":");
    s->first_pos = scan_int(&in);
    scan_text(&in, ",\"offset\":");
    s->tokens_offset = scan_int(&in);
    scan_text(&in, ",\"bytes\":");
    *bytes = scan_int(&in);
    scan_text(&in, ",\"checksum\":\"");
    s->checksum = scan_hash(&in);
    scan_text(&in, "\"");
    if (!scan_done(&in) || !segment_size(p, s->n_token, s->n_row, s->n_kept, &size) || size.total != *bytes) return false;
    if (s->tokens_offset < end || s->tokens_offset % STORE_ALIGN || s->tokens_offset > INT64_MAX - size.total) return false;
    segment_place(&size, s);
    return true;
}

/* ---- files -------------------------------------------------------------------------------------------------------- */

static status_t head_check(const line_t *line, const char *name, const store_profile_t *p, problems_t *found, store_file_t *f) {
    char mine[INDEX_LINE_MAX];
    scan_t in = {line->text, line->text + line->body, true};
    if (line->bytes == index_head_line(profile_hash(p), mine) && !memcmp(line->text, mine, line->bytes)) return ST_OK;
    scan_text(&in, "{\"precis\":\"index\",\"version\":");
    int64_t version = scan_int(&in);
    f->foreign = in.ok; /* a head, but not of this store */
    if (!in.ok) return f->n_bad++, problem(found, "%s line 1 is no head of an index", name);
    if (version != STORE_VERSION)
        return problem(found, "%s has format version %" PRId64 ", this program reads %d", name, version, STORE_VERSION);
    return problem(found, "%s belongs to a store with other settings (see store.json)", name);
}

static status_t segment_add(store_file_t *f, const store_segment_t *s, int64_t bytes) {
    status_t st = mem_room(&f->segments, f->n_segment, &f->cap_segment, sizeof *s, "the index of the store");
    if (st) return st;
    if (s->tokens_offset != f->end) f->holes = true;
    f->segments[f->n_segment++] = *s;
    f->end = s->tokens_offset + bytes;
    return ST_OK;
}

status_t index_parse(const char *text, size_t bytes, const char *name, const store_profile_t *p, int file, problems_t *found,
                     store_file_t *f) {
    lines_t lines = {text, bytes, 0, 0};
    line_t line;
    line_state_t state;
    status_t st = ST_OK;
    f->end = DATA_HEADER_BYTES;
    while (!st && !f->foreign && (state = lines_next(&lines, &line)) != LINE_END) {
        store_segment_t s = {.file = file};
        int64_t size;
        if (state == LINE_TORN) {
            f->torn = true;
            break;
        }
        f->good_bytes = (int64_t)lines.at;
        if (state == LINE_GOOD && lines.number == 1) {
            st = head_check(&line, name, p, found, f);
        } else if (state == LINE_GOOD && segment_scan(&line, p, f->end, &s, &size)) {
            st = segment_add(f, &s, size);
        } else {
            f->n_bad++;
            st = problem(found, "%s line %" PRId64 " is damaged: %s", name, lines.number,
                         state == LINE_BAD ? "its checksum does not match" : "its values do not fit the store");
        }
    }
    if (!st && f->holes && !f->n_bad) st = problem(found, "%s: a line is missing: its data file has bytes of no segment", name);
    return st;
}

static status_t index_load(const folder_t *folder, int file, const store_profile_t *p, problems_t *found) {
    char path[FOLDER_PATH];
    char *text = NULL;
    size_t bytes;
    store_file_t *f = &folder->files[file];
    status_t st = folder_file_path(folder->dir, f, NAME_INDEX, path);
    if (!st) st = file_read_text(path, (size_t)1 << 32, &text, &bytes); /* read, not mapped: a writer may be cutting its tail */
    if (!st) st = index_parse(text, bytes, path, p, file, found, f);
    mem_free(text);
    return st;
}

/* Looks again: the file may have grown or got its final name since it was listed. One that got it meanwhile still counts as being written:
 * its index was read before its end. */
static status_t data_look(const folder_t *folder, store_file_t *f) {
    char path[FOLDER_PATH];
    struct stat s;
    status_t st = ST_OK;
    for (int part = 1; !st && part >= 0; part--) { /* in the order a file changes its name */
        store_file_t as = *f;
        as.part = part;
        if ((st = folder_data_path(folder->dir, &as, path)) || stat(path, &s)) continue;
        if (!f->has_data) f->part = true;
        f->has_data = true;
        f->data_bytes = s.st_size;
    }
    return st;
}

/* Leaves out segments that the data does not hold. A file without its index, or with another length than its index says, is the affair of
 * check and repair. */
static status_t data_match(const folder_t *folder, store_file_t *f, problems_t *found) {
    char path[FOLDER_PATH];
    int64_t had = f->n_segment, need = f->end;
    status_t st = folder_data_path(folder->dir, f, path);
    if (st || !had) return st;
    if (f->end > f->data_bytes && ((st = data_look(folder, f)) || (st = folder_data_path(folder->dir, f, path)))) return st;
    while (f->n_segment && f->end > f->data_bytes) {
        f->n_segment--;
        f->end = f->segments[f->n_segment].tokens_offset;
    }
    if (f->n_segment == had) return ST_OK;
    f->n_bad += had - f->n_segment;
    if (!f->has_data) return problem(found, "%s is missing: %" PRId64 " segments lost", path, had);
    return problem(found, "%s is cut: %" PRId64 " of %" PRId64 " bytes, %" PRId64 " segments lost", path, f->data_bytes, need,
                   had - f->n_segment);
}

status_t folder_load(const char *dir, const store_profile_t *p, problems_t *found, folder_t *out) {
    status_t st = folder_list(dir, out);
    for (int i = 0; !st && i < out->n_file; i++) {
        store_file_t *f = &out->files[i];
        char path[FOLDER_PATH];
        f->end = DATA_HEADER_BYTES;
        if (f->has_index) st = index_load(out, i, p, found);
        if (!st) st = data_match(out, f, found);
        if (st || f->part || !f->has_data) continue;
        st = folder_file_path(dir, f, NAME_INDEX, path);
        if (!st && !f->has_index) st = problem(found, "%s is missing: the segments of its data file are lost", path);
        if (!st && f->torn) st = problem(found, "%s: the last line of a complete file is cut", path), f->n_bad++;
    }
    if (st) folder_free(out);
    return st;
}
