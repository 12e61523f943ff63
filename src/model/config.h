/* A model's dimensions and constants, from GGUF metadata or config.json. A new architecture is a row in config.c's table. */
#ifndef MODEL_CONFIG_H
#define MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "io/gguf.h"

typedef enum { ROPE_NONE, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN, ROPE_DYNAMIC, ROPE_LONG, ROPE_COUNT } rope_scaling_t;
enum { ROPE_MAX_HALF = 512 }; /* half of the widest head */

typedef struct {
    char arch[32]; /* "llama", .. as in the file */
    char name[128];
    int64_t n_vocab, n_layer, n_head, n_kv_head, d_model, d_head, d_ff, n_ctx; /* n_ctx: the context the model was trained for */
    int64_t d_rot;                                                             /* rotated elements of a head */
    int64_t window;                                                            /* sliding window in rows; 0: none */
    double norm_eps, rope_theta;
    rope_scaling_t rope_scaling;
    double rope_factor, rope_low, rope_high; /* llama3: factor, low and high frequency factors; yarn: factor, beta slow and fast */
    int64_t rope_old_ctx;                    /* the context before it was stretched */
    bool rope_whole;                         /* yarn: the ramp begins and ends at whole dimensions */
    double rope_attention;                   /* multiplies cosines and sines (yarn, longrope); 1 elsewhere */
    int64_t rope_length; /* dynamic, longrope: positions that the run is to take, which set the frequencies; 0: no more than were trained */
    float rope_short[ROPE_MAX_HALF], rope_long[ROPE_MAX_HALF]; /* longrope: divide the frequencies, [d_rot / 2] */
    bool tied;                                                 /* the output rows are the embedding rows */
    bool qkv_bias, qk_norm;
} model_config_t;

/* "none", "linear", .. as config.json has them (there "default" for none). */
const char *rope_scaling_name(rope_scaling_t s);
status_t config_from_gguf(const gguf_t *g, const char *path, model_config_t *out);
status_t config_from_json(const char *path, model_config_t *out); /* config.json of an HF folder, older or newer form */
/* Every size within limits (named in config.c), heads divisible, n_head*d_head and all products below 2^40. ST_INPUT naming `path` and the
 * value. */
status_t config_check(const model_config_t *c, const char *path);
/* Chooses the frequencies of dynamic and longrope scaling for runs whose positions stay below `length`. ST_USAGE with a model of another
 * scaling. */
status_t config_rope_length(model_config_t *c, const char *path, int64_t length);

#endif
