/* What a query on as many ranks will take, before the store is there: beside encode/plan.h, from the same figures. Arithmetic alone. */
#ifndef QUERY_PLAN_H
#define QUERY_PLAN_H

#include "encode/plan.h"

enum { PLAN_PROMPT = 256 }; /* tokens of a prompt */

typedef struct {
    size_t mapped;   /* of the store, by each rank, where it lies: the system takes it back at need */
    size_t work;     /* work space, K/V of the prompt, and copies of the store's K/V that a layout needs */
    size_t resident; /* what top and getrusage show of a rank: all of the weights it shares, the model's file, the store and its own */
    size_t wire_row; /* partial results that each rank receives for one query row, all layers */
} query_plan_t;

void query_plan(const model_config_t *c, const encode_plan_in_t *in, const encode_plan_t *encode, query_plan_t *out);

#endif
