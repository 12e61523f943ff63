/* Messages for people, on stderr; stdout carries results alone.
 *
 *     precis: info: 40 segments in the store, 12 to encode
 *     precis[3/8]: warning: ...                               (ranks other than the only one say who they are)
 *
 * Ranks other than 0 print warnings and errors only. Lines are written whole, in one write.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

typedef enum { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level_t;

void log_setup(int rank, int size, log_level_t level); /* before it: rank 0 of 1, LOG_INFO */
bool log_wanted(log_level_t level);                    /* would it be printed on this rank? */
void log_line(log_level_t level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* What every rank finds alike is said by one: `if (log_first()) log_warn(...)`. */
bool log_first(void);

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
