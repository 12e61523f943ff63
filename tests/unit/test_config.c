/* Configurations in every form they are met in, and the wrong ones: each message names the file and what is wrong. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "io/file.h"
#include "model/config.h"
#include "scratch.h"
#include "unit.h"

/* ---- config.json ------------------------------------------------------------------------------------------ */
static const char base[] =
    "\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_size\":96,\"vocab_size\":160,"
    "\"max_position_embeddings\":128,\"rms_norm_eps\":1e-5";
static char path[SCRATCH_PATH + 16];

static status_t from_text(const char *text, model_config_t *c) {
    static char dir[SCRATCH_PATH];
    if (!*dir) scratch_dir(dir, SCRATCH_DISK);
    snprintf(path, sizeof path, "%s/config.json", dir);
    CU_ASSERT_EQUAL(file_write_atomic(path, text, strlen(text)), ST_OK);
    return config_from_json(path, c);
}
/* base and `more` (which starts with a comma, or is empty) */
static status_t from_more(const char *more, model_config_t *c) {
    char text[2048];
    snprintf(text, sizeof text, "{%s%s}", base, more);
    return from_text(text, c);
}
static bool refused(const char *more, const char *words) {
    model_config_t c;
    bool good = from_more(more, &c) == ST_INPUT && strstr(status_message(), path) && strstr(status_message(), words);
    if (!good) fprintf(stderr, "%s -> %s\n", more, status_message());
    return good;
}
#define LLAMA ",\"model_type\":\"llama\""

static void test_json_defaults(void) {
    model_config_t c;
    CU_ASSERT_EQUAL_FATAL(from_more(LLAMA, &c), ST_OK);
    CU_ASSERT(c.n_kv_head == 4 && c.d_head == 16 && c.d_rot == 16 && c.rope_theta == 10000 && c.rope_scaling == ROPE_NONE && !c.tied &&
              c.window == 0);
    CU_ASSERT(c.d_model == 64 && c.n_layer == 2 && c.n_head == 4 && c.d_ff == 96 && c.n_vocab == 160 && c.n_ctx == 128 &&
              c.norm_eps == 1e-5);
    CU_ASSERT(!c.qkv_bias && !c.qk_norm);
    CU_ASSERT_STRING_EQUAL(c.arch, "llama");
    CU_ASSERT_EQUAL(from_more(LLAMA ",\"num_key_value_heads\":2,\"head_dim\":24,\"tie_word_embeddings\":true,\"rope_scaling\":null", &c),
                    ST_OK);
    CU_ASSERT(c.n_kv_head == 2 && c.d_head == 24 && c.tied);
}

static void test_json_rope_forms(void) {
    model_config_t c;
#define L3 "\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192"
    CU_ASSERT_EQUAL(from_more(LLAMA ",\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\"," L3 "}", &c), ST_OK);
    CU_ASSERT(c.rope_theta == 5e5 && c.rope_scaling == ROPE_LLAMA3 && c.rope_factor == 8 && c.rope_low == 1 && c.rope_high == 4 &&
              c.rope_old_ctx == 8192);
    CU_ASSERT_EQUAL(from_more(LLAMA ",\"rope_parameters\":{\"rope_theta\":5e5,\"rope_type\":\"llama3\"," L3 "}", &c), ST_OK);
    CU_ASSERT(c.rope_theta == 5e5 && c.rope_scaling == ROPE_LLAMA3 && c.rope_factor == 8);
    CU_ASSERT_EQUAL(from_more(LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}", &c), ST_OK);
    CU_ASSERT(c.rope_scaling == ROPE_LINEAR && c.rope_factor == 2);
    CU_ASSERT_EQUAL(from_more(LLAMA ",\"rope_parameters\":{\"rope_theta\":1e6,\"rope_type\":\"default\"}", &c), ST_OK);
    CU_ASSERT(c.rope_scaling == ROPE_NONE && c.rope_theta == 1e6);
    CU_ASSERT(refused(LLAMA ",\"rope_scaling\":{\"rope_type\":\"mrope\",\"factor\":2}", "\"mrope\""));
    CU_ASSERT(refused(LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}", "\"factor\""));
    CU_ASSERT(refused(LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8}", "low_freq_factor"));
    CU_ASSERT(refused(LLAMA ",\"rope_scaling\":7", "rope_scaling"));
    CU_ASSERT(refused(LLAMA ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}", "partial_rotary_factor"));
    CU_ASSERT(refused(LLAMA ",\"rope_theta\":-1", "theta"));
}

static void test_json_stretches(void) {
    model_config_t c;
#define OLD "\"original_max_position_embeddings\":64"
    CU_ASSERT_EQUAL(from_more(LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4," OLD "}", &c), ST_OK);
    CU_ASSERT(c.rope_scaling == ROPE_YARN && c.rope_factor == 4 && c.rope_old_ctx == 64 && c.rope_high == 32 && c.rope_low == 1 &&
              c.rope_whole);
    CU_ASSERT_DOUBLE_EQUAL(c.rope_attention, 0.1 * log(4) + 1, 1e-15);
    CU_ASSERT_EQUAL(from_more(LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":null," OLD ",\"attention_factor\":0.5}", &c), ST_OK);
    CU_ASSERT(c.rope_factor == 2 && c.rope_attention == 0.5); /* 128 / 64 */
    CU_ASSERT_EQUAL(from_more(LLAMA ",\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":2}", &c), ST_OK);
    CU_ASSERT(c.rope_scaling == ROPE_DYNAMIC && c.rope_factor == 2 && c.rope_attention == 1);
    CU_ASSERT_EQUAL(config_rope_length(&c, "m", 500), ST_OK);
    CU_ASSERT_EQUAL(c.rope_length, 500);
    CU_ASSERT_EQUAL(from_more(LLAMA, &c), ST_OK);
    CU_ASSERT_EQUAL(config_rope_length(&c, "m", 500), ST_USAGE);
    CU_ASSERT(refused(LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\"}", "\"factor\""));
    CU_ASSERT(refused(LLAMA ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":0.5}", "1 or more"));
    CU_ASSERT(refused(LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"beta_fast\":-3}", "beta_fast"));
    CU_ASSERT(
        refused(LLAMA ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":0}", "original context"));
    CU_ASSERT(
        refused(LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,2],\"long_factor\":[1]}", "2 numbers, must have 8"));
    CU_ASSERT(refused(LLAMA
                      ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,1],\"long_factor\":[1,1,1,1,1,1,1,-1]}",
                      "must be above 0"));
    CU_ASSERT(refused(LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,\"1\"]}", "list of numbers"));
    CU_ASSERT(refused(LLAMA ",\"partial_rotary_factor\":0.5", "partial_rotary_factor"));
}

static void test_json_layer_types(void) {
    model_config_t c;
#define KV ",\"num_key_value_heads\":2"
    CU_ASSERT_EQUAL(from_more(",\"model_type\":\"qwen2\",\"layer_types\":[\"full_attention\",\"full_attention\"]" KV, &c), ST_OK);
    CU_ASSERT(c.window == 0);
    CU_ASSERT(refused(",\"model_type\":\"qwen2\",\"layer_types\":[\"full_attention\",\"sliding_attention\"]" KV, "1 of 2 layers"));
    CU_ASSERT(refused(",\"model_type\":\"qwen2\",\"layer_types\":[\"full_attention\",\"linear_attention\"]" KV, "\"linear_attention\""));
    CU_ASSERT(refused(",\"model_type\":\"qwen2\",\"layer_types\":[\"full_attention\"]" KV, "1 entries for 2 layers"));
    CU_ASSERT(
        refused(",\"model_type\":\"qwen2\",\"layer_types\":[\"sliding_attention\",\"sliding_attention\"]" KV, "no \"sliding_window\""));
}

static void test_json_archs(void) {
    model_config_t c;
    CU_ASSERT_EQUAL(from_more(",\"model_type\":\"mistral\"" KV ",\"sliding_window\":4096", &c), ST_OK);
    CU_ASSERT(c.window == 4096 && !c.qkv_bias);
    CU_ASSERT_EQUAL(from_more(",\"model_type\":\"mistral\"" KV, &c), ST_OK);
    CU_ASSERT_EQUAL(c.window, 4096); /* what transformers takes where the file says nothing */
    CU_ASSERT(refused(",\"model_type\":\"mistral\"", "8 key/value heads"));
    CU_ASSERT_EQUAL(from_more(",\"model_type\":\"qwen3\"" KV, &c), ST_OK);
    CU_ASSERT_EQUAL(c.d_head, 128);
    CU_ASSERT_EQUAL(from_more(",\"model_type\":\"mistral\"" KV ",\"sliding_window\":null", &c), ST_OK);
    CU_ASSERT_EQUAL(c.window, 0);
    CU_ASSERT_EQUAL(from_more(",\"model_type\":\"qwen2\"" KV ",\"sliding_window\":4096,\"use_sliding_window\":false", &c), ST_OK);
    CU_ASSERT(c.window == 0 && c.qkv_bias && !c.qk_norm);
    CU_ASSERT_EQUAL(from_more(",\"model_type\":\"qwen2\"" KV ",\"sliding_window\":64,\"use_sliding_window\":true,\"max_window_layers\":2",
                              &c),
                    ST_OK);
    CU_ASSERT_EQUAL(c.window, 0);
    CU_ASSERT_EQUAL(from_more(",\"model_type\":\"qwen2\"" KV ",\"sliding_window\":64,\"use_sliding_window\":true,\"max_window_layers\":0",
                              &c),
                    ST_OK);
    CU_ASSERT_EQUAL(c.window, 64);
    CU_ASSERT_EQUAL(from_more(",\"model_type\":\"qwen3\"" KV ",\"head_dim\":32", &c), ST_OK);
    CU_ASSERT(c.qk_norm && !c.qkv_bias && c.d_head == 32);
    CU_ASSERT(refused(",\"model_type\":\"qwen2\"" KV ",\"sliding_window\":64,\"use_sliding_window\":true,\"max_window_layers\":1",
                      "layers 1 and above"));
    CU_ASSERT(refused(",\"model_type\":\"gpt_neox\"", "\"gpt_neox\""));
    CU_ASSERT(refused("", "model_type"));
    CU_ASSERT(refused(LLAMA ",\"attention_bias\":true", "attention_bias"));
    CU_ASSERT(refused(LLAMA ",\"mlp_bias\":true", "mlp_bias"));
    CU_ASSERT(refused(LLAMA ",\"hidden_act\":\"gelu\"", "\"gelu\""));
    CU_ASSERT(refused(LLAMA ",\"quantization_config\":{}", "quantization_config"));
}

static void test_json_wrong_values(void) {
    model_config_t c;
    CU_ASSERT(refused(LLAMA ",\"num_key_value_heads\":3", "key/value heads"));
    CU_ASSERT(refused(LLAMA ",\"num_key_value_heads\":0", "key/value heads"));
    CU_ASSERT(refused(LLAMA ",\"num_key_value_heads\":\"2\"", "num_key_value_heads"));
    CU_ASSERT(refused(LLAMA ",\"head_dim\":15", "odd"));
    CU_ASSERT(refused(LLAMA ",\"head_dim\":1.5", "head_dim"));
    CU_ASSERT(refused(LLAMA ",\"head_dim\":1000000", "head width"));
    CU_ASSERT(refused(LLAMA ",\"tie_word_embeddings\":1", "tie_word_embeddings"));
    CU_ASSERT_EQUAL(from_text("{\"model_type\":\"llama\"}", &c), ST_INPUT);
    CU_ASSERT(strstr(status_message(), "hidden_size") != NULL);
    CU_ASSERT_EQUAL(from_text("[]", &c), ST_INPUT);
    CU_ASSERT_EQUAL(from_text("{\"model_type\":", &c), ST_INPUT);
    CU_ASSERT_EQUAL(config_from_json("/no/such/config.json", &c), ST_INPUT);
}

/* ---- GGUF metadata ------------------------------------------------------------------------------------------ */
typedef struct {
    uint8_t bytes[4096];
    size_t n;
    uint64_t n_kv, n_tensor;
} builder_t;

static void raw(builder_t *b, const void *p, size_t n) {
    memcpy(b->bytes + b->n, p, n);
    b->n += n;
}
static void u32(builder_t *b, uint32_t v) { raw(b, &v, 4); }
static void u64(builder_t *b, uint64_t v) { raw(b, &v, 8); }
static void text(builder_t *b, const char *s) {
    u64(b, strlen(s));
    raw(b, s, strlen(s));
}
static void key(builder_t *b, const char *name, uint32_t type) {
    text(b, name);
    u32(b, type);
    b->n_kv++;
}
static void key_u32(builder_t *b, const char *name, uint32_t v) {
    key(b, name, 4);
    u32(b, v);
}
static void key_f32(builder_t *b, const char *name, float v) {
    key(b, name, 6);
    raw(b, &v, 4);
}
static void key_str(builder_t *b, const char *name, const char *v) {
    key(b, name, 8);
    text(b, v);
}
static void begin(builder_t *b, const char *arch) {
    *b = (builder_t){.n = 24};
    key_str(b, "general.architecture", arch);
    key_u32(b, "llama.embedding_length", 64);
    key_u32(b, "llama.block_count", 2);
    key_u32(b, "llama.context_length", 128);
    key_u32(b, "llama.feed_forward_length", 96);
    key_u32(b, "llama.attention.head_count", 4);
    key_f32(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
}
/* The embedding [160][64] in F32, and with it rope_freqs.weight [8] when `factors`. */
static status_t end(builder_t *b, bool factors, model_config_t *c) {
    static uint8_t file[1 << 16];
    uint64_t n_tensor = factors ? 2 : 1;
    text(b, "token_embd.weight");
    u32(b, 2), u64(b, 64), u64(b, 160), u32(b, 0), u64(b, 0);
    if (factors) {
        text(b, "rope_freqs.weight");
        u32(b, 1), u64(b, 8), u32(b, 0), u64(b, 160 * 64 * 4);
    }
    uint32_t version = 3;
    memcpy(b->bytes, "GGUF", 4);
    memcpy(b->bytes + 4, &version, 4);
    memcpy(b->bytes + 8, &n_tensor, 8);
    memcpy(b->bytes + 16, &b->n_kv, 8);
    memset(file, 0, sizeof file);
    memcpy(file, b->bytes, b->n);
    gguf_t *g;
    status_t st = gguf_parse(file, (b->n + 31) / 32 * 32 + 160 * 64 * 4 + (factors ? 32 : 0), "x.gguf", &g);
    CU_ASSERT_EQUAL(st, ST_OK);
    if (st) {
        fprintf(stderr, "%s\n", status_message());
        return st;
    }
    st = config_from_gguf(g, "x.gguf", c);
    gguf_close(g);
    return st;
}
static bool says(const char *words) { return strstr(status_message(), "x.gguf") && strstr(status_message(), words); }

static void test_gguf(void) {
    builder_t b;
    model_config_t c;
    begin(&b, "llama");
    CU_ASSERT_EQUAL(end(&b, false, &c), ST_OK);
    CU_ASSERT(c.n_kv_head == 4 && c.d_head == 16 && c.n_vocab == 160 && c.tied && c.rope_theta == 10000 && c.rope_scaling == ROPE_NONE);
    begin(&b, "llama");
    key_u32(&b, "llama.attention.head_count_kv", 2);
    key_u32(&b, "llama.attention.key_length", 24);
    key_u32(&b, "llama.attention.value_length", 24);
    key_f32(&b, "llama.rope.freq_base", 5e5f);
    key_str(&b, "llama.rope.scaling.type", "linear");
    key_f32(&b, "llama.rope.scaling.factor", 4);
    CU_ASSERT_EQUAL(end(&b, false, &c), ST_OK);
    CU_ASSERT(c.n_kv_head == 2 && c.d_head == 24 && c.rope_theta == 5e5 && c.rope_scaling == ROPE_LINEAR && c.rope_factor == 4);
    begin(&b, "llama");
    CU_ASSERT_EQUAL(end(&b, true, &c), ST_OK);
    CU_ASSERT(c.rope_scaling == ROPE_LLAMA3 && c.rope_factor == 0);
}

static void test_gguf_refused(void) {
    builder_t b;
    model_config_t c;
    begin(&b, "falcon");
    CU_ASSERT(end(&b, false, &c) == ST_INPUT && says("\"falcon\""));
    begin(&b, "llama");
    key_str(&b, "llama.rope.scaling.type", "dynamic");
    CU_ASSERT(end(&b, false, &c) == ST_INPUT && says("\"dynamic\""));
    begin(&b, "llama");
    key_str(&b, "llama.rope.scaling.type", "yarn");
    CU_ASSERT(end(&b, false, &c) == ST_INPUT && says("llama.rope.scaling.factor"));
    begin(&b, "llama");
    key_str(&b, "llama.rope.scaling.type", "yarn");
    key_f32(&b, "llama.rope.scaling.factor", 4);
    key_f32(&b, "llama.rope.scaling.yarn_ext_factor", 0.5f);
    CU_ASSERT(end(&b, false, &c) == ST_INPUT && says("yarn_ext_factor"));
    begin(&b, "llama");
    key_str(&b, "llama.rope.scaling.type", "longrope");
    CU_ASSERT(end(&b, false, &c) == ST_INPUT && says("rope_factors_short.weight"));
    begin(&b, "llama");
    key_u32(&b, "llama.expert_count", 8);
    CU_ASSERT(end(&b, false, &c) == ST_INPUT && says("experts"));
    begin(&b, "llama");
    key_str(&b, "llama.rope.freq_base", "much");
    CU_ASSERT(end(&b, false, &c) == ST_INPUT && says("llama.rope.freq_base"));
    begin(&b, "llama");
    key_u32(&b, "llama.rope.dimension_count", 8);
    CU_ASSERT(end(&b, false, &c) == ST_INPUT && says("8 of 16"));
    begin(&b, "llama");
    key(&b, "llama.attention.head_count_kv", 9);
    u32(&b, 4), u64(&b, 2), u32(&b, 2), u32(&b, 4);
    CU_ASSERT(end(&b, false, &c) == ST_INPUT && says("differs between layers"));
    begin(&b, "llama");
    key(&b, "llama.attention.head_count_kv", 9);
    u32(&b, 4), u64(&b, 2), u32(&b, 2), u32(&b, 2);
    CU_ASSERT(end(&b, false, &c) == ST_OK && c.n_kv_head == 2);
}

UNIT_MAIN("config", {"json_defaults", test_json_defaults}, {"json_rope_forms", test_json_rope_forms},
          {"json_stretches", test_json_stretches}, {"json_layer_types", test_json_layer_types}, {"json_archs", test_json_archs},
          {"json_wrong_values", test_json_wrong_values}, {"gguf", test_gguf}, {"gguf_refused", test_gguf_refused})
