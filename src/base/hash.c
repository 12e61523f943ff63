#include "base/hash.h"

#include <stdio.h>
#include <string.h>
#include <xxhash.h>

hash_t hash_bytes(const void *p, size_t n) {
    XXH128_hash_t h = XXH3_128bits(p, n);
    return (hash_t){h.low64, h.high64};
}

hash_state_t *hash_create(void) {
    XXH3_state_t *s = XXH3_createState();
    if (s) XXH3_128bits_reset(s);
    return (hash_state_t *)s;
}

void hash_add(hash_state_t *h, const void *p, size_t n) { XXH3_128bits_update((XXH3_state_t *)h, p, n); }

hash_t hash_finish(hash_state_t *h) {
    XXH128_hash_t d = XXH3_128bits_digest((XXH3_state_t *)h);
    XXH3_freeState((XXH3_state_t *)h);
    return (hash_t){d.low64, d.high64};
}

void hash_hex(hash_t h, char out[HASH_HEX]) {
    snprintf(out, HASH_HEX, "%016llx%016llx", (unsigned long long)h.hi, (unsigned long long)h.lo);
}

bool hash_parse(const char *hex, hash_t *out) {
    uint64_t half[2] = {0, 0};
    for (int i = 0; i < 32; i++) {
        char c = hex[i];
        int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (v < 0) return false;
        half[i / 16] = half[i / 16] << 4 | (uint64_t)v;
    }
    if (hex[32]) return false;
    *out = (hash_t){half[1], half[0]};
    return true;
}
