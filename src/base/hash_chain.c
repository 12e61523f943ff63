/* XXH3-128 of more than 240 bytes, taken apart. Of each block of 1024 bytes, what its stripes of 64 add to eight lanes does not depend on
 * what came before:
 *
 *     lanes = start;   for each block: lanes = scramble(lanes + sum of its stripes);   then the last stripe again, and the ends
 *
 * so sums are made by any thread in any order, and the chain over them is 1/16 of the bytes. The last stripe has a key of its own.
 * The library hashes from the first byte to the last, by one thread; this is for what arrives and is written in parts, and a unit test
 * holds it against the library.
 */
#include <string.h>

#include "base/hash.h"

enum { KEY_BYTES = 192, BLOCK_STRIPES = HASH_BLOCK / HASH_STRIPE, SCRAMBLE_AT = 128, LAST_AT = 121, LOW_AT = 11, HIGH_AT = 117 };
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are read as they lie");

/* The default key of XXH3. */
static const unsigned char key[KEY_BYTES] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90,
    0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f, 0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d,
    0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c, 0x3c, 0x28,
    0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e,
    0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8, 0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b,
    0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64, 0xea, 0xc5, 0xac, 0x83,
    0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16,
    0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e, 0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e};
static const uint64_t P32_1 = 0x9E3779B1, P32_2 = 0x85EBCA77, P32_3 = 0xC2B2AE3D, P64_1 = 0x9E3779B185EBCA87, P64_2 = 0xC2B2AE3D27D4EB4F,
                      P64_3 = 0x165667B19E3779F9, P64_4 = 0x85EBCA77C2B2AE63, P64_5 = 0x27D4EB2F165667C5;

static inline uint64_t word(const unsigned char *p) {
    uint64_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

static inline uint64_t scrambled(uint64_t lane, uint64_t k) { return (lane ^ lane >> 47 ^ k) * P32_1; }

static inline void stripe_add(uint64_t *lane, const unsigned char *p, const unsigned char *k) {
    for (int i = 0; i < HASH_LANES; i++) {
        uint64_t w = word(p + 8 * i), x = w ^ word(k + 8 * i);
        lane[i ^ 1] += w;
        lane[i] += (x & 0xffffffff) * (x >> 32);
    }
}

void hash_sum(hash_sum_t *sums, size_t at, const void *data, size_t n) {
    const unsigned char *p = data;
    for (size_t s = at / HASH_STRIPE, end = (at + n) / HASH_STRIPE; s < end;) {
        size_t upto = (s / BLOCK_STRIPES + 1) * BLOCK_STRIPES;
        hash_sum_t *sum = &sums[s / BLOCK_STRIPES], mine = *sum; /* in registers */
        for (upto = upto < end ? upto : end; s < upto; s++, p += HASH_STRIPE) stripe_add(mine.lane, p, key + 8 * (s % BLOCK_STRIPES));
        *sum = mine;
    }
}

void hash_chain_begin(hash_chain_t *c) { *c = (hash_chain_t){{{P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1}}}; }

void hash_chain_add(hash_chain_t *c, const hash_sum_t *sums, size_t n) {
    for (size_t b = 0; b < n; b++)
        for (int i = 0; i < HASH_LANES; i++) c->at.lane[i] = scrambled(c->at.lane[i] + sums[b].lane[i], word(key + SCRAMBLE_AT + 8 * i));
}

static uint64_t folded(uint64_t a, uint64_t b) {
    __extension__ typedef unsigned __int128 wide_t;
    wide_t p = (wide_t)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

static uint64_t merged(const uint64_t *lane, const unsigned char *k, uint64_t start) {
    for (int i = 0; i < HASH_LANES; i += 2) start += folded(lane[i] ^ word(k + 8 * i), lane[i + 1] ^ word(k + 8 * i + 8));
    start = (start ^ start >> 37) * 0x165667919E3779F9;
    return start ^ start >> 32;
}

hash_t hash_chain_end(const hash_chain_t *c, const hash_sum_t *rest, const void *stripe, size_t bytes) {
    uint64_t lane[HASH_LANES];
    for (int i = 0; i < HASH_LANES; i++) lane[i] = c->at.lane[i] + rest->lane[i];
    stripe_add(lane, stripe, key + LAST_AT);
    return (hash_t){merged(lane, key + LOW_AT, bytes * P64_1), merged(lane, key + HIGH_AT, ~(bytes * P64_2))};
}
