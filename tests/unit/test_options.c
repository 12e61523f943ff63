/* Options: values as text, where they come from, and the nearest key. */
#include "cli/options.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"
#include "scratch.h"
#include "unit.h"

static const command_spec_t CMD = {
    .name = "try",
    .usage = "precis try --model M",
    .keys = "model! segment layout pieces temperature bos special threads dtype=f32 sink select",
    .max_args = 2,
};

static status_t parse(options_t **o, const char *words) {
    static char copy[1024];
    char *argv[16];
    int n = 0;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *w = strtok(copy, " "); w && n < 16; w = strtok(NULL, " ")) argv[n++] = w;
    return options_parse(&CMD, n, argv, o);
}

static void test_values(void) {
    static const struct {
        const char *words, *key;
        int64_t value;
    } good[] = {
        {"--segment 4096", "segment", 4096},
        {"--segment=4K", "segment", 4096},
        {"--segment 4KiB", "segment", 4096},
        {"--segment 2k", "segment", 2048},
        {"--segment 1", "segment", 1},
        {"--segment 16M", "segment", 16 << 20},
        {"--segment 512B", "segment", 512},
        {"--bos", "bos", 1},
        {"--bos=no", "bos", 0},
        {"--no-special", "special", 0},
        {"", "special", 1},
        {"", "segment", 4096},
        {"--segment 1 --segment 2", "segment", 2},
        {"--threads 3", "threads", 3},
        {"", "threads", 0},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        char words[128];
        options_t *o = NULL;
        snprintf(words, sizeof words, "--model m %s", good[i].words);
        CU_ASSERT_EQUAL(parse(&o, words), ST_OK);
        if (o)
            CU_ASSERT_EQUAL(good[i].key[0] == 'b' || !strcmp(good[i].key, "special") ? opt_flag(o, good[i].key) : opt_int(o, good[i].key),
                            good[i].value);
        options_free(o);
    }
}

static void test_refused(void) {
    static const char *const bad[] = {
        "--segment 0",
        "--segment -1",
        "--segment 17M",
        "--segment 4X",
        "--segment 4KB",
        "--segment 4.5K",
        "--segment K",
        "--segment 0x10",
        "--segment 99999999999999999999",
        "--segment 9223372036854775807K",
        "--segment",
        "--segment --bos",
        "--segment= ",
        "--threads 1K",
        "--layout nope",
        "--layout ful",
        "--layout full|pce",
        "--layout=",
        "--pieces 1,,2",
        "--pieces 1,x",
        "--pieces ,",
        "--temperature inf",
        "--temperature 1e999",
        "--temperature 1x",
        "--bos=2",
        "--no-segment 1",
        "--select 1.0",
        "--window 4K",
        "-b",
        "a b c",
        "--model=",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char words[128];
        options_t *o = NULL;
        snprintf(words, sizeof words, "--model m %s", bad[i]);
        CU_ASSERT_EQUAL(parse(&o, words), ST_USAGE);
        if (o) fprintf(stderr, "accepted: %s\n", bad[i]);
        CU_ASSERT_PTR_NULL(o);
        CU_ASSERT(strlen(status_message()) > 20);
        options_free(o);
    }
    options_t *o;
    CU_ASSERT_EQUAL(parse(&o, "--segment 4K"), ST_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "--model"));
}

static void test_rest(void) {
    options_t *o = NULL;
    const int64_t *items;
    const char *const *args;
    CU_ASSERT_EQUAL_FATAL(parse(&o, "one --model m --pieces 1,2,4K - "), ST_OK);
    CU_ASSERT_EQUAL(opt_list(o, "pieces", &items), 3);
    CU_ASSERT_EQUAL(items[2], 4096);
    CU_ASSERT_EQUAL(opt_args(o, &args), 2);
    CU_ASSERT_STRING_EQUAL(args[0], "one");
    CU_ASSERT_STRING_EQUAL(args[1], "-");
    CU_ASSERT_STRING_EQUAL(opt_text(o, "dtype"), "f32"); /* the command's default, not the table's */
    CU_ASSERT_FALSE(opt_given(o, "dtype"));
    CU_ASSERT_TRUE(opt_given(o, "pieces"));
    CU_ASSERT_PTR_NULL(opt_text(o, "window")); /* not a key of this command */
    CU_ASSERT_EQUAL(opt_int(o, "no such key"), 0);
    options_free(o);
    CU_ASSERT_EQUAL_FATAL(parse(&o, "--model m -- --bos"), ST_OK);
    CU_ASSERT_EQUAL(opt_args(o, &args), 1);
    CU_ASSERT_STRING_EQUAL(args[0], "--bos");
    CU_ASSERT_FALSE(opt_flag(o, "bos"));
    options_free(o);
}

static void test_sources(void) {
    char dir[SCRATCH_PATH], path[SCRATCH_PATH + 16], words[SCRATCH_PATH + 64];
    static const char text[] = "segment = 2K # half\nsink = \"a\\n\\\"b\\\" # c\"\nlayout=full\nwindow = 8K\n\n# end\n";
    options_t *o = NULL;
    scratch_dir(dir, SCRATCH_DISK);
    snprintf(path, sizeof path, "%s/a.conf", dir);
    CU_ASSERT_EQUAL_FATAL(file_write_atomic(path, text, sizeof text - 1), ST_OK);
    snprintf(words, sizeof words, "--model m --config %s --layout pce", path);
    setenv("PRECIS_SEGMENT", "3K", 1);
    setenv("PRECIS_THREADS", "5", 1);
    CU_ASSERT_EQUAL(parse(&o, words), ST_OK);
    if (o) {
        CU_ASSERT_EQUAL(opt_int(o, "segment"), 3072);
        CU_ASSERT_EQUAL(opt_int(o, "threads"), 5);
        CU_ASSERT_STRING_EQUAL(opt_text(o, "sink"), "a\n\"b\" # c");
        CU_ASSERT_STRING_EQUAL(opt_text(o, "layout"), "pce");
    }
    options_free(o);
    setenv("PRECIS_SEGMENT", "3X", 1);
    CU_ASSERT_EQUAL(parse(&o, words), ST_USAGE);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "PRECIS_SEGMENT"));
    unsetenv("PRECIS_SEGMENT");
    unsetenv("PRECIS_THREADS");
}

/* A word given to --score is --keep-by's, wherever it comes from; a number is its own; both may be given. */
static void test_meant(void) {
    static char word[] = "--score", method[] = "knorm", count[] = "2K", joined[] = "--score=observed", wrong[] = "none";
    char *both[] = {word, method, word, count}, *one[] = {joined}, *bad[] = {word, wrong};
    command_spec_t spec = CMD, alone = CMD;
    options_t *o = NULL;
    spec.keys = "score keep-by";
    alone.keys = "keep-by";
    CU_ASSERT_EQUAL(options_parse(&spec, 4, both, &o), ST_OK);
    CU_ASSERT_STRING_EQUAL(opt_text(o, "keep-by"), "knorm");
    CU_ASSERT_EQUAL(opt_int(o, "score"), 2048);
    options_free(o);
    CU_ASSERT_EQUAL(options_parse(&alone, 1, one, &o), ST_OK);
    CU_ASSERT_STRING_EQUAL(opt_text(o, "keep-by"), "observed");
    options_free(o);
    CU_ASSERT_EQUAL(options_parse(&alone, 2, both + 2, &o), ST_USAGE);
    CU_ASSERT_EQUAL(options_parse(&spec, 2, bad, &o), ST_USAGE);
    setenv("PRECIS_SCORE", "expected", 1);
    CU_ASSERT_EQUAL(options_parse(&alone, 0, NULL, &o), ST_OK);
    CU_ASSERT_STRING_EQUAL(opt_text(o, "keep-by"), "expected");
    options_free(o);
    unsetenv("PRECIS_SCORE");
}

static void test_nearest(void) {
    static const char keys[] = "model! store! segment=4K max-tokens temperature";
    static const struct {
        const char *word, *near;
    } cases[] = {{"modle", "model"},      {"segmant", "segment"}, {"seg", "segment"}, {"max_tokens", "max-tokens"},
                 {"temp", "temperature"}, {"stroe", "store"},     {"zzzz", NULL},     {"", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char near[32] = "";
        bool found = option_nearest(cases[i].word, keys, near, sizeof near);
        CU_ASSERT_EQUAL(found, cases[i].near != NULL);
        if (cases[i].near) CU_ASSERT_STRING_EQUAL(near, cases[i].near);
    }
}

/* Every row of the table: a default that its own bounds accept, help, and no two of one name. */
static void test_table(void) {
    int n;
    const option_t *t = option_table(&n);
    for (int i = 0; i < n; i++) {
        char accepts[256], words[256];
        options_t *o = NULL;
        command_spec_t one = CMD;
        option_accepts(&t[i], accepts, sizeof accepts);
        CU_ASSERT(strlen(t[i].help) > 5 && strlen(accepts) > 3);
        CU_ASSERT_PTR_EQUAL(option_find(t[i].key), &t[i]);
        snprintf(words, sizeof words, "%s", t[i].key);
        one.keys = words;
        CU_ASSERT_EQUAL(options_parse(&one, 0, NULL, &o), ST_OK); /* sets the default */
        options_free(o);
    }
}

/* The n-th allocation fails, for every n: refused with a message, nothing lost. */
static void test_memory(void) {
    size_t before = mem_now_bytes();
    bool ended = false;
    for (int n = 1; n < 200 && !ended; n++) {
        options_t *o = NULL;
        mem_fail_at(n);
        status_t st = parse(&o, "one --model m --pieces 1,2,4K --sink x --segment 2K");
        ended = st == ST_OK;
        mem_fail_at(0);
        options_free(o);
        CU_ASSERT(st == ST_OK || (st != ST_OK && o == NULL));
        CU_ASSERT_EQUAL(mem_now_bytes(), before);
    }
    CU_ASSERT_TRUE(ended);
}

UNIT_MAIN("options", {"values", test_values}, {"refused", test_refused}, {"rest", test_rest}, {"sources", test_sources},
          {"meant", test_meant}, {"nearest", test_nearest}, {"table", test_table}, {"memory", test_memory})
