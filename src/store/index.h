/* Index files: which segments lie in a data file, and where. The first line says whose file it is, every other one commits a segment. */
#ifndef STORE_INDEX_H
#define STORE_INDEX_H

#include "store/folder.h"
#include "store/line.h"
#include "store/store.h"

/* A data file opens with a header region of this size; segments follow it without holes. DATA_SEGMENTS_MAX headers of the longest tensors
 * fit. */
enum { STORE_ALIGN = 64, DATA_HEADER_BYTES = 256 << 10, DATA_SEGMENTS_MAX = 256, INDEX_LINE_MAX = 512 };
static const int64_t DATA_BYTES_MAX = (int64_t)4 << 30; /* a new file is begun rather than passing this */
_Static_assert(DATA_HEADER_BYTES % STORE_ALIGN == 0, "segments start aligned");

/* Bytes of the parts of a segment; each of tokens, kept rows, K, V is padded to a multiple of STORE_ALIGN. */
typedef struct {
    int64_t token_rows, kept_rows, kv, pad, total;
} segment_size_t; /* token_rows, kept_rows: numbers with padding; kv: of K or V; pad: behind each */
/* false when the sizes are out of range. */
bool segment_size(const store_profile_t *p, int64_t n_token, int64_t n_row, int64_t n_kept, segment_size_t *out);
/* Fills in kept_offset, k_offset and v_offset from tokens_offset. */
void segment_place(const segment_size_t *size, store_segment_t *s);

/* Each writes a whole line into out[INDEX_LINE_MAX] and returns its length. */
size_t index_head_line(hash_t profile, char *out);
size_t index_segment_line(const store_profile_t *p, const store_segment_t *s, char *out);

/* Reads an index from memory into f (segments and what follows them); problems go to `found`. ST_INPUT only from a strict `found`. */
status_t index_parse(const char *text, size_t bytes, const char *name, const store_profile_t *p, int file, problems_t *found,
                     store_file_t *f);
/* Lists DIR and reads all its indexes. Segments whose data is missing or too short are told and left out. */
status_t folder_load(const char *dir, const store_profile_t *p, problems_t *found, folder_t *out);

/* The header region of a data file with these segments, DATA_HEADER_BYTES of it (mem_free). */
status_t data_header(const store_profile_t *p, const store_segment_t *segments, int64_t n, char **out);

#endif
