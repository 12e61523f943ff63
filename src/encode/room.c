/* K/V that are larger than the device go to host memory by plan: decided from what is free before a document begins, and told. Passes then
 * work on two layers at a time (spill.h), with the same bits. Documents that ranks share work on two layers anyway (sharded.h), and what
 * goes between ranks lies there, so each rank decides for itself where it keeps its part.
 */
#include "base/log.h"
#include "base/mem.h"
#include "encode/job.h"
#include "encode/spill.h"

static double kv_of(const job_t *j, int64_t rows) { return 2 * (double)kv_bytes(j->config, j->be->act, rows); }

/* What the choice of rows of a segment of n tokens takes of the device, and K/V rows that it adds. */
static double picker_room(const job_t *j, int64_t n, int64_t *rows) {
    picker_spec_t spec = batch_picker(j, n);
    *rows = j->spec->kept.select.ratio ? picker_kv_rows(&spec) : 0;
    return j->spec->kept.select.ratio ? (double)picker_device_bytes(j->config, j->be->act, &spec) : 0;
}

/* What the device could hold, were the buffers that are there given back. */
static bool room_bytes(const job_t *j, double *room, double *total) {
    size_t left, all;
    int64_t rows = 0;
    j->be->ops->memory_left(j->be, &left, &all);
    if (left == SIZE_MAX) return false; /* no device */
    double held = (double)encoder_spilled(j->encoder) + (j->picker ? picker_room(j, j->picker_rows, &rows) : 0);
    if (!j->spilled) held += kv_of(j, j->buffer[0].n_row) + kv_of(j, j->buffer[1].n_row) + kv_of(j, j->scratch.n_row + rows);
    *room = ROOM_USABLE * ((double)left + held);
    *total = (double)all;
    return true;
}

/* K/V buffers that buffer_fit makes on a device. */
static int64_t n_buffer(const job_t *j) { return j->chained ? 1 : 2; }

/* On the device: rows that are kept of a document or a segment of n tokens, rows that are not, and what chooses between them. */
static double device_need(const job_t *j, int64_t n, int64_t kept, int64_t scratch) {
    int64_t rows;
    double picker = picker_room(j, n, &rows);
    return picker + kv_of(j, n_buffer(j) * kept + scratch + rows);
}

/* Of two layers of them, where they lie in host memory. Packed rows are in no pass. */
static double layers_need(const job_t *j, int64_t n, int64_t kept, int64_t scratch) {
    int64_t rows, seen = j->spec->kept.select.ratio ? n : kept + scratch;
    double picker = picker_room(j, n, &rows);
    return picker + (double)spill_bytes(j->config, j->be->act, seen + rows + encoder_sink(j->encoder)->n_row);
}

bool room_for(const job_t *j, int64_t n) {
    const kept_t *k = &j->spec->kept;
    double room, total;
    return !room_bytes(j, &room, &total) || device_need(j, n, kept_rows(k, n), scratch_rows(k, n)) <= room;
}

/* anew: buffers that are there are given back, too. */
static status_t room_set(job_t *j, bool spilled, bool anew) {
    if (spilled == j->spilled && !anew) return ST_OK;
    status_t st = batch_end(j), waited = store_writer_wait(j->writer); /* it may still read the old ones */
    room_free(j);
    picker_free(j->picker); /* its rows lie where the buffers do */
    j->picker = NULL;
    j->picker_rows = 0;
    j->spilled = spilled;
    status_t set = encoder_spill(j->encoder, spilled);
    return st ? st : waited ? waited : set;
}

status_t room_device(job_t *j) { return room_set(j, false, false); }

status_t room_share(job_t *j, const shard_t *plan, int64_t kept, room_t *out) {
    double room, total;
    size_t work, left, most;
    *out = (room_t){.fits = true, .n_token = plan->segment[plan->spec.n_segment], .size = plan->spec.size};
    if (!room_bytes(j, &room, &total)) return ST_OK;
    status_t st = encoder_shard_memory(j->encoder, j->comm, plan, &work);
    if (st) return st;
    j->be->ops->memory_left(j->be, &left, &most);
    out->work = (double)work;
    out->kept = kv_of(j, n_buffer(j) * kept);
    out->room = room;
    out->total = total;
    out->fits = out->work <= room;
    out->spilled = out->work + out->kept > room;
    out->anew = !out->spilled && out->work > ROOM_USABLE * (double)left; /* an earlier document's buffers may be in the way */
    if (out->fits) return ST_OK;
    return status_fail(ST_FAIL,
                       "GPU: a document of %lld tokens that %d ranks share takes %.2f GiB here (two layers of the K/V that this rank sees, "
                       "and its rows under way), %.2f of %.2f GiB are free for it; use more GPUs, gists, --shard none, or GPUs with more "
                       "memory",
                       (long long)out->n_token, out->size, out->work / 0x1p30, room / 0x1p30, total / 0x1p30);
}

status_t room_take(job_t *j, const room_t *r) {
    if (r->spilled && !j->spilled)
        log_info("GPU memory: of a document of %lld tokens that %d ranks share, %.2f GiB of K/V are kept here, room for %.2f of %.2f GiB: "
                 "they go to host memory layer by layer; two layers and the rows under way take %.2f GiB",
                 (long long)r->n_token, r->size, r->kept / 0x1p30, (r->room - r->work) / 0x1p30, r->total / 0x1p30, r->work / 0x1p30);
    return room_set(j, r->spilled, r->anew);
}

status_t room_choose(job_t *j, int64_t n_token, int64_t kept, int64_t scratch) {
    double room, total, need = device_need(j, n_token, kept, scratch), layers = layers_need(j, n_token, kept, scratch);
    if (!room_bytes(j, &room, &total) || need <= room) return room_set(j, false, false);
    if (layers > room)
        return status_fail(ST_FAIL,
                           "GPU: two layers of the K/V of a document of %lld tokens take %.2f GiB, %.2f of %.2f GiB are free for them; use "
                           "gists, a smaller --batch, several GPUs with --shard document, or a GPU with more memory",
                           (long long)n_token, layers / 0x1p30, room / 0x1p30, total / 0x1p30);
    if (!j->spilled)
        log_info(
            "GPU memory: a document of %lld tokens has %.2f GiB of K/V, room for %.2f of %.2f GiB: they stay in host memory, two layers "
            "at a time (%.2f GiB) on the GPU",
            (long long)n_token, need / 0x1p30, room / 0x1p30, total / 0x1p30, layers / 0x1p30);
    j->report->n_spilled++;
    return room_set(j, true, false);
}
