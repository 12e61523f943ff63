/* Rounds read ahead: while one is encoded on a device, a thread reads, tokenises and cuts the next. Rank 0 alone. */
#ifndef ENCODE_READER_H
#define ENCODE_READER_H

#include <pthread.h>

#include "encode/round.h"

typedef struct {
    const round_spec_t *spec;
    corpus_t *corpus; /* the thread's own between reader_ahead and reader_take */
    round_t next;
    pthread_t thread;
    bool running;
    status_t status;
    char message[1024];
} reader_t;

/* Begins to read the next round; does nothing when no thread can be had. */
void reader_ahead(reader_t *r);
/* The next round into *out, whose memory is used again for a later one. */
status_t reader_take(reader_t *r, round_t *out);
void reader_end(reader_t *r);

#endif
