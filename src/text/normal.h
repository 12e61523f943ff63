/* Normaliser: what is done to text before it is cut, step by step. */
#ifndef TEXT_NORMAL_H
#define TEXT_NORMAL_H

#include "text/unicode.h"

enum { NORMAL_STEPS_MAX = 8, NORMAL_TEXT_MAX = 64 };

typedef enum {
    NORMAL_NFC,
    NORMAL_PREPEND, /* `to` goes before a text that is not empty */
    NORMAL_REPLACE  /* each `from`, from the left, becomes `to` */
} normal_kind_t;

typedef struct {
    struct {
        normal_kind_t kind;
        char from[NORMAL_TEXT_MAX], to[NORMAL_TEXT_MAX];
        size_t from_n, to_n;
    } step[NORMAL_STEPS_MAX];
    int n;
} normal_t;

typedef struct {
    utf8_t text[2];
} normal_work_t; /* buffers of one thread; zero it first */
void normal_work_free(normal_work_t *w);

/* ST_INPUT for too many steps, too long a text. from and to may be NULL where the kind has none. */
status_t normal_add(normal_t *z, normal_kind_t kind, const char *from, const char *to, const char *name);
bool normal_has(const normal_t *z, normal_kind_t kind);
/* text[0..n) becomes another text, in the work's memory until the next call; where nothing changes it stays. */
status_t normal_run(const normal_t *z, normal_work_t *w, const char **text, size_t *n);

#endif
