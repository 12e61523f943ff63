/* Opens what a command runs in, in the only order that works: ranks, then log, threads and number type, then backend, then model. */
#include "cli/context.h"

#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/options_alike.h"
#include "cli/registry.h"
#include "io/file.h"
#include "io/utf8.h"

enum { SINK_MAX_BYTES = 16 << 20 };

/* f32 unless every rank is fast at bf16: the numbers must not depend on which rank computes them. */
static status_t dtype_choose(const options_t *o, comm_t *comm, dtype_t *out) {
    const char *name = opt_text(o, "dtype");
    int64_t slow = !backend_cpu_has_bf16();
    *out = DT_F32;
    if (!name) return ST_OK;
    if (!strcmp(name, "bf16")) *out = DT_BF16;
    if (strcmp(name, "auto")) return ST_OK;
    status_t st = comm->ops->max_i64(comm, &slow, 1);
    if (!st && !slow) *out = DT_BF16;
    return st;
}

status_t context_open(const options_t *o, bool ranks, context_t *c) {
    log_level_t level = opt_flag(o, "quiet") ? LOG_WARN : opt_flag(o, "verbose") ? LOG_DEBUG : LOG_INFO;
    *c = (context_t){.options = o, .n_threads = 1};
    status_t st = ranks ? registry_comm_open(&c->comm) : comm_self_create(&c->comm);
    if (st) return st;
    log_setup(c->comm->rank, c->comm->size, level);
    if ((st = comm_agree(c->comm, options_alike(o, c->comm)))) return st; /* what follows must be done by all ranks */
    st = threads_choose(o, c->comm, &c->n_threads);
    if (!st && ranks) registry_warn_launch(c->comm, c->n_threads);
    if (!st) st = dtype_choose(o, c->comm, &c->dtype);
    if (!st && ranks && opt_text(o, "backend")) st = registry_gpu_choose(opt_text(o, "backend"), c->comm, &c->gpu);
    return comm_agree(c->comm, st);
}

status_t context_open_file(context_t *c) {
    if (c->file) return ST_OK;
    status_t st = model_file_open(opt_text(c->options, "model"), &c->file);
    int64_t length = opt_int(c->options, "rope-length"); /* 0: not given, or no option of this command */
    if (!st && length) st = model_file_rope_length(c->file, length);
    return st ? st : adapter_open(opt_text(c->options, "adapter"), c->file, &c->adapter);
}

status_t context_open_backend(context_t *c) {
    if (c->backend) return ST_OK;
    status_t st = registry_backend_create(opt_text(c->options, "backend"), c->dtype, c->n_threads, c->gpu, &c->backend);
    if (!st)
        log_info("%d %s x %d %s: %s", c->comm->size, c->comm->size == 1 ? "rank" : "ranks", c->n_threads,
                 c->n_threads == 1 ? "thread" : "threads", c->backend->detail);
    return st;
}

static bool share_gpu(const options_t *o) { return strstr(options_command(o)->keys, "share-gpu") && opt_flag(o, "share-gpu"); }

status_t context_load_model(context_t *c) {
    if (c->model) return ST_OK;
    status_t st = context_open_file(c);
    if (!st) st = context_open_backend(c);
    if ((st = comm_agree(c->comm, st))) return st;
    if ((st = registry_device_open(c->comm, c->backend, share_gpu(c->options)))) return st;
    if (c->comm->size > 1 && !c->backend->host_memory)
        log_info("between GPUs: %s", c->comm->device ? c->comm->device->ops->name : "through pinned host memory");
    if ((st = model_load_adapted(c->file, c->adapter, c->backend, c->comm, &c->model))) return st;
    if (model_mixed(c->model)) log_info("ranks are unlike: %s; each gives its own bits", model_mixed(c->model));
    log_info("%s: loaded in %.2f s", model_file_path(c->file), model_load_s(c->model));
    return ST_OK;
}

void context_close(context_t *c) {
    model_free(c->model);
    adapter_free(c->adapter);
    model_file_close(c->file);
    if (c->comm) registry_device_close(c->comm);
    if (c->backend) c->backend->ops->destroy(c->backend);
    registry_comm_close(c->comm);
    *c = (context_t){0};
}

bool context_progress(const context_t *c) {
    const char *wish = opt_text(c->options, "progress");
    if (c->comm->rank != 0 || opt_flag(c->options, "quiet") || !wish || !strcmp(wish, "off")) return false;
    return !strcmp(wish, "on") || isatty(STDERR_FILENO) || log_wanted(LOG_INFO);
}

void context_warn_text(const char *where, const char *text) {
    size_t n = text ? strlen(text) : 0, good = n ? utf8_valid_bytes(text, n) : 0;
    if (good < n && log_first()) log_warn("%s: not UTF-8 at byte %zu; bad places become U+FFFD", where, good);
}

status_t context_sink_text(const options_t *o, char **text) {
    const char *sink = opt_text(o, "sink");
    size_t bytes;
    *text = NULL;
    if (!sink || !strcmp(sink, "none")) return ST_OK;
    if (sink[0] == '@') {
        status_t st = file_read_text(sink + 1, SINK_MAX_BYTES, text, &bytes);
        if (!st) context_warn_text(sink + 1, *text);
        return st;
    }
    context_warn_text("--sink", sink);
    *text = mem_strdup(sink);
    return *text ? ST_OK : status_fail(ST_FAIL, "out of memory for --sink");
}
