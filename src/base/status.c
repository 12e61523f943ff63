#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_MAX = 2048 };
static _Thread_local char message[MESSAGE_MAX];

status_t status_fail(status_t code, const char *fmt, ...) {
    char text[MESSAGE_MAX]; /* the arguments may point into the old message */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(message, text, sizeof text);
    return code;
}

status_t status_prefix(status_t code, const char *fmt, ...) {
    char text[MESSAGE_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n >= 0 && n < MESSAGE_MAX) snprintf(text + n, sizeof text - (size_t)n, "%s", message);
    memcpy(message, text, sizeof text);
    return code;
}

const char *status_message(void) { return message; }
