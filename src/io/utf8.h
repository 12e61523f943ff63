/* UTF-8, one sequence at a time, with Python's idea of what a bad one is (Unicode's "maximal subpart" practice). */
#ifndef IO_UTF8_H
#define IO_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* The length (1 .. 4) of the sequence at s[0], n >= 1 bytes left; *ok false: these bytes are bad and stand for one U+FFFD together. */
size_t utf8_step(const char *s, size_t n, bool *ok);
/* Bytes before the first bad sequence; n when there is none. */
size_t utf8_valid_bytes(const char *s, size_t n);

#endif
