#include "encode/reader.h"

#include <stdio.h>

static void *thread_run(void *arg) {
    reader_t *r = arg;
    r->status = round_read(r->spec, r->corpus, &r->next);
    if (r->status) snprintf(r->message, sizeof r->message, "%s", status_message()); /* messages are a thread's own */
    return NULL;
}

void reader_ahead(reader_t *r) { r->running = !pthread_create(&r->thread, NULL, thread_run, r); }

status_t reader_take(reader_t *r, round_t *out) {
    if (!r->running) return round_read(r->spec, r->corpus, out);
    pthread_join(r->thread, NULL);
    r->running = false;
    round_t used = *out;
    *out = r->next;
    r->next = used;
    return r->status ? status_fail(r->status, "%s", r->message) : ST_OK;
}

void reader_end(reader_t *r) {
    if (r->running) {
        corpus_give_up(r->corpus); /* nobody wants the round, and a pipe may stay silent for ever */
        pthread_join(r->thread, NULL);
    }
    r->running = false;
    round_free(&r->next);
}
