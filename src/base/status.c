#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[STATUS_BYTES];

status_t status_fail(status_t code, const char *fmt, ...) {
    char text[STATUS_BYTES]; /* the arguments may point into the old message */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(message, text, sizeof text);
    return code;
}

status_t status_prefix(status_t code, const char *fmt, ...) {
    char text[STATUS_BYTES];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n >= 0 && n < STATUS_BYTES) snprintf(text + n, sizeof text - (size_t)n, "%s", message);
    memcpy(message, text, sizeof text);
    return code;
}

const char *status_message(void) { return message; }

void status_hold(char held[STATUS_BYTES]) { memcpy(held, message, STATUS_BYTES); }

void status_first(status_first_t *f, status_t st) {
    if (!st) return;
#pragma omp critical(status_first)
    if (!f->st) {
        f->st = st;
        status_hold(f->held);
    }
}

status_t status_first_tell(const status_first_t *f) { return f->st ? status_fail(f->st, "%s", f->held) : ST_OK; }
