/* Progress of long work on rank 0: a bar with rate and ETA on a terminal, a plain line every few seconds in a log, nothing when it was
 * turned off. */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *what, *unit; /* "encode", "tokens" */
    int64_t total, done;
    double begin_s, last_s, every_s;
    bool terminal, on;
} progress_t;

void progress_begin(progress_t *p, const char *what, const char *unit, int64_t total, bool on);
void progress_update(progress_t *p, int64_t done);
void progress_end(progress_t *p); /* last line: total, seconds, rate */

#endif
