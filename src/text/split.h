/* Pre-tokeniser: cuts text into the pieces that are merged each by itself, by one or more regular expressions in a row.
 *
 *     "In 1984 ..."  --\p{N}-->  "In " "1" "9" "8" "4" " ..."  --GPT-2's-->  "In" " " "1" "9" "8" "4" " ..."
 *
 * Each step cuts the pieces of the step before; a step sees nothing beyond its piece. Patterns are in HF's dialect (Oniguruma); what would
 * mean another thing to PCRE2 is rewritten or refused.
 */
#ifndef TEXT_SPLIT_H
#define TEXT_SPLIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

extern const char SPLIT_GPT2[], SPLIT_LLAMA3[], SPLIT_QWEN2[], SPLIT_DIGIT[], SPLIT_DIGITS[];

enum { SPLIT_STEPS_MAX = 8, SPLIT_PATTERN_MAX = 4096 };

typedef struct {
    struct {
        void *code;
        bool matches_only;
    } step[SPLIT_STEPS_MAX];
    int n;
} split_t;
typedef struct split_work split_work_t; /* of one thread */

/* matches_only: text between matches is thrown away (HF: behavior Removed, inverted); otherwise it makes pieces too (Isolated). */
status_t split_add(split_t *s, const char *pattern, size_t n, bool matches_only, const char *name);
void split_free(split_t *s);

status_t split_work_create(split_work_t **out);
void split_work_free(split_work_t *w);

typedef status_t (*split_fn)(void *ctx, const uint8_t *piece, size_t n);
/* text must be valid UTF-8. Calls fn for each piece, from left to right. */
status_t split_run(const split_t *s, split_work_t *w, const char *text, size_t n, split_fn fn, void *ctx);

#endif
