/* What a JSON tree cannot tell: how a member was written. For strings with NUL characters in them (C strings would end there), numbers
 * beyond 2^53, and lone surrogates, which other parsers let pass. The text has been found to be valid JSON before, except for json_mend.
 */
#ifndef IO_JSON_SPAN_H
#define IO_JSON_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The value of the last member `key` of a top-level object as written, quotes included. false when there is none. */
bool json_span(const char *text, size_t bytes, const char *key, const char **value, size_t *value_bytes);
/* The string between the quotes, its escapes resolved, to `to` (room for `bytes`). Returns its length. */
size_t json_unescape(const char *s, size_t bytes, char *to);
/* Replaces, in place, each \uD800 .. \uDFFF without its other half by \ufffd. Returns how many. */
int64_t json_mend(char *text, size_t bytes);

#endif
