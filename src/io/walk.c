/* A stack of open folders, each with its sorted names and the next one to take; the memory is that of one folder's names a level.
 * Links are followed; a folder that is already on the stack (a loop of links) is refused.
 */
#include "io/walk.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/mem.h"

enum { DEPTH_MAX = 64 };

typedef struct {
    char *path;
    struct dirent **names; /* from scandir(3): freed with free */
    int n, next, files;    /* files: handed out so far from here and below */
    dev_t dev;
    ino_t ino;
} folder_t;

struct walk {
    char **paths;
    int n_path, next;
    folder_t stack[DEPTH_MAX];
    int depth;
    char path[PATH_MAX];
};

static int visible(const struct dirent *e) { return e->d_name[0] != '.'; }
static int by_bytes(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static status_t stat_path(const char *path, struct stat *s) {
    if (!stat(path, s)) return ST_OK;
    if (errno == ENOENT) return status_fail(ST_INPUT, "%s: no such file or folder; check the path", path);
    return status_fail(ST_INPUT, "%s: cannot be read: %s; check the path", path, strerror(errno));
}

static status_t push(walk_t *w, const char *path, const struct stat *s) {
    if (w->depth == DEPTH_MAX) return status_fail(ST_INPUT, "%s: folders nested deeper than %d; give a folder further in", path, DEPTH_MAX);
    for (int i = 0; i < w->depth; i++)
        if (w->stack[i].dev == s->st_dev && w->stack[i].ino == s->st_ino)
            return status_fail(ST_INPUT, "%s: leads back to %s; remove the link", path, w->stack[i].path);
    folder_t *f = w->stack + w->depth;
    *f = (folder_t){.dev = s->st_dev, .ino = s->st_ino};
    if (!(f->path = mem_strdup(path))) return ST_FAIL;
    w->depth++;
    f->n = scandir(path, &f->names, visible, by_bytes);
    if (f->n >= 0) return ST_OK;
    f->n = 0;
    return status_fail(ST_INPUT, "%s: the folder cannot be read: %s; check its permissions", path, strerror(errno));
}

static void pop(walk_t *w) {
    folder_t *f = w->stack + --w->depth;
    for (int i = 0; i < f->n; i++) free(f->names[i]);
    free(f->names);
    if (w->depth)
        w->stack[w->depth - 1].files += f->files;
    else if (!f->files && f->next == f->n)
        log_warn("%s: no files in this folder", f->path);
    mem_free(f->path);
}

status_t walk_open(const char *const *paths, int n_path, walk_t **out) {
    walk_t *w;
    bool stdin_seen = false;
    *out = NULL;
    status_t st = mem_zalloc(&w, 1, sizeof *w, "the list of inputs");
    if (st) return st;
    if ((st = mem_zalloc(&w->paths, (size_t)n_path, sizeof *w->paths, "the list of inputs"))) goto out;
    for (int i = 0; i < n_path; i++) {
        struct stat s;
        bool is_stdin = !strcmp(paths[i], "-");
        if (is_stdin && stdin_seen) {
            st = status_fail(ST_INPUT, "-: standard input is named twice; name it once");
            goto out;
        }
        stdin_seen |= is_stdin;
        if (!is_stdin && (st = stat_path(paths[i], &s))) goto out;
        if (!(w->paths[i] = mem_strdup(paths[i]))) {
            st = ST_FAIL;
            goto out;
        }
        w->n_path++;
    }
    *out = w;
    w = NULL;
out:
    walk_close(w);
    return st;
}

/* Takes the next name of the innermost folder; *taken false when it led to another folder or to nothing. */
static status_t take_name(walk_t *w, bool *taken) {
    folder_t *f = w->stack + w->depth - 1;
    struct stat s;
    *taken = false;
    if (f->next == f->n) {
        pop(w);
        return ST_OK;
    }
    const char *name = f->names[f->next++]->d_name;
    size_t n = strlen(f->path);
    const char *slash = n && f->path[n - 1] == '/' ? "" : "/";
    if (snprintf(w->path, sizeof w->path, "%s%s%s", f->path, slash, name) >= (int)sizeof w->path)
        return status_fail(ST_INPUT, "%s: path too long; move the folder", f->path);
    status_t st = stat_path(w->path, &s);
    if (st) return st;
    if (S_ISDIR(s.st_mode)) return push(w, w->path, &s);
    *taken = S_ISREG(s.st_mode); /* sockets and pipes in a folder are nobody's text */
    f->files += *taken;
    return ST_OK;
}

status_t walk_next(walk_t *w, const char **path, bool *in_folder) {
    status_t st;
    struct stat s;
    *path = NULL;
    for (;;) {
        bool taken;
        if (w->depth) {
            if ((st = take_name(w, &taken))) return st;
            if (!taken) continue;
            *path = w->path;
            *in_folder = true;
            return ST_OK;
        }
        if (w->next == w->n_path) return ST_OK;
        const char *given = w->paths[w->next++];
        if (strcmp(given, "-")) {
            if ((st = stat_path(given, &s))) return st;
            if (S_ISDIR(s.st_mode)) {
                if ((st = push(w, given, &s))) return st;
                continue;
            }
        }
        *path = given;
        *in_folder = false;
        return ST_OK;
    }
}

void walk_close(walk_t *w) {
    if (!w) return;
    while (w->depth) pop(w);
    for (int i = 0; i < w->n_path; i++) mem_free(w->paths[i]);
    mem_free(w->paths);
    mem_free(w);
}
