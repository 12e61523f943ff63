/* Documents in: text files, .jsonl, either compressed with zstd or gzip, folders of these, and "-" for standard input.
 *
 * Order: inputs as given; a folder's files sorted by name, recursively (hidden files skipped); lines in file order. A text file is one
 * document whose id is its path; a .jsonl record has "text" (required string) and "id" (optional string or number; otherwise path:line).
 * Standard input is JSON lines when its first byte is '{', else one text. Streams: at most one document is in memory, flat in the size of
 * the corpus. Limits: one document 1 GiB. Errors are ST_INPUT naming path, line and what is wrong. Text that is not UTF-8 has each bad
 * sequence replaced by U+FFFD, with one warning per file.
 */
#ifndef IO_CORPUS_H
#define IO_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "io/json.h"

typedef struct corpus corpus_t;
typedef struct {
    const char *id;     /* borrowed until the next call */
    const char *source; /* path of the file */
    const char *text;   /* UTF-8, NUL-terminated */
    size_t bytes;
    const cJSON *record; /* the whole record for .jsonl (other fields), else NULL */
    int64_t line;        /* 1-based; 0 for plain text */
} document_t;

/* What the records must hold: a corpus needs "text"; prompts "prompt"; token files "tokens". `field` NULL: none is required and text is ""
 * when absent. */
status_t corpus_open(const char *const *paths, int n_path, const char *field, corpus_t **out);
/* The same from bytes in memory (borrowed; for tests and fuzzing); `name` plays the part of the path. */
status_t corpus_open_memory(const void *data, size_t bytes, const char *name, const char *field, corpus_t **out);
/* The most bytes of one document, instead of 1 GiB; a JSON line may have twice as many. */
void corpus_set_limit(corpus_t *c, size_t document_bytes);
/* ST_OK with *got false at the end. */
status_t corpus_next(corpus_t *c, document_t *doc, bool *got);
/* From another thread: a corpus_next that waits for a pipe's bytes waits no longer, but fails. */
void corpus_give_up(corpus_t *c);
void corpus_close(corpus_t *c);
/* Copies text replacing invalid UTF-8 by U+FFFD (Python's maximal-subpart rule). *out is the caller's (mem_free), NUL-terminated. Returns
 * the number replaced through n_bad. */
status_t utf8_repair(const char *s, size_t n, char **out, size_t *out_n, int64_t *n_bad);

#endif
