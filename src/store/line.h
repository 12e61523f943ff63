/* Sealed lines: the form of every record of the store (store.json, *.index, documents.jsonl).
 *
 *     {"address":"..","tokens":2048, ...   ,"xxh3":"0123..ef"}\n
 *     `---------- body ----------------'   `----- seal -----'
 *
 * The seal is the XXH3 of the body's bytes, so that a flipped bit anywhere in a line is noticed. A line is written by one write and counts
 * once it is whole: what a kill leaves is a prefix of a line at the end of the file, which is torn, not damaged.
 */
#ifndef STORE_LINE_H
#define STORE_LINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/status.h"
#include "io/json.h"

enum { LINE_SEAL = 44 }; /* bytes of the seal, newline included */

typedef enum { LINE_GOOD, LINE_BAD, LINE_TORN, LINE_END } line_state_t;
typedef struct {
    const char *text; /* not NUL-terminated */
    size_t bytes;     /* of the whole line, seal and newline included */
    size_t body;      /* of the body */
    hash_t seal;
} line_t;

/* A walk over the lines of a file in memory. Zero `at` and `number` first. */
typedef struct {
    const char *data;
    size_t bytes, at;
    int64_t number; /* of the line returned last, from 1 */
} lines_t;
line_state_t lines_next(lines_t *r, line_t *out);

/* Appends seal and newline behind body_bytes of body (which lacks its closing brace): writes LINE_SEAL bytes and no NUL. Returns the length
 * of the line. */
size_t line_seal(char *line, size_t body_bytes);

/* Ends the object that j writes into f = open_memstream(text, bytes), closes f and seals the line: text[0 .. bytes) as it goes to disk. The
 * caller frees text (free). */
status_t line_finish(json_out_t *j, FILE *f, char **text, size_t *bytes);

/* Strict scanning of a body: any mismatch clears ok and later calls do nothing. */
typedef struct {
    const char *p, *end;
    bool ok;
} scan_t;
void scan_text(scan_t *s, const char *expected);
bool scan_maybe(scan_t *s, const char *text); /* goes over text if it stands here */
int64_t scan_int(scan_t *s);                  /* 0 .. 2^53, decimal, no leading zeros */
hash_t scan_hash(scan_t *s);                  /* 32 lower-case hex digits */
bool scan_done(const scan_t *s);

/* What is wrong with a store, told one line at a time. strict: the first problem is an error. */
typedef struct {
    void (*tell)(void *ctx, const char *line); /* NULL: only counted */
    void *ctx;
    bool strict;
    int64_t n;
} problems_t;
/* Counts and tells; ST_INPUT with the line when strict, else ST_OK. */
status_t problem(problems_t *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
