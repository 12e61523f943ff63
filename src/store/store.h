/* The store: encoded segments on disk, never lost and never encoded twice. FORMAT.md beside this file is the format.
 *
 *     DIR/store.json                  what the store is for: model fingerprint, layout, sink, types; written once, first
 *     DIR/rank0003-000001.safetensors K/V of many segments, one file after another per encoding rank; `.part` while it is being written
 *     DIR/rank0003-000001.index       JSON lines, one per committed segment: address, place, checksums; a line is the commit
 *     DIR/documents.jsonl             documents in the order given, each with the addresses of its segments
 *
 * A segment is committed when its bytes are synced and then its index line is synced. A kill leaves at most a torn tail, which readers
 * ignore and the next writer cuts off. Readers take any number of ranks; writers are one process per `writer` number at a time, and each
 * writes files of its own.
 */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/hash.h"
#include "base/status.h"

/* What must agree for segments to be of use to each other: part of every address. */
typedef struct {
    char model_name[128];
    char model_fingerprint[HASH_HEX];
    int64_t n_layer, n_kv_head, d_head, n_vocab;
    char layout[32]; /* "full", "pce", .. */
    int64_t segment; /* rows at most */
    char align[16];
    char gists[96];         /* how segments are summarised and what is kept (gist_text of encode/kept.h); "": no gists, raw rows */
    char adapter[HASH_HEX]; /* XXH3 of the adapter's bytes; "": none */
    int64_t n_sink;
    const int32_t *sink; /* [n_sink] token ids; owned by the store once opened */
    dtype_t kv_type;     /* of the stored K/V */
    dtype_t act;         /* what it was computed in */
    char backend[32];    /* informational, not part of the address: CPU and GPU stores are interchangeable */
} store_profile_t;

/* The address of a segment of these tokens: depends on profile (but for model_name and backend) and tokens. `before`: the address of the
 * segment that this one continues (full attention over a document cut into slices), or NULL. */
hash_t store_address(const store_profile_t *p, const int32_t *tokens, int64_t n, const hash_t *before);

typedef struct {
    hash_t address;
    int64_t n_row;     /* K/V rows per layer and head */
    int64_t n_token;   /* raw tokens */
    int64_t n_kept;    /* entries of the list of kept rows (blockselect); 0: no list */
    int64_t first_pos; /* RoPE position of row 0 (for people; exact positions follow from the profile) */
    hash_t checksum;   /* of tokens, list of kept rows, K, V, as stored */
    int file;          /* which data file */
    int64_t tokens_offset, kept_offset, k_offset, v_offset; /* from the start of the file */
} store_segment_t;

typedef struct {
    char *id, *source; /* owned by the store */
    hash_t text_hash;  /* of the document's bytes */
    int64_t n_token, n_segment;
    const hash_t *segments; /* [n_segment] */
} store_document_t;

/* ---- reading ------------------------------------------------------------------------------------------------------ */
typedef struct store store_t;

/* ST_INPUT when DIR is no store, is of another format version, or an index is damaged (the damaged place is named; see `damaged`).
 * With tolerate: damaged index lines and missing files are counted and left out instead. 10,000 segments open in well under a second. */
status_t store_open(const char *dir, bool tolerate, store_t **out);
void store_close(store_t *s);
const store_profile_t *store_profile(const store_t *s);
int64_t store_n_damaged(const store_t *s); /* index lines and files left out under tolerate */
int64_t store_n_segment(const store_t *s);
const store_segment_t *store_segment(const store_t *s, int64_t i);   /* in address order */
const store_segment_t *store_find(const store_t *s, hash_t address); /* NULL when absent */
/* Documents as last recorded under each id, in order of first appearance of the id; a document whose segments are not all there is still
 * listed. */
int64_t store_n_document(const store_t *s);
const store_document_t *store_document(const store_t *s, int64_t i);
/* Pointers into the map: tokens int32 [n_token], K and V kv_type [n_layer][n_kv_head][n_row][d_head]. Borrowed until store_close. ST_INPUT
 * when the file is cut. */
status_t store_map(store_t *s, const store_segment_t *seg, const int32_t **tokens, const void **k, const void **v);
/* The list of kept rows, int32 [n_kept], as the encoder gave it; NULL when the segment has none. */
status_t store_map_kept(store_t *s, const store_segment_t *seg, const int32_t **kept);
/* Reads every byte of the segment and compares the checksum: ST_INPUT naming file and address when it differs. Thread-safe. */
status_t store_verify(store_t *s, const store_segment_t *seg);
/* Checks everything: `report` is called with one line per problem. ST_INPUT when there was any. Leftovers of a killed writer are no
 * problem. */
status_t store_check(const char *dir, void (*report)(void *ctx, const char *line), void *ctx, int64_t *n_segment, int64_t *n_bytes);
/* Digest of what is stored: over segments in address order, each segment's address and the checksum recomputed from its bytes. Equal for
 * equal contents, whatever files, ranks and runs wrote them. ST_INPUT when bytes do not match their checksums. */
status_t store_digest(const char *dir, hash_t *out, int64_t *n_segment);
/* Removes segments that no document refers to and rewrites the files that hold them; *freed_bytes. Must not run beside a writer. */
status_t store_prune(const char *dir, int64_t *n_removed, int64_t *freed_bytes);

/* ---- writing ------------------------------------------------------------------------------------------------------ */
/* Makes DIR with its profile, or checks that the profile of an existing one agrees: ST_INPUT naming the first setting that differs with
 * both values. Called by one process before the writers open. Repairs what a kill or damage left: torn tails are cut, orphaned .part files
 * are completed from their index, damaged index lines are dropped. *n_repaired counts. */
status_t store_prepare(const char *dir, const store_profile_t *p, int64_t *n_repaired);
/* Marks segments as bad (their bytes did not verify): they are dropped from the index files, so that they are encoded again. One process,
 * no writer open. */
status_t store_drop(const char *dir, const hash_t *addresses, int64_t n);

typedef struct store_writer store_writer_t;
typedef struct {
    hash_t address;
    int64_t n_token, n_row, first_pos, n_kept;
    const int32_t *tokens; /* [n_token] */
    const int32_t *kept;   /* [n_kept] which rows were kept (encode/pick.h), NULL: no list; kept as it is */
    dtype_t type;          /* of k and v in memory: converted to the profile's kv_type on the way */
    const void *k, *v;     /* [n_layer][n_kv_head][n_row][d_head] */
} store_item_t;

/* `writer`: the encoding rank. A thread of its own converts, writes and syncs, so that encoding goes on meanwhile. */
status_t store_writer_open(const char *dir, const store_profile_t *p, int writer, store_writer_t **out);
/* Queues a segment; its memory is borrowed until store_writer_wait returns (or the next append: at most one is in flight). Waits for the
 * one before. Reports an earlier failure (full disk): what was committed stays. */
status_t store_append(store_writer_t *w, const store_item_t *item);
/* The same for several at once, which share their syncs: all bytes, a sync, all lines, a sync. A kill keeps some of them or none. */
status_t store_append_group(store_writer_t *w, const store_item_t *items, int64_t n);
/* Some K/V of a segment. */
typedef struct {
    int64_t layer, n_layer, row, n_row;
} store_part_t;
/* A segment whose K/V come little by little, so that they are written while others are computed: the space it takes is reserved, a part of
 * them is there now, and, with the last ones, when all have come, each once, the segment is hashed and committed. Each waits for the one
 * before and borrows as store_append does; nothing else is appended between open and close. */
status_t store_open_segment(store_writer_t *w, const store_item_t *item);
status_t store_part(store_writer_t *w, store_part_t part);
enum { STORE_LAST_PARTS = 2 };
status_t store_close_segment(store_writer_t *w, const store_part_t *last, int n); /* n <= STORE_LAST_PARTS */
/* Threads that hash and write the segments of a group side by side, each into files of its own: file systems let one write to a file at a
 * time. A segment alone is hashed by all of them. 1 at first. Before the first append. */
status_t store_writer_threads(store_writer_t *w, int n);
status_t store_writer_wait(store_writer_t *w); /* everything appended is committed, or the failure */
int64_t store_writer_bytes(const store_writer_t *w);
/* Completes the data file (header, rename). w is freed whatever happens. */
status_t store_writer_close(store_writer_t *w);
/* Appends documents to documents.jsonl, synced. One process. text_hash, ids and segments as in store_document_t. */
status_t store_add_documents(const char *dir, const store_document_t *docs, int64_t n);

#endif
