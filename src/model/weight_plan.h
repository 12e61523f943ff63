/* What is where in the block of packed weights: a list of items in the order in which they lie there, each with the parts of the file (and
 * of an adapter) that it is made of and the pointer in the model that it becomes. weights.c reads and packs what the list says. */
#ifndef MODEL_WEIGHT_PLAN_H
#define MODEL_WEIGHT_PLAN_H

#include "model/model_impl.h"

typedef enum { ITEM_LINEAR, ITEM_TABLE, ITEM_VECTOR } item_kind_t;
enum { MAX_PARTS = 3 };

typedef struct {
    item_kind_t kind;
    const weight_t *parts[MAX_PARTS]; /* rows one after the other */
    const lora_t *lora[MAX_PARTS];    /* factors whose product is added to a part's rows; NULL: none */
    int n_part;
    int64_t rank[MAX_PARTS]; /* of a diagonal item's parts: their columns; 0: a part of zeros */
    bool diagonal;           /* a part's columns stand behind those of the parts before it, zeros elsewhere */
    linear_shape_t shape;    /* all rows, columns; a vector: 1 x length. May be larger than the parts: then zeros fill it up */
    size_t offset, bytes;    /* in the block */
    void *target;            /* the pointer in model_t to set */
} item_t;

typedef struct {
    item_t *items;
    int64_t n, cap;
    size_t bytes;
    backend_t *be;
    weight_t *own; /* [n_layer][OWN_WEIGHTS] what an adapter's items point to; NULL without one */
} weight_plan_t;

/* m: where the pointers go, its adapter's items among them; a scratch model when only the size is wanted. On failure too, weight_plan_free.
 */
status_t weight_plan_make(const model_file_t *f, backend_t *be, model_t *m, weight_plan_t *p);
void weight_plan_free(weight_plan_t *p);

#endif
