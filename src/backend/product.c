/* How fast a backend multiplies matrices, by its own operations. */
#include <math.h>

#include "backend/backend.h"
#include "base/clock.h"

status_t backend_product_rate(backend_t *be, int64_t side, int tries, double *flops) {
    linear_shape_t s = {side, side, false};
    size_t cells = (size_t)(side * side);
    void *w = NULL, *x = NULL, *y = NULL, *packed = NULL;
    linear_t *l = NULL;
    *flops = 0;
    status_t st = be->ops->alloc(be, cells * 4, "a product", &w);
    if (!st) st = be->ops->alloc(be, cells * 4, "a product", &x);
    if (!st) st = be->ops->alloc(be, cells * 4, "a product", &y);
    if (!st) st = be->ops->alloc(be, be->ops->linear_bytes(be, s), "a product", &packed);
    if (!st) st = be->ops->fill(be, 1, 0, 1, cells, w);
    if (!st) st = be->ops->fill(be, 2, 0, 1, cells, x);
    if (!st) st = be->ops->linear_pack(be, s, packed, 0, side, be->act, w);
    if (!st) st = be->ops->linear_open(be, s, packed, &l);
    if (!st) st = be->ops->sync(be);
    for (int i = 0; i < tries && !st; i++) {
        double t = clock_s();
        st = be->ops->linear(be, l, side, x, y, false);
        if (!st) st = be->ops->sync(be);
        *flops = fmax(*flops, 2 * (double)cells * (double)side / (clock_s() - t));
    }
    if (l) be->ops->linear_close(be, l);
    void *each[] = {w, x, y, packed};
    for (int i = 0; i < 4; i++) be->ops->free(be, each[i]);
    return st;
}
