/* One status type for the whole program: its values are the process's exit codes.
 *
 * The message is worded once, where the error is decided, and ends with what to do next; callers pass the code up
 * untouched and may put a prefix (a file's name, a document's id) before it.
 *
 *     status_t st = gguf_open(path, &g);
 *     if (st) goto out;                       // message already set
 *     if (n > MAX) { st = status_fail(ST_INPUT, "%s: %lld rows, at most %d; cut the file", path, n, MAX); goto out; }
 */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

typedef enum {
    ST_OK = 0,
    ST_FAIL = 1,    /* the run failed: out of memory, I/O error, a peer lost */
    ST_USAGE = 2,   /* the command line or configuration is wrong */
    ST_INPUT = 3,   /* a model, corpus, store or prompt file is missing or bad */
    ST_STOPPED = 75 /* a signal or time limit stopped us; work is saved, run the same command again (EX_TEMPFAIL) */
} status_t;

/* Sets this thread's message and returns `code`. */
status_t status_fail(status_t code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Puts words before the present message ("corpus.jsonl line 7: "), returns `code`. */
status_t status_prefix(status_t code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* This thread's last message ("" when none); valid until the next call on this thread. */
const char *status_message(void);
/* A copy of it, to be said again behind calls that may fail, too, or by another thread: status_fail(st, "%s", held). */
enum { STATUS_BYTES = 2048 };
void status_hold(char held[STATUS_BYTES]);

/* The first failure of threads that work on one thing, whose messages are their own. Zero at first. */
typedef struct {
    status_t st;
    char held[STATUS_BYTES];
} status_first_t;
void status_first(status_first_t *f, status_t st);   /* by each thread, ST_OK or not */
status_t status_first_tell(const status_first_t *f); /* behind them all */

#endif
