/* store.json: what a store is for, written once, and the comparison that keeps segments of other settings out. */
#ifndef STORE_PROFILE_H
#define STORE_PROFILE_H

#include "store/store.h"

enum { STORE_VERSION = 1, PROFILE_SINK_MAX = 1 << 16 };

/* Of everything that addresses depend on. */
hash_t profile_hash(const store_profile_t *p);
/* Usable sizes and types? ST_INPUT naming the value. */
status_t profile_check(const store_profile_t *p, const char *where);
/* A copy with a sink of its own (profile_free). */
status_t profile_copy(const store_profile_t *p, store_profile_t *out);
void profile_free(store_profile_t *p);
/* ST_INPUT naming the first setting that differs, with both values. */
status_t profile_compare(const char *dir, const store_profile_t *have, const store_profile_t *want);

typedef enum { PROFILE_GOOD, PROFILE_MISSING, PROFILE_DAMAGED } profile_state_t;
/* Reads DIR/store.json. Missing and damaged are states with ST_OK (the message is set); another version is ST_INPUT. *out is filled when
 * good (profile_free). */
status_t profile_read(const char *dir, profile_state_t *state, store_profile_t *out);
/* The same from the text of a store.json, for which `path` is the name. */
status_t profile_parse(const char *path, const char *text, size_t bytes, profile_state_t *state, store_profile_t *out);
/* Writes DIR/store.json, atomically. */
status_t profile_write(const char *dir, const store_profile_t *p);

#endif
