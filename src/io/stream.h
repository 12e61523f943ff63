/* Bytes of a file in order, unpacked on the way when they are zstd or gzip (told by their first bytes, not by the name). */
#ifndef IO_STREAM_H
#define IO_STREAM_H

#include <stdatomic.h>
#include <stddef.h>

#include "base/status.h"

typedef struct stream stream_t;

/* "-" is standard input; pipes are welcome. Once *given_up is true, nobody waits for a pipe's bytes any more: ST_STOPPED. */
status_t stream_open(const char *path, const atomic_bool *given_up, stream_t **out);
status_t stream_open_memory(const void *data, size_t bytes, const char *name, stream_t **out); /* both borrowed */
/* Up to cap >= 1 bytes to buf; *got is 0 at the end alone. ST_INPUT when packed data are cut or damaged. */
status_t stream_read(stream_t *s, void *buf, size_t cap, size_t *got);
void stream_close(stream_t *s);

#endif
