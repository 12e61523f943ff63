/* Reading maps the file: pages are shared between the processes of a node and dropped when memory is short.
 * Writing goes beside the target and is renamed over it, so that a reader sees the old file or the new one, never half of one:
 *
 *     path.tmp-PID-k  --write, fsync-->  rename to path  --> fsync of the folder (the name itself is on disk)
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

enum { WRITE_STEP_BYTES = 1 << 30, TEMP_TRIES = 64 };

static status_t fail_open(const char *path, int err) {
    if (err == ENOENT) return status_fail(ST_INPUT, "%s: no such file; check the path", path);
    if (err == EACCES || err == EPERM) return status_fail(ST_INPUT, "%s: permission denied; make it readable for you", path);
    return status_fail(ST_INPUT, "%s: cannot be opened: %s; check the path", path, strerror(err));
}

/* An open descriptor of a regular file and its size. The kind is checked before open(2), which would wait for a writer on a pipe. */
static status_t open_regular(const char *path, int *fd, size_t *bytes) {
    struct stat s;
    *fd = -1;
    if (stat(path, &s)) return fail_open(path, errno);
    if (S_ISDIR(s.st_mode)) return status_fail(ST_INPUT, "%s: is a folder, a file was expected; name a file in it", path);
    if (!S_ISREG(s.st_mode)) return status_fail(ST_INPUT, "%s: is no regular file (a pipe or device?); copy it to a file first", path);
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return fail_open(path, errno);
    *bytes = (size_t)s.st_size;
    return ST_OK;
}

status_t file_map(const char *path, file_map_t *out) {
    int fd;
    *out = (file_map_t){NULL, 0};
    size_t bytes = 0;
    status_t st = open_regular(path, &fd, &bytes);
    if (st) return st;
    if (bytes) {
        void *p = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
            st = status_fail(ST_FAIL, "%s: cannot map %zu bytes: %s; raise the limit on address space (ulimit -v)", path, bytes,
                             strerror(errno));
        else
            *out = (file_map_t){p, bytes};
    }
    close(fd);
    return st;
}

void file_unmap(file_map_t *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->bytes);
    *m = (file_map_t){NULL, 0};
}

status_t file_read_text(const char *path, size_t max_bytes, char **text, size_t *bytes) {
    int fd;
    char *buf = NULL;
    size_t size = 0, got = 0;
    *text = NULL;
    status_t st = open_regular(path, &fd, &size);
    if (st) return st;
    if (size > max_bytes) {
        st = status_fail(ST_INPUT, "%s: %zu bytes, at most %zu are read; is it the right file?", path, size, max_bytes);
        goto out;
    }
    if ((st = mem_alloc(&buf, size + 1, 1, "a file's text"))) goto out;
    while (got < size) {
        ssize_t n = read(fd, buf + got, size - got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            st = status_fail(ST_FAIL, "%s: read error at byte %zu: %s; check the disk", path, got, strerror(errno));
            goto out;
        }
        if (n == 0) break; /* it shrank since stat(2) */
        got += (size_t)n;
    }
    buf[got] = 0;
    *text = buf;
    if (bytes) *bytes = got;
    buf = NULL;
out:
    mem_free(buf);
    close(fd);
    return st;
}

static status_t fail_write(const char *path, const char *deed, int err) {
    if (err == ENOSPC) return status_fail(ST_FAIL, "no space left on %s (%s); free some space and run the same command again", path, deed);
    if (err == EDQUOT)
        return status_fail(ST_FAIL, "disk quota exceeded on %s (%s); free some space and run the same command again", path, deed);
    return status_fail(ST_FAIL, "%s: %s failed: %s; check the folder and its permissions", path, deed, strerror(err));
}

status_t file_write_all(int fd, const char *path, const void *data, size_t bytes) {
    const char *p = data;
    while (bytes) {
        ssize_t n = write(fd, p, bytes < WRITE_STEP_BYTES ? bytes : WRITE_STEP_BYTES);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_write(path, "write", errno);
        p += n;
        bytes -= (size_t)n;
    }
    return ST_OK;
}

/* The folder that holds `path`, made of its bytes up to the last slash. */
static void folder_of(const char *path, char out[PATH_MAX]) {
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(out, PATH_MAX, ".");
    else
        snprintf(out, PATH_MAX, "%.*s", (int)(slash == path ? 1 : slash - path), path);
}

static status_t sync_folder(const char *path) {
    char folder[PATH_MAX];
    folder_of(path, folder);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return fail_write(folder, "open for fsync", errno);
    /* some network file systems refuse to sync a folder; there the rename itself is durable */
    status_t st = fsync(fd) && errno != EINVAL && errno != ENOTSUP ? fail_write(folder, "fsync", errno) : ST_OK;
    close(fd);
    return st;
}

/* Creates a new file beside `path`; its name goes to temp. */
static status_t open_temp(const char *path, char temp[PATH_MAX], int *fd) {
    for (int k = 0; k < TEMP_TRIES; k++) {
        int n = snprintf(temp, PATH_MAX, "%s.tmp-%ld-%d", path, (long)getpid(), k);
        if (n >= PATH_MAX) return status_fail(ST_FAIL, "%s: the path is too long; use a shorter one", path);
        *fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (*fd >= 0) return ST_OK;
        if (errno != EEXIST) return fail_write(temp, "create", errno);
    }
    return status_fail(ST_FAIL, "%s: %d left-over temporaries (%s ..) are in the way; remove them", path, TEMP_TRIES, temp);
}

status_t file_write_atomic(const char *path, const void *data, size_t bytes) {
    char temp[PATH_MAX];
    int fd = -1;
    status_t st = open_temp(path, temp, &fd);
    if (st) return st;
    st = file_write_all(fd, path, data, bytes);
    if (!st && fsync(fd)) st = fail_write(path, "fsync", errno);
    if (close(fd) && !st) st = fail_write(path, "close", errno); /* NFS tells of a full disk here */
    if (!st && rename(temp, path)) st = fail_write(path, "rename", errno);
    if (st) {
        unlink(temp);
        return st;
    }
    return sync_folder(path);
}

status_t file_make_dirs(const char *path) {
    char part[PATH_MAX];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof part) return status_fail(ST_FAIL, "%s: no folder name (empty or too long); give another", path);
    memcpy(part, path, n + 1);
    for (size_t i = 1; i <= n; i++) {
        if (part[i] != '/' && part[i] != 0) continue;
        part[i] = 0;
        if (mkdir(part, 0777) && errno != EEXIST) return fail_write(part, "making the folder", errno);
        if (i < n) part[i] = '/';
    }
    if (!file_is_dir(path)) return status_fail(ST_FAIL, "%s: exists and is no folder; remove it or give another name", path);
    return ST_OK;
}

bool file_exists(const char *path) {
    struct stat s;
    return stat(path, &s) == 0;
}

bool file_is_dir(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

void file_ahead(const void *p, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), skip = (uintptr_t)p % page;
    madvise((char *)(uintptr_t)p - skip, bytes + skip, MADV_WILLNEED); /* a wish: what comes of it does not matter */
}
