/* One buffer of packed bytes between the file and the decoder:
 *
 *     file --read--> in[at .. n) --zstd | gzip | copy--> the caller's buffer
 *
 * Packed files may be several frames (members) one after the other, as `cat a.zst b.zst` makes them. A file that ends inside a frame was
 * cut: an error, never a short text.
 */
#include "io/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "base/mem.h"
#include "base/stop.h"

enum { IN_BYTES = 1 << 17, MAGIC_BYTES = 4, GZIP_WINDOW = 15 + 16, WAIT_MS = 200 };

typedef enum { PLAIN, ZSTD, GZIP } kind_t;

struct stream {
    char *name;
    int fd; /* -1: from memory */
    kind_t kind;
    uint8_t *own;      /* the buffer, when there is a file */
    const uint8_t *in; /* own, or the caller's memory */
    size_t at, n;
    const atomic_bool *given_up;
    bool may_wait; /* a pipe, a terminal: bytes come when they come */
    bool ended;    /* nothing more to read behind in[n] */
    bool in_frame; /* the decoder waits for more */
    ZSTD_DStream *zstd;
    z_stream gzip;
    bool gzip_ready;
};

/* Waits for bytes of a pipe or a terminal, but not behind a signal that asks the program to stop. */
static status_t wait_bytes(const stream_t *s) {
    struct pollfd p = {.fd = s->fd, .events = POLLIN};
    while (s->may_wait && poll(&p, 1, WAIT_MS) <= 0) {
        if (atomic_load(s->given_up)) return status_fail(ST_STOPPED, "stopped while waiting for %s: the run failed elsewhere", s->name);
        if (stop_requested())
            return status_fail(ST_STOPPED, "stopped (%s) while waiting for %s; what is done is kept: run the same command again to go on",
                               stop_reason(), s->name);
    }
    return ST_OK;
}

/* Reads once into own[n ..). */
static status_t read_once(stream_t *s) {
    for (;;) {
        status_t st = wait_bytes(s);
        if (st) return st;
        ssize_t n = read(s->fd, s->own + s->n, IN_BYTES - s->n);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n < 0) return status_fail(ST_INPUT, "%s: read error: %s; check the file and the disk", s->name, strerror(errno));
        s->n += (size_t)n;
        s->ended = n == 0;
        return ST_OK;
    }
}

static status_t fill(stream_t *s) {
    status_t st = ST_OK;
    while (!st && s->at == s->n && !s->ended) {
        s->at = s->n = 0;
        st = read_once(s);
    }
    return st;
}

/* The first bytes together in the buffer, even when a pipe hands them out one by one. */
static status_t fill_magic(stream_t *s) {
    status_t st = ST_OK;
    while (!st && s->n < MAGIC_BYTES && !s->ended) st = read_once(s);
    return st;
}

static bool name_ends(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n >= m && !strcmp(name + n - m, end);
}

static status_t find_kind(stream_t *s) {
    const uint8_t *p = s->in;
    bool zst = name_ends(s->name, ".zst"), gz = name_ends(s->name, ".gz");
    bool skippable = s->n >= 4 && (p[0] & 0xF0) == 0x50 && p[1] == 0x2A && p[2] == 0x4D && p[3] == 0x18; /* text may look like this */
    if (s->n >= 4 && (!memcmp(p, "\x28\xB5\x2F\xFD", 4) || (zst && skippable)))
        s->kind = ZSTD;
    else if (s->n >= 2 && p[0] == 0x1F && p[1] == 0x8B)
        s->kind = GZIP;
    if ((zst && s->kind != ZSTD) || (gz && s->kind != GZIP))
        return status_fail(ST_INPUT, "%s: byte 0: not %s data, whatever the name says%s; give it its right name or download it again",
                           s->name, zst ? "zstd" : "gzip", s->n ? "" : " (the file is empty)");
    return ST_OK;
}

static status_t start(stream_t *s) {
    status_t st = fill_magic(s);
    if (st || (st = find_kind(s))) return st;
    if (s->kind == ZSTD && !(s->zstd = ZSTD_createDStream()))
        return status_fail(ST_FAIL, "%s: out of memory for the zstd decoder; use a machine with more memory", s->name);
    if (s->kind == GZIP) {
        if (inflateInit2(&s->gzip, GZIP_WINDOW) != Z_OK)
            return status_fail(ST_FAIL, "%s: out of memory for the gzip decoder; use a machine with more memory", s->name);
        s->gzip_ready = true;
    }
    s->in_frame = s->kind != PLAIN;
    return ST_OK;
}

static status_t create(const char *name, stream_t **out) {
    status_t st = mem_zalloc(out, 1, sizeof **out, "an input stream");
    if (st) return st;
    (*out)->fd = -1;
    if (((*out)->name = mem_strdup(name))) return ST_OK;
    stream_close(*out);
    *out = NULL;
    return ST_FAIL;
}

status_t stream_open_memory(const void *data, size_t bytes, const char *name, stream_t **out) {
    stream_t *s;
    *out = NULL;
    status_t st = create(name, &s);
    if (st) return st;
    s->in = data;
    s->n = bytes;
    s->ended = true;
    if ((st = start(s)))
        stream_close(s);
    else
        *out = s;
    return st;
}

status_t stream_open(const char *path, const atomic_bool *given_up, stream_t **out) {
    stream_t *s;
    *out = NULL;
    status_t st = create(path, &s);
    if (st) return st;
    struct stat kind;
    s->given_up = given_up;
    s->fd = strcmp(path, "-") ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : STDIN_FILENO; /* a FIFO may have no writer yet */
    if (s->fd < 0) st = status_fail(ST_INPUT, "%s: cannot be opened: %s; check the path", path, strerror(errno));
    s->may_wait = !st && !fstat(s->fd, &kind) && !S_ISREG(kind.st_mode);
    if (!st) st = mem_alloc(&s->own, IN_BYTES, 1, "an input buffer");
    s->in = s->own;
    if (!st) st = start(s);
    if (st)
        stream_close(s);
    else
        *out = s;
    return st;
}

void stream_close(stream_t *s) {
    if (!s) return;
    if (s->fd > STDIN_FILENO) close(s->fd);
    ZSTD_freeDStream(s->zstd);
    if (s->gzip_ready) inflateEnd(&s->gzip);
    mem_free(s->own);
    mem_free(s->name);
    mem_free(s);
}

static status_t fail_cut(const stream_t *s) {
    return status_fail(ST_INPUT, "%s: ends in the middle of its %s data; it is cut, download it again", s->name,
                       s->kind == ZSTD ? "zstd" : "gzip");
}

static status_t read_zstd(stream_t *s, void *buf, size_t cap, size_t *got) {
    ZSTD_outBuffer out = {buf, cap, 0};
    status_t st;
    while (out.pos == 0) {
        if ((st = fill(s))) return st;
        if (s->at == s->n && !s->in_frame) break;
        ZSTD_inBuffer in = {s->in, s->n, s->at};
        size_t left = ZSTD_decompressStream(s->zstd, &out, &in);
        if (ZSTD_isError(left)) {
            if (ZSTD_getErrorCode(left) == ZSTD_error_frameParameter_windowTooLarge)
                return status_fail(ST_INPUT, "%s: zstd window above 128 MiB; pack it again without --long", s->name);
            return status_fail(ST_INPUT, "%s: damaged zstd data: %s; download it again", s->name, ZSTD_getErrorName(left));
        }
        bool stuck = in.pos == s->at && out.pos == 0;
        s->at = in.pos;
        s->in_frame = left != 0;
        if (stuck && s->in_frame && s->at == s->n) return fail_cut(s);
    }
    *got = out.pos;
    return ST_OK;
}

/* Behind a member: zeros are padding, another member may follow, anything else is damage. */
static status_t next_member(stream_t *s) {
    status_t st;
    while (!(st = fill(s)) && s->at < s->n && s->in[s->at] == 0) s->at++;
    if (st || s->at == s->n) return st;
    if (s->in[s->at] != 0x1F) return status_fail(ST_INPUT, "%s: bytes follow the gzip data that are no gzip; download it again", s->name);
    if (inflateReset(&s->gzip) != Z_OK) return status_fail(ST_FAIL, "%s: the gzip decoder cannot be reset; report this as a bug", s->name);
    s->in_frame = true;
    return ST_OK;
}

static status_t read_gzip(stream_t *s, uint8_t *buf, size_t cap, size_t *got) {
    status_t st;
    if (cap > IN_BYTES) cap = IN_BYTES; /* zlib counts in 32 bits */
    s->gzip.next_out = buf;
    s->gzip.avail_out = (uInt)cap;
    while (s->in_frame && s->gzip.avail_out == cap) {
        if ((st = fill(s))) return st;
        size_t most = s->n - s->at < IN_BYTES ? s->n - s->at : IN_BYTES;
        s->gzip.next_in = (Bytef *)(uintptr_t)(s->in + s->at);
        s->gzip.avail_in = (uInt)most;
        int r = inflate(&s->gzip, Z_NO_FLUSH);
        s->at += most - s->gzip.avail_in;
        if (r == Z_STREAM_END) {
            s->in_frame = false;
            if ((st = next_member(s))) return st;
        } else if (r == Z_BUF_ERROR && s->at == s->n && s->ended) {
            return fail_cut(s);
        } else if (r != Z_OK && r != Z_BUF_ERROR) {
            return status_fail(ST_INPUT, "%s: damaged gzip data: %s; download it again", s->name, s->gzip.msg ? s->gzip.msg : "bad stream");
        }
    }
    *got = cap - s->gzip.avail_out;
    return ST_OK;
}

status_t stream_read(stream_t *s, void *buf, size_t cap, size_t *got) {
    *got = 0;
    if (s->kind == ZSTD) return read_zstd(s, buf, cap, got);
    if (s->kind == GZIP) return read_gzip(s, buf, cap, got);
    status_t st = fill(s);
    if (st) return st;
    *got = s->n - s->at < cap ? s->n - s->at : cap;
    if (*got) memcpy(buf, s->in + s->at, *got);
    s->at += *got;
    return ST_OK;
}
