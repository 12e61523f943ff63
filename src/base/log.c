#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static int my_rank, n_ranks = 1;
static log_level_t threshold = LOG_INFO;

void log_setup(int rank, int size, log_level_t level) {
    my_rank = rank;
    n_ranks = size;
    threshold = level;
}

bool log_wanted(log_level_t level) { return level <= threshold && (my_rank == 0 || level <= LOG_WARN); }

bool log_first(void) { return my_rank == 0; }

void log_line(log_level_t level, const char *fmt, ...) {
    static const char *const name[] = {"error", "warning", "info", "debug"};
    if (!log_wanted(level)) return;
    char line[4096];
    int n = n_ranks > 1 ? snprintf(line, 64, "precis[%d/%d]: %s: ", my_rank, n_ranks, name[level])
                        : snprintf(line, 64, "precis: %s: ", name[level]);
    va_list ap;
    va_start(ap, fmt);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
    va_end(ap);
    if (m < 0) return;
    n = n + m < (int)sizeof line - 1 ? n + m : (int)sizeof line - 2;
    line[n++] = '\n';
    fflush(stdout);
    ssize_t written = write(STDERR_FILENO, line, (size_t)n); /* one write: lines of ranks do not mix */
    (void)written;
}
