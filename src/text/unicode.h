/* The few questions about characters that HF's added tokens and templates ask. */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* The character at s, of valid UTF-8; *n is its length in bytes. */
int32_t unicode_at(const char *s, size_t *n);
/* The character that ends before s + at (at > 0). */
int32_t unicode_before(const char *s, size_t at, size_t *n);

bool unicode_is_space(int32_t c); /* White_Space: what `\s` is to HF's regular expressions */
bool unicode_is_word(int32_t c);  /* what `\w` is to them */

/* White space as a part of a character class of a regular expression, and all but it; explicit, as engines and their Unicode versions
 * differ. */
#define UNICODE_SPACE "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define UNICODE_NOT_SPACE                                                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}"  \
    "\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"

/* Normalisation form C of valid UTF-8, appended to a buffer that grows. */
typedef struct {
    char *s;
    size_t n, cap;
} utf8_t;
status_t unicode_nfc(const char *s, size_t n, utf8_t *out);
/* Could NFC change it? false is certain, and quick. */
bool unicode_may_change(const char *s, size_t n);

#endif
