/* oneDNN matmul: y[M][N] = x[M][K] W^T, W packed once in the library's own blocked layout.
 *
 * The layout is asked for once per shape (format "any" at a typical M) and then prescribed for every M, so one packed copy serves prefill
 * and decode. Primitives are kept per (shape, M, add): after the first pass over a model nothing is created any more.
 *
 * Only implementations named "brg:" are used: each element of y is there one chain over K whose order does not depend on M or on threads.
 * The gemm:jit path that the library takes without AVX-512 does not have this property.
 */
#include "backend/cpu_dnnl.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#if defined(HAVE_ONEDNN)
#include <oneapi/dnnl/dnnl.h>
#endif

#if defined(HAVE_ONEDNN) && DNNL_VERSION_MAJOR == 2

enum { TYPICAL_M = 256, MAX_SHAPES = 64, MAX_PRIMITIVES = 512 };

typedef struct {
    linear_shape_t shape;
    bool good;            /* brgemm for few and for many rows */
    dnnl_memory_desc_t w; /* packed layout */
} shape_t;

typedef struct {
    linear_shape_t shape;
    int64_t m;
    bool add;
    dnnl_primitive_t primitive;
    dnnl_memory_t x, w, y;
} product_t;

struct cpu_dnnl {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_data_type_t type;
    int n_threads;
    int n_shape, n_product, next_victim;
    shape_t shapes[MAX_SHAPES];
    product_t products[MAX_PRIMITIVES];
};

#ifdef _OPENMP
#include <omp.h>
static void threads_set(int n) { omp_set_num_threads(n); }
#else
static void threads_set(int n) { (void)n; }
#endif

static status_t failed(dnnl_status_t e, const char *what) {
    return status_fail(ST_FAIL, "oneDNN could not %s (its status %d); build with ONEDNN=0 to do without it", what, (int)e);
}

const char *cpu_dnnl_version(void) {
    static char text[32];
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, sizeof text, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    return text;
}

status_t cpu_dnnl_create(dtype_t act, int n_threads, cpu_dnnl_t **out) {
    *out = NULL;
    int need = act == DT_BF16 ? dnnl_cpu_isa_avx512_core_bf16 : dnnl_cpu_isa_avx512_core;
    if (((int)dnnl_get_effective_cpu_isa() & need) != need) return ST_OK;
    cpu_dnnl_t *d;
    status_t st = mem_zalloc(&d, 1, sizeof *d, "the oneDNN state");
    if (st) return st;
    d->type = act == DT_BF16 ? dnnl_bf16 : dnnl_f32;
    d->n_threads = n_threads;
    dnnl_status_t e = dnnl_engine_create(&d->engine, dnnl_cpu, 0);
    if (!e) e = dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags);
    if (e) {
        cpu_dnnl_free(d);
        return failed(e, "start");
    }
    *out = d;
    return ST_OK;
}

static void product_free(product_t *p) {
    dnnl_primitive_destroy(p->primitive);
    dnnl_memory_destroy(p->x);
    dnnl_memory_destroy(p->w);
    dnnl_memory_destroy(p->y);
    memset(p, 0, sizeof *p);
}

void cpu_dnnl_free(cpu_dnnl_t *d) {
    if (!d) return;
    for (int i = 0; i < d->n_product; i++) product_free(&d->products[i]);
    if (d->stream) dnnl_stream_destroy(d->stream);
    if (d->engine) dnnl_engine_destroy(d->engine);
    mem_free(d);
}

/* The primitive descriptor of a product; w NULL: the library chooses the layout. */
static dnnl_status_t describe(cpu_dnnl_t *d, linear_shape_t s, int64_t m, bool add, const dnnl_memory_desc_t *w,
                              dnnl_primitive_desc_t *out) {
    dnnl_dims_t xd = {m, s.n_in}, wd = {s.n_in, s.n_out}, yd = {m, s.n_out};
    dnnl_memory_desc_t x, any, y;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t sum = NULL;
    dnnl_status_t e = dnnl_memory_desc_init_by_tag(&x, 2, xd, d->type, dnnl_ab);
    if (!e) e = dnnl_memory_desc_init_by_tag(&any, 2, wd, d->type, dnnl_format_tag_any);
    if (!e) e = dnnl_memory_desc_init_by_tag(&y, 2, yd, dnnl_f32, dnnl_ab);
    if (!e) e = dnnl_matmul_desc_init(&desc, &x, w ? w : &any, NULL, &y);
    if (!e) e = dnnl_primitive_attr_create(&attr);
    if (!e && add) {
        e = dnnl_post_ops_create(&sum);
        if (!e) e = dnnl_post_ops_append_sum(sum, 1.0f);
        if (!e) e = dnnl_primitive_attr_set_post_ops(attr, sum);
    }
    threads_set(d->n_threads);
    if (!e) e = dnnl_primitive_desc_create(out, &desc, attr, d->engine, NULL);
    if (sum) dnnl_post_ops_destroy(sum);
    if (attr) dnnl_primitive_attr_destroy(attr);
    return e;
}

static bool is_brgemm(const_dnnl_primitive_desc_t pd) {
    const char *name = NULL;
    return dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name) == dnnl_success && name && !strncmp(name, "brg:", 4);
}

static bool shape_good(cpu_dnnl_t *d, shape_t *e) {
    dnnl_primitive_desc_t pd;
    if (describe(d, e->shape, TYPICAL_M, false, NULL, &pd)) return false;
    bool good = is_brgemm(pd);
    const dnnl_memory_desc_t *w = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    if (w) e->w = *w;
    good = good && w && w->format_kind == dnnl_blocked;
    dnnl_primitive_desc_destroy(pd);
    if (!good || describe(d, e->shape, 1, false, &e->w, &pd)) return false;
    good = is_brgemm(pd);
    dnnl_primitive_desc_destroy(pd);
    return good;
}

static const shape_t *shape_find(cpu_dnnl_t *d, linear_shape_t s) {
    for (int i = 0; i < d->n_shape; i++)
        if (d->shapes[i].shape.n_out == s.n_out && d->shapes[i].shape.n_in == s.n_in) return &d->shapes[i];
    if (d->n_shape == MAX_SHAPES) return NULL; /* more shapes than any model has: our own kernel takes the rest */
    shape_t *e = &d->shapes[d->n_shape++];
    e->shape = s;
    e->good = shape_good(d, e);
    return e;
}

size_t cpu_dnnl_bytes(cpu_dnnl_t *d, linear_shape_t s) {
    const shape_t *e = shape_find(d, s);
    return e && e->good ? dnnl_memory_desc_get_size(&e->w) : 0;
}

status_t cpu_dnnl_pack(cpu_dnnl_t *d, linear_shape_t s, void *packed, int64_t row0, int64_t n_row, const void *w) {
    const shape_t *e = shape_find(d, s);
    dnnl_dims_t dims = {s.n_in, n_row}, strides = {1, s.n_in}, offsets = {0, row0};
    dnnl_memory_desc_t from, to;
    dnnl_memory_t src = NULL, dst = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t reorder = NULL;
    dnnl_status_t err = dnnl_memory_desc_init_by_strides(&from, 2, dims, d->type, strides);
    threads_set(d->n_threads);
    if (!err) err = dnnl_memory_desc_init_submemory(&to, &e->w, dims, offsets);
    if (!err) err = dnnl_memory_create(&src, &from, d->engine, (void *)w);
    if (!err) err = dnnl_memory_create(&dst, &to, d->engine, packed);
    if (!err) err = dnnl_reorder_primitive_desc_create(&pd, &from, d->engine, &to, d->engine, NULL);
    if (!err) err = dnnl_primitive_create(&reorder, pd);
    if (!err) {
        dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, src}, {DNNL_ARG_TO, dst}};
        err = dnnl_primitive_execute(reorder, d->stream, 2, args);
    }
    if (!err) err = dnnl_stream_wait(d->stream);
    if (reorder) dnnl_primitive_destroy(reorder);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (src) dnnl_memory_destroy(src);
    if (dst) dnnl_memory_destroy(dst);
    return err ? failed(err, "pack a weight") : ST_OK;
}

static dnnl_status_t product_create(cpu_dnnl_t *d, const shape_t *e, int64_t m, bool add, product_t *p) {
    dnnl_primitive_desc_t pd;
    dnnl_status_t err = describe(d, e->shape, m, add, &e->w, &pd);
    if (err) return err;
    *p = (product_t){.shape = e->shape, .m = m, .add = add};
    err = dnnl_primitive_create(&p->primitive, pd);
    if (!err) err = dnnl_memory_create(&p->x, dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0), d->engine, DNNL_MEMORY_NONE);
    if (!err) err = dnnl_memory_create(&p->w, &e->w, d->engine, DNNL_MEMORY_NONE);
    if (!err) err = dnnl_memory_create(&p->y, dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0), d->engine, DNNL_MEMORY_NONE);
    dnnl_primitive_desc_destroy(pd);
    if (err) product_free(p);
    return err;
}

static dnnl_status_t product_find(cpu_dnnl_t *d, linear_shape_t s, int64_t m, bool add, product_t **out) {
    for (int i = 0; i < d->n_product; i++) {
        product_t *p = &d->products[i];
        if (p->m == m && p->add == add && p->shape.n_out == s.n_out && p->shape.n_in == s.n_in) {
            *out = p;
            return dnnl_success;
        }
    }
    product_t fresh;
    dnnl_status_t err = product_create(d, shape_find(d, s), m, add, &fresh);
    if (err) return err;
    int at = d->n_product;
    if (at == MAX_PRIMITIVES) {
        at = d->next_victim;
        d->next_victim = (at + 1) % MAX_PRIMITIVES;
        product_free(&d->products[at]);
    } else {
        d->n_product++;
    }
    d->products[at] = fresh;
    *out = &d->products[at];
    return dnnl_success;
}

status_t cpu_dnnl_linear(cpu_dnnl_t *d, linear_shape_t s, const void *packed, int64_t n_row, const void *x, float *y, bool add) {
    product_t *p;
    threads_set(d->n_threads);
    dnnl_status_t err = product_find(d, s, n_row, add, &p);
    if (err) return failed(err, "make a matrix product");
    err = dnnl_memory_set_data_handle(p->x, (void *)x);
    if (!err) err = dnnl_memory_set_data_handle(p->w, (void *)packed);
    if (!err) err = dnnl_memory_set_data_handle(p->y, y);
    if (!err) {
        dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, p->x}, {DNNL_ARG_WEIGHTS, p->w}, {DNNL_ARG_DST, p->y}};
        err = dnnl_primitive_execute(p->primitive, d->stream, 3, args);
    }
    if (!err) err = dnnl_stream_wait(d->stream);
    return err ? failed(err, "run a matrix product") : ST_OK;
}

#else

const char *cpu_dnnl_version(void) { return "no oneDNN"; }

status_t cpu_dnnl_create(dtype_t act, int n_threads, cpu_dnnl_t **out) {
    (void)act;
    (void)n_threads;
    *out = NULL;
    return ST_OK;
}
void cpu_dnnl_free(cpu_dnnl_t *d) { (void)d; }
size_t cpu_dnnl_bytes(cpu_dnnl_t *d, linear_shape_t s) {
    (void)d;
    (void)s;
    return 0;
}
status_t cpu_dnnl_pack(cpu_dnnl_t *d, linear_shape_t s, void *packed, int64_t row0, int64_t n_row, const void *w) {
    (void)d, (void)s, (void)packed, (void)row0, (void)n_row, (void)w;
    return status_fail(ST_FAIL, "built without oneDNN");
}
status_t cpu_dnnl_linear(cpu_dnnl_t *d, linear_shape_t s, const void *packed, int64_t n_row, const void *x, float *y, bool add) {
    (void)d, (void)s, (void)packed, (void)n_row, (void)x, (void)y, (void)add;
    return status_fail(ST_FAIL, "built without oneDNN");
}

#endif
