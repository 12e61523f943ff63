#include "text/alphabet.h"

/* All characters of the alphabet are ASCII or two bytes long. */
bool alphabet_decode(const char *written, size_t n, char *out, size_t *out_n) {
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        uint8_t a = (uint8_t)written[i++];
        int32_t c = a;
        if (a >= 0x80) {
            if (a < 0xc2 || a > 0xdf || i == n || ((uint8_t)written[i] & 0xc0) != 0x80) return false;
            c = (a & 0x1f) << 6 | ((uint8_t)written[i++] & 0x3f);
        }
        int byte = alphabet_byte(c);
        if (byte < 0) return false;
        out[k++] = (char)byte;
    }
    *out_n = k;
    return true;
}
