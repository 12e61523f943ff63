/* Options that several jobs read the same way. */
#ifndef CLI_JOB_OPTIONS_H
#define CLI_JOB_OPTIONS_H

#include "cli/context.h"
#include "encode/kept.h"
#include "layout/layout.h"
#include "query/attend.h"

/* The sink's token ids: BOS when `bos`, then --sink's text, special tokens in it recognised. The model has a tokenizer (job_tokenizer). */
status_t job_sink(const context_t *c, bool bos, ids_t *out);
/* --bos, or a layout that has one. */
bool job_bos(const options_t *o);
align_t job_align(const options_t *o, align_t fallback);
reserve_t job_reserve(const options_t *o);
aggregate_t job_aggregate(const options_t *o, aggregate_t fallback);
bool job_align_find(const char *name, align_t *out);
const char *job_align_name(align_t a);
/* Rows per forward pass: --batch, else what keeps a pass's activations near the cores and its products large. */
int64_t job_rows(const options_t *o, int64_t segment);
/* On a device with so many bytes free beside the weights, where --batch says nothing. */
int64_t job_device_rows(const model_config_t *m, dtype_t act, double left);
/* The same once the model is loaded: on a device as many as its memory takes beside two buffers of K/V, and said. ST_FAIL with the numbers
 * when not even one segment's chunk fits. */
status_t job_pass_rows(const options_t *o, const context_t *c, int64_t segment, int64_t *out);
/* The model's tokenizer, or ST_INPUT saying that this command needs one. */
status_t job_tokenizer(const context_t *c, const tokenizer_t **out);

/* --layout with --ratio, --local, --gist-init, --sinks and --keep. ST_USAGE when they do not fit together. */
status_t job_kept(const options_t *o, const model_config_t *c, layout_method_t *layout, kept_t *out);
/* What --adapter says of these: its gists and sink rows take the place of --gist-init and of a --sinks that is not given. ST_INPUT when it
 * is for other layouts or ratios. */
status_t job_adapter(const context_t *c, layout_method_t layout, kept_t *kept);
/* Says that gists without an adapter are not trained to summarise. */
void job_warn_untrained(const options_t *o, const kept_t *kept);
/* *align becomes the layout's own where it has one; --positions, where given: *align becomes sequential for `global`, kept->compact is set
 * for `compact`. ST_USAGE when the layout has no such positions. */
status_t job_positions(const options_t *o, layout_method_t layout, align_t *align, kept_t *kept);

/* --select and its kin, and what the layout does to a query's weights. ST_USAGE when they do not fit together. */
status_t job_attend(const options_t *o, layout_method_t layout, aggregate_t fallback, attend_spec_t *out);

/* ST_INPUT when `rows` positions are more than the model's sliding window and the layout is not one that has it (layout_windows). */
status_t job_window(const model_config_t *c, layout_method_t layout, int64_t rows);

#endif
