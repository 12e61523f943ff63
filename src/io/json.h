/* JSON: reading through cJSON with nesting and size limits and typed look-ups; writing results line by line without building a tree.
 *
 * Writer:  json_out_t j; json_begin(&j, stdout);
 *          json_open(&j, NULL, '{'); json_str(&j, "id", "a"); json_open(&j, "tokens", '['); json_int(&j, NULL, 5); json_close(&j);
 * json_close(&j); json_end(&j); prints one line {"id":"a","tokens":[5]} (no blanks). Strings must be UTF-8 (bad bytes are replaced by
 * U+FFFD, so that the line is always valid JSON).
 */
#ifndef IO_JSON_H
#define IO_JSON_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/status.h"

/* ST_INPUT with name and the byte offset when it is no JSON value (trailing white space allowed). The caller frees with cJSON_Delete. */
status_t json_parse(const char *text, size_t bytes, const char *name, cJSON **out);
/* Walk of the children: O(n), so not for vocabularies. NULL when absent. Accept NULL objects. */
const cJSON *json_get(const cJSON *o, const char *key);
const char *json_get_str(const cJSON *o, const char *key);        /* NULL when absent or no string */
bool json_get_i64(const cJSON *o, const char *key, int64_t *out); /* whole numbers within 2^53 */
bool json_get_f64(const cJSON *o, const char *key, double *out);
bool json_get_bool(const cJSON *o, const char *key, bool *out);

typedef struct {
    FILE *f;
    char close[64]; /* what each open level closes with */
    bool first[64];
    int depth;
} json_out_t;
void json_begin(json_out_t *j, FILE *f);
void json_open(json_out_t *j, const char *key, char bracket); /* '{' or '['; key is NULL inside arrays and at the top */
void json_close(json_out_t *j);
void json_str(json_out_t *j, const char *key, const char *s);
void json_strn(json_out_t *j, const char *key, const char *s, size_t n);
void json_int(json_out_t *j, const char *key, int64_t v);
void json_num(json_out_t *j, const char *key, double v); /* shortest text that reads back equal; NaN and infinity as null */
void json_bool(json_out_t *j, const char *key, bool v);
void json_raw(json_out_t *j, const char *key, const cJSON *v); /* any value as it was read (an "id" that was a number stays one) */
void json_end(json_out_t *j);                                  /* closes what is open, newline, checks nothing; ferror(f) tells */

#endif
