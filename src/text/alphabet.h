/* The byte-level alphabet of GPT-2: every byte has one printable character, so that vocabularies can be written as text.
 *
 *     bytes 33..126, 161..172, 174..255     themselves
 *     the other 68, in order                U+0100 .. U+0143        (blank is U+0120, newline U+010A)
 */
#ifndef TEXT_ALPHABET_H
#define TEXT_ALPHABET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The byte that a character stands for, -1 when it is not of the alphabet. */
static inline int alphabet_byte(int32_t c) {
    if ((c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255)) return c;
    if (c < 256 || c >= 256 + 68) return -1;
    int k = c - 256;
    return k <= 32 ? k : k < 67 ? 127 + (k - 33) : 173;
}

/* Writes the bytes that `written` (UTF-8) stands for to out (at most n of them; may be the same memory). false, and out is spoilt, when a
 * character is not of the alphabet or the text is not UTF-8. */
bool alphabet_decode(const char *written, size_t n, char *out, size_t *out_n);

#endif
