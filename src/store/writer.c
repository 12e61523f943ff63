/* One thread that writes while the caller encodes. The two meet at one slot, which holds a group of segments:
 *
 *     encoder:  append(a) ........ append(b) ........ wait
 *     thread:      [ a: convert, write, sync, lines ] [ b .. ]
 *
 * append(b) waits until a is done, then hands b over. A failure stays in the writer and is the answer to every later call.
 * With more threads a group is split among lanes, each of which writes files of its own; the first has all threads for a segment alone.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "store/data.h"
#include "store/profile.h"

/* What the thread is given. */
typedef enum { DO_GROUP, DO_OPEN, DO_PART, DO_CLOSE } deed_t;

struct store_writer {
    char *dir;
    store_profile_t profile;
    data_out_t *lanes; /* [n_lane] */
    int n_lane, writer;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under lock */
    bool busy, stop;
    deed_t deed;
    store_item_t *items; /* [cap] the group at hand */
    int64_t n, cap;
    store_part_t parts[STORE_LAST_PARTS]; /* n of them */
    int64_t bytes;
    status_t failed;
    char message[1024];
};

static void failure_keep(store_writer_t *w, status_t st) {
    w->failed = st;
    snprintf(w->message, sizeof w->message, "%s", status_message());
}

static status_t lane_append(data_out_t *d, const store_item_t *items, int64_t n, int64_t *bytes) {
    status_t st = ST_OK;
    for (int64_t at = 0, done = 0; at < n && !st; at += done) st = data_append_some(d, items + at, n - at, &done, bytes);
    return st;
}

/* Every lane takes a stretch of the group. */
static status_t group_append(store_writer_t *w, int64_t *bytes) {
    int n = (int)i64_min(w->n_lane, w->n);
    status_first_t failed = {0};
    int64_t sum = 0;
    w->lanes[0].n_thread = n == 1 ? w->n_lane : 1;
#pragma omp parallel for schedule(static, 1) num_threads(n) reduction(+ : sum) if (n > 1)
    for (int i = 0; i < n; i++) {
        int64_t from = w->n * i / n, to = w->n * (i + 1) / n;
        status_first(&failed, lane_append(&w->lanes[i], w->items + from, to - from, &sum));
    }
    *bytes = sum;
    return status_first_tell(&failed);
}

static status_t deed_do(store_writer_t *w, int64_t *bytes) {
    data_out_t *d = &w->lanes[0];
    if (w->deed == DO_GROUP) return group_append(w, bytes);
    d->n_thread = w->n_lane;
    if (w->deed == DO_OPEN) return data_open_segment(d, w->items);
    return w->deed == DO_PART ? data_part(d, w->parts[0]) : data_close_segment(d, w->parts, (int)w->n, bytes);
}

static void *thread_run(void *arg) {
    store_writer_t *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->busy && !w->stop) pthread_cond_wait(&w->changed, &w->lock);
        if (!w->busy) break;
        pthread_mutex_unlock(&w->lock); /* the group is ours until busy is false again */
        int64_t bytes = 0;
        status_t st = deed_do(w, &bytes);
        pthread_mutex_lock(&w->lock);
        if (st) failure_keep(w, st);
        w->bytes += bytes;
        w->busy = false;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

static void writer_free(store_writer_t *w) {
    for (int i = 0; i < w->n_lane; i++) data_end(&w->lanes[i]);
    mem_free(w->lanes);
    profile_free(&w->profile);
    mem_free(w->items);
    mem_free(w->dir);
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    mem_free(w);
}

status_t store_writer_threads(store_writer_t *w, int n) {
    if (n <= w->n_lane) return ST_OK;
    status_t st = mem_grow(&w->lanes, (size_t)n, sizeof *w->lanes, "a store writer");
    for (; w->n_lane < n && !st; w->n_lane += !st) st = data_begin(&w->lanes[w->n_lane], w->dir, &w->profile, w->writer);
    return st;
}

status_t store_writer_open(const char *dir, const store_profile_t *p, int writer, store_writer_t **out) {
    store_writer_t *w;
    *out = NULL;
    status_t st = mem_zalloc(&w, 1, sizeof *w, "a store writer");
    if (st) return st;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    w->writer = writer;
    if (!(w->dir = mem_strdup(dir))) st = ST_FAIL;
    if (!st && !file_is_dir(dir)) st = status_fail(ST_INPUT, "%s is no folder; prepare the store before its writers", dir);
    if (!st) st = profile_check(p, dir);
    if (!st) st = profile_copy(p, &w->profile);
    if (!st) st = store_writer_threads(w, 1);
    if (!st && pthread_create(&w->thread, NULL, thread_run, w))
        st = status_fail(ST_FAIL, "cannot start the store's thread; raise the limit on processes (ulimit -u)");
    if (st)
        writer_free(w);
    else
        *out = w;
    return st;
}

/* With the lock held: nothing in flight; the failure, if there was one. */
static status_t idle_wait(store_writer_t *w) {
    while (w->busy) pthread_cond_wait(&w->changed, &w->lock);
    return w->failed ? status_fail(w->failed, "%s", w->message) : ST_OK;
}

/* Waits for the deed before, then gives the thread n items, or parts. */
static status_t deed_give(store_writer_t *w, deed_t deed, const store_item_t *items, const store_part_t *parts, int64_t n) {
    pthread_mutex_lock(&w->lock);
    status_t st = idle_wait(w);
    if (!st && items && n > w->cap) {
        st = mem_grow(&w->items, (size_t)n, sizeof *w->items, "a group of segments");
        if (!st) w->cap = n;
    }
    if (!st && (n || deed == DO_CLOSE)) {
        if (items) memcpy(w->items, items, (size_t)n * sizeof *items);
        w->deed = deed;
        for (int64_t i = 0; parts && i < n; i++) w->parts[i] = parts[i];
        w->n = n;
        w->busy = true;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return st;
}

status_t store_append_group(store_writer_t *w, const store_item_t *items, int64_t n) { return deed_give(w, DO_GROUP, items, NULL, n); }
status_t store_open_segment(store_writer_t *w, const store_item_t *item) { return deed_give(w, DO_OPEN, item, NULL, 1); }
status_t store_part(store_writer_t *w, store_part_t part) { return deed_give(w, DO_PART, NULL, &part, 1); }
status_t store_close_segment(store_writer_t *w, const store_part_t *last, int n) { return deed_give(w, DO_CLOSE, NULL, last, n); }
status_t store_append(store_writer_t *w, const store_item_t *item) { return store_append_group(w, item, 1); }

status_t store_writer_wait(store_writer_t *w) {
    pthread_mutex_lock(&w->lock);
    status_t st = idle_wait(w);
    pthread_mutex_unlock(&w->lock);
    return st;
}

int64_t store_writer_bytes(const store_writer_t *w) {
    pthread_mutex_t *lock = (pthread_mutex_t *)&w->lock;
    pthread_mutex_lock(lock);
    int64_t bytes = w->bytes;
    pthread_mutex_unlock(lock);
    return bytes;
}

status_t store_writer_close(store_writer_t *w) {
    if (!w) return ST_OK;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);        /* when it has written what it was given */
    for (int i = 0; i < w->n_lane; i++) { /* also after a failure: what was committed becomes complete files */
        status_t ended = data_finish(&w->lanes[i]);
        if (ended && !w->failed) failure_keep(w, ended);
    }
    status_t st = w->failed ? status_fail(w->failed, "%s", w->message) : ST_OK;
    writer_free(w);
    return st;
}
