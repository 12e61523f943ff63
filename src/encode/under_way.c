#include "encode/under_way.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

static const char MAGIC[] = "precis under way 1\n";
enum { MAGIC_BYTES = sizeof MAGIC - 1, HEAD_BYTES = MAGIC_BYTES + sizeof(hash_t) + sizeof(int64_t), CHUNK_BYTES = 16 << 20 };

status_t under_way_add(under_way_t *u, void *p, size_t bytes, bool by_layer) {
    status_t st = mem_room(&u->parts, u->n_part, &u->cap, sizeof *u->parts, "parts of a stopped document");
    if (st) return st;
    u->parts[u->n_part++] = (under_way_part_t){p, bytes, by_layer};
    return ST_OK;
}

void under_way_free(under_way_t *u) { mem_free(u->parts); }

static size_t part_bytes(const under_way_t *u, int64_t i, int layers) {
    const under_way_part_t *p = &u->parts[i];
    return p->by_layer ? p->bytes / (size_t)u->n_layer * (size_t)layers : p->bytes;
}

/* The key with the parts' sizes in it: another way to cut the document into steps has other parts. */
static status_t whole_key(const under_way_t *u, hash_t *out) {
    hash_state_t *h = hash_create();
    if (!h) return status_fail(ST_FAIL, "out of memory for a hash; use a machine with more memory");
    hash_add(h, &u->key, sizeof u->key);
    for (int64_t i = 0; i < u->n_part; i++) hash_add(h, &u->parts[i].bytes, sizeof u->parts[i].bytes);
    *out = hash_finish(h);
    return ST_OK;
}

status_t under_way_find(const under_way_t *u, int *layers, file_map_t *map) {
    hash_t key, sum;
    int64_t n = 0;
    *layers = 0;
    *map = (file_map_t){NULL, 0};
    if (!file_exists(u->path)) return ST_OK;
    status_t st = whole_key(u, &key);
    if (!st) st = file_map(u->path, map);
    if (st) return st;
    if (map->bytes < HEAD_BYTES + sizeof sum || memcmp(map->data, MAGIC, MAGIC_BYTES) || memcmp(map->data + MAGIC_BYTES, &key, sizeof key))
        return ST_OK;
    memcpy(&n, map->data + MAGIC_BYTES + sizeof key, sizeof n);
    if (n < 1 || n >= u->n_layer) return ST_OK;
    size_t want = HEAD_BYTES + sizeof sum;
    for (int64_t i = 0; i < u->n_part; i++) want += part_bytes(u, i, (int)n);
    if (map->bytes != want) return ST_OK;
    sum = hash_bytes(map->data, map->bytes - sizeof sum);
    if (!memcmp(map->data + map->bytes - sizeof sum, &sum, sizeof sum)) *layers = (int)n;
    return ST_OK;
}

status_t under_way_read(const under_way_t *u, backend_t *be, int layers, const file_map_t *map) {
    const uint8_t *at = map->data + HEAD_BYTES;
    status_t st = ST_OK;
    for (int64_t i = 0; i < u->n_part && !st; i++) {
        size_t n = part_bytes(u, i, layers);
        if (n) st = be->ops->copy_in(be, u->parts[i].p, at, n);
        at += n;
    }
    return st ? st : be->ops->sync(be);
}

static status_t put(int fd, const char *path, hash_state_t *h, const void *p, size_t n) {
    if (h) hash_add(h, p, n);
    return file_write_all(fd, path, p, n);
}

static status_t parts_write(const under_way_t *u, backend_t *be, int layers, int fd, hash_state_t *h) {
    char *chunk = NULL;
    status_t st = mem_alloc(&chunk, CHUNK_BYTES, 1, "a part of a stopped document");
    for (int64_t i = 0; i < u->n_part && !st; i++) {
        size_t n = part_bytes(u, i, layers);
        for (size_t at = 0; at < n && !st; at += CHUNK_BYTES) {
            size_t k = n - at < CHUNK_BYTES ? n - at : CHUNK_BYTES;
            st = be->ops->copy_out(be, chunk, (const char *)u->parts[i].p + at, k);
            if (!st) st = put(fd, u->path, h, chunk, k);
        }
    }
    mem_free(chunk);
    return st;
}

static status_t fail_write(const char *path) {
    return status_fail(ST_FAIL, "%s: %s; free some space, or check the folder's permissions", path, strerror(errno));
}

status_t under_way_write(const under_way_t *u, backend_t *be, int layers) {
    char temp[PATH_MAX];
    hash_t key, sum;
    int64_t n = layers;
    snprintf(temp, sizeof temp, "%s.tmp", u->path);
    status_t st = whole_key(u, &key);
    if (st) return st;
    hash_state_t *h = hash_create();
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) st = fail_write(temp);
    if (!st && !h) st = status_fail(ST_FAIL, "out of memory for a hash; use a machine with more memory");
    if (!st) st = put(fd, temp, h, MAGIC, MAGIC_BYTES);
    if (!st) st = put(fd, temp, h, &key, sizeof key);
    if (!st) st = put(fd, temp, h, &n, sizeof n);
    if (!st) st = parts_write(u, be, layers, fd, h);
    if (h) sum = hash_finish(h);
    if (!st) st = put(fd, temp, NULL, &sum, sizeof sum);
    if (!st && fsync(fd)) st = fail_write(temp);
    if (fd >= 0 && close(fd) && !st) st = fail_write(temp);
    if (!st && rename(temp, u->path)) st = fail_write(temp);
    if (st && fd >= 0) unlink(temp);
    return st;
}
