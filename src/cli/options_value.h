/* The values behind options_t: private to options.c, options_value.c and options_file.c. */
#ifndef CLI_OPTIONS_VALUE_H
#define CLI_OPTIONS_VALUE_H

#include "cli/options.h"

typedef enum { FROM_NOWHERE, FROM_DEFAULT, FROM_FILE, FROM_ENVIRONMENT, FROM_FLAG } source_t;

typedef struct {
    source_t from;
    char *text;    /* as given */
    int64_t whole; /* OPT_INT, OPT_SIZE, OPT_FLAG */
    double real;
    int64_t *items; /* OPT_INT_LIST */
    int n_item;
} value_t;

/* Replaces *v. ST_USAGE with `where` ("--segment", "PRECIS_SEGMENT", "x.conf line 3: segment") in front; *v is untouched then. */
status_t value_set(value_t *v, const option_t *opt, const char *text, source_t from, const char *where);
void value_clear(value_t *v);

/* Calls set for each `key = value` line. Keys and values are the callee's to check. */
typedef status_t (*config_line_fn)(void *ctx, const char *path, int line, const char *key, const char *value);
status_t config_read(const char *path, config_line_fn set, void *ctx);

#endif
