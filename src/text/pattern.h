/* Regular expressions of HF's tokenizer files, for PCRE2. */
#ifndef TEXT_PATTERN_H
#define TEXT_PATTERN_H

#include <stddef.h>

#include "base/status.h"

/* Rewrites a pattern from Oniguruma's dialect; out is NUL-terminated. ST_INPUT naming the part that is not known to mean the same in both.
 */
status_t pattern_to_pcre(const char *pattern, size_t n, char *out, size_t cap, const char *name);

#endif
