/* Corpora: what documents come out of which bytes, how each is named, and what is refused with which words. */
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/log.h"
#include "base/mem.h"
#include "io/corpus.h"
#include "io/file.h"
#include "io/utf8.h"
#include "scratch.h"
#include "unit.h"

/* All documents as "id|text|line;" one after the other; on an error "!" and the message. */
static char seen[1 << 16];
static size_t seen_n;
static void note(const void *p, size_t n) {
    if (seen_n + n < sizeof seen) memcpy(seen + seen_n, p, n), seen_n += n;
    seen[seen_n] = 0;
}

static const char *drain(corpus_t *c, status_t st) {
    document_t d;
    bool got = true;
    char line[32];
    seen_n = 0, seen[0] = 0;
    while (!st && !(st = corpus_next(c, &d, &got)) && got) {
        CU_ASSERT_EQUAL(d.text[d.bytes], 0);
        CU_ASSERT_EQUAL(utf8_valid_bytes(d.text, d.bytes), d.bytes);
        CU_ASSERT_EQUAL(d.record != NULL, d.line > 0);
        note(d.id, strlen(d.id)), note("|", 1), note(d.text, d.bytes);
        note(line, (size_t)snprintf(line, sizeof line, "|%lld;", (long long)d.line));
    }
    if (st) {
        CU_ASSERT_EQUAL(st, ST_INPUT);
        note("!", 1), note(status_message(), strlen(status_message()));
    } else {
        CU_ASSERT(!corpus_next(c, &d, &got) && !got); /* the end stays the end */
    }
    corpus_close(c);
    return seen;
}

static const char *from(const void *data, size_t n, const char *name, const char *field) {
    corpus_t *c;
    size_t before = mem_now_bytes();
    char *exact = malloc(n ? n : 1);
    memcpy(exact, data, n);
    log_setup(0, 1, LOG_ERROR); /* bad UTF-8 is warned of */
    status_t st = corpus_open_memory(exact, n, name, field, &c);
    drain(c, st);
    free(exact);
    CU_ASSERT_EQUAL(mem_now_bytes(), before);
    return seen;
}

typedef struct {
    const char *data, *name, *field, *want;
} case_t;
static void check(const case_t *t, size_t n) {
    for (; n--; t++) {
        const char *have = from(t->data, strlen(t->data), t->name, t->field);
        bool good = t->want[0] == '!' ? strstr(have, t->want + 1) && strchr(have, '!') : !strcmp(have, t->want);
        CU_ASSERT(good);
        if (!good) fprintf(stderr, "%s\n  gave %s\n  not  %s\n", t->data, have, t->want);
    }
}

static void test_text(void) {
    static const case_t table[] = {
        {"hello\nworld\n", "a.txt", "text", "a.txt|hello\nworld\n|0;"},
        {"", "a.txt", "text", "a.txt||0;"},
        {"{\"text\":\"x\"}", "a.txt", "text", "a.txt|{\"text\":\"x\"}|0;"},
        {"\xef\xbb\xbfx", "a", "text", "a|x|0;"},
        {"a\xff\xe2\x82z", "a", "text", "a|a\xef\xbf\xbd\xef\xbf\xbdz|0;"},
        {"1 2 3", "t", "tokens", "t|1 2 3|0;"},
        {"just words", "-", "text", "-|just words|0;"},
    };
    check(table, sizeof table / sizeof *table);
    CU_ASSERT(!memcmp(from("a\0b", 3, "n", "text"), "n|a\0b|0;", 9));
}

static void test_lines(void) {
    static const case_t table[] = {
        {"{\"text\":\"a\"}\n{\"id\":\"x\",\"text\":\"b\"}\n", "f.jsonl", "text", "f.jsonl:1|a|1;x|b|2;"},
        {"{\"text\":\"a\"}", "f.ndjson", "text", "f.ndjson:1|a|1;"},
        {"\n  \r\n{\"text\":\"a\"}\r\n\n{\"text\":\"b\"}\n\n", "f.jsonl", "text", "f.jsonl:3|a|3;f.jsonl:5|b|5;"},
        {"", "f.jsonl", "text", ""},
        {"\n\n", "f.jsonl", "text", ""},
        {"\xef\xbb\xbf{\"text\":\"a\"}", "f.jsonl", "text", "f.jsonl:1|a|1;"},
        {"{\"text\":\"\",\"id\":7}", "f.jsonl", "text", "7||1;"},
        {"{\"text\":\"\",\"id\":-1.50}", "f.jsonl", "text", "-1.50||1;"},
        {"{\"text\":\"\",\"id\":12345678901234567890}", "f.jsonl", "text", "12345678901234567890||1;"},
        {"{\"text\":\"t\",\"id\":null}", "f.jsonl", "text", "f.jsonl:1|t|1;"},
        {"{\"prompt\":\"p\",\"text\":\"t\"}", "f.jsonl", "prompt", "f.jsonl:1|p|1;"},
        {"{\"tokens\":[1,2],\"id\":\"k\"}", "f.jsonl", "tokens", "k||1;"},
        {"{\"a\":1}\n{\"text\":\"t\"}\n{\"text\":5}", "f.jsonl", NULL, "f.jsonl:1||1;f.jsonl:2|t|2;f.jsonl:3||3;"},
        {"{\"text\":\"a\"}\n", "-", "text", "-:1|a|1;"},
        {"{\"text\":\"a\xff\"}\n", "f.jsonl", "text", "f.jsonl:1|a\xef\xbf\xbd|1;"},
        {"{\"text\":\"a\\ud800b\"}\n", "f.jsonl", "text",
         "f.jsonl:1|a\xef\xbf\xbd"
         "b|1;"},
        {"{\"text\":\"\\ud83d\\ude00\"}\n", "f.jsonl", "text", "f.jsonl:1|\xf0\x9f\x98\x80|1;"},
        {"{\"text\":\"a\",\"text\":\"b\"}\n", "f.jsonl", "text", "f.jsonl:1|b|1;"},
    };
    check(table, sizeof table / sizeof *table);
    const char nul[] = "{\"x\":\"\\u0000\",\"text\":\"a\\u0000b\\n\\u00e9\"}";
    CU_ASSERT(!memcmp(from(nul, sizeof nul - 1, "n.jsonl", "text"), "n.jsonl:1|a\0b\n\xc3\xa9|1;", 19));
}

static void test_refused_lines(void) {
    static const case_t table[] = {
        {"{\"text\":\"a\"}\n{\"text\":}\n", "f.jsonl", "text", "!f.jsonl line 2: byte 8: not valid JSON"},
        {"{\"text\":\"a\"}\n\n[1]\n", "f.jsonl", "text", "!f.jsonl line 3: is JSON, but no object"},
        {"{\"txt\":\"a\"}\n", "f.jsonl", "text", "!f.jsonl line 1: \"text\" is missing; every record needs"},
        {"{\"text\":5}\n", "f.jsonl", "text", "!line 1: \"text\" is of another type"},
        {"{\"tokens\":\"1\"}\n", "f.jsonl", "tokens", "!that is a list"},
        {"{\"text\":\"a\",\"id\":[]}\n", "f.jsonl", "text", "!\"id\" is neither"},
        {"{\"text\":\"cut", "f.jsonl", "text", "!line 1: byte"},
        {"{\"text\":\"a\"} {\"text\":\"b\"}\n", "f.jsonl", "text", "!more after the end"},
        {"x", "f.txt.zst", "text", "!not zstd data"},
        {"", "f.txt.zst", "text", "!(the file is empty)"},
        {"x", "f.gz", "text", "!not gzip data"},
    };
    check(table, sizeof table / sizeof *table);
    CU_ASSERT_PTR_NOT_NULL(strstr(from("{\"text\":\"a\0b\"}", 14, "f.jsonl", "text"), "line 1: byte 10: a NUL byte"));
}

static size_t pack_zstd(const char *text, char *out, size_t cap) { return ZSTD_compress(out, cap, text, strlen(text), 3); }
static size_t pack_gzip(const char *text, char *out, size_t cap) {
    z_stream z = {.next_in = (Bytef *)(uintptr_t)text, .avail_in = (uInt)strlen(text), .next_out = (Bytef *)out, .avail_out = (uInt)cap};
    deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    deflate(&z, Z_FINISH);
    deflateEnd(&z);
    return z.total_out;
}

static void test_packed(void) {
    static const struct {
        size_t (*pack)(const char *, char *, size_t);
        const char *name;
    } table[] = {{pack_zstd, "f.jsonl.zst"}, {pack_gzip, "f.jsonl.gz"}, {pack_zstd, "f.jsonl"}, {pack_gzip, "f.jsonl"}};
    for (int i = 0; i < 4; i++) {
        char packed[1000], want[200];
        size_t n = table[i].pack("{\"text\":\"a\"}\n{\"te", packed, 400);
        size_t first = n;
        n += table[i].pack("xt\":\"b\"}\n", packed + n, 400); /* a second frame goes on in the middle of a line */
        snprintf(want, sizeof want, "%s:1|a|1;%s:2|b|2;", table[i].name, table[i].name);
        CU_ASSERT_STRING_EQUAL(from(packed, n, table[i].name, "text"), want);
        for (size_t cut = n - 1; cut > first; cut--) { /* cut anywhere in the second frame: never a short text without an error */
            const char *have = from(packed, cut, table[i].name, "text");
            CU_ASSERT(strchr(have, '!') != NULL);
        }
        packed[n] = 'x';
        CU_ASSERT_PTR_NOT_NULL(strstr(from(packed, n + 1, table[i].name, "text"), "f.jsonl"));
        CU_ASSERT(strchr(seen, '!') != NULL);
        packed[first - 6] ^= 0x55;
        CU_ASSERT(strchr(from(packed, n, table[i].name, "text"), '!') != NULL);
    }
    char padded[500] = {0};
    size_t n = pack_gzip("tail", padded, 400);
    CU_ASSERT_STRING_EQUAL(from(padded, n + 50, "f.gz", "text"), "f.gz|tail|0;");
}

static void test_limits(void) {
    corpus_t *c;
    char big[3000];
    memset(big, 'a', sizeof big);
    memcpy(big, "{\"text\":\"", 9), memcpy(big + 2997, "\"}\n", 3);
    static const struct {
        size_t limit;
        const char *name, *words;
    } table[] = {{4000, "f.jsonl", ""},
                 {2988, "f.jsonl", ""},
                 {2987, "f.jsonl", "line 1: longer than 2987"},
                 {1000, "f.jsonl", "line 1: longer than 2000"},
                 {3000, "f", ""},
                 {2999, "f", "f: longer than 2999"}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        CU_ASSERT_EQUAL_FATAL(corpus_open_memory(big, sizeof big, table[i].name, "text", &c), ST_OK);
        corpus_set_limit(c, table[i].limit);
        drain(c, ST_OK);
        CU_ASSERT(*table[i].words ? strstr(seen, table[i].words) != NULL : !strchr(seen, '!'));
    }
}

static char folder[SCRATCH_PATH], path[PATH_MAX];
static const char *in(const char *name) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}
static void write_file(const char *name, const char *text) { CU_ASSERT_EQUAL(file_write_atomic(in(name), text, strlen(text)), ST_OK); }

/* Ids with the temporary folder cut off. */
static const char *read_paths(const char *const *paths, int n) {
    log_setup(0, 1, LOG_ERROR); /* pictures and empty folders are warned of */
    static char out[4096];
    corpus_t *c;
    size_t at = 0, skip = strlen(folder) + 1;
    status_t st = corpus_open(paths, n, "text", &c);
    const char *s = drain(c, st);
    for (; *s && at < sizeof out - 1; s++) {
        if (!strncmp(s, folder, skip - 1)) s += s[skip - 1] == '/' ? skip : skip - 1;
        out[at++] = *s;
    }
    out[at] = 0;
    return out;
}

static void *read_pipe(void *c) {
    document_t d;
    bool got;
    static status_t st;
    st = corpus_next(c, &d, &got);
    return &st;
}

/* A pipe that nobody writes into is waited for until the reader is told to give up. */
static void test_give_up(void) {
    const char *silent[1];
    pthread_t thread;
    corpus_t *c;
    void *end = NULL;
    struct timespec limit;
    scratch_dir(folder, SCRATCH_DISK);
    silent[0] = in("silent");
    CU_ASSERT_EQUAL_FATAL(mkfifo(silent[0], 0600), 0);
    CU_ASSERT_EQUAL_FATAL(corpus_open(silent, 1, "text", &c), ST_OK);
    CU_ASSERT_EQUAL_FATAL(pthread_create(&thread, NULL, read_pipe, c), 0);
    usleep(50000);
    corpus_give_up(c);
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 20;
    CU_ASSERT_EQUAL_FATAL(pthread_timedjoin_np(thread, &end, &limit), 0);
    CU_ASSERT_EQUAL(*(status_t *)end, ST_STOPPED);
    corpus_close(c);
}

static void test_folders(void) {
    scratch_dir(folder, SCRATCH_DISK);
    CU_ASSERT_EQUAL(file_make_dirs(in("b/c")), ST_OK);
    CU_ASSERT_EQUAL(file_make_dirs(in("empty")), ST_OK);
    write_file("z.txt", "Z"), write_file("a.jsonl", "{\"text\":\"A\",\"id\":1}\n"), write_file("b/c/x.txt", "X"),
        write_file("b/a.txt", "BA");
    write_file("b/d.txt", "BD"), write_file(".hidden", "H"), write_file("B.txt", "B");
    CU_ASSERT_EQUAL(file_write_atomic(in("pic.png"), "\x89PNG\0\0", 6), ST_OK);
    const char *all[] = {folder};
    CU_ASSERT_STRING_EQUAL(read_paths(all, 1), "B.txt|B|0;1|A|1;b/a.txt|BA|0;b/c/x.txt|X|0;b/d.txt|BD|0;z.txt|Z|0;");
    char z[PATH_MAX], b[PATH_MAX], none[PATH_MAX], empty[PATH_MAX];
    strcpy(z, in("z.txt")), strcpy(b, in("b/c/")), strcpy(none, in("none")), strcpy(empty, in("empty"));
    const char *some[] = {z, b, z}, *bad[] = {z, none}, *twice[] = {"-", "-"}, *nothing[] = {empty};
    CU_ASSERT_STRING_EQUAL(read_paths(some, 3), "z.txt|Z|0;b/c/x.txt|X|0;z.txt|Z|0;");
    CU_ASSERT_STRING_EQUAL(read_paths(bad, 2), "!none: no such file or folder; check the path");
    CU_ASSERT_PTR_NOT_NULL(strstr(read_paths(twice, 2), "twice"));
    CU_ASSERT_STRING_EQUAL(read_paths(nothing, 1), "");
    CU_ASSERT_STRING_EQUAL(read_paths(nothing, 0), "");
    CU_ASSERT_EQUAL(symlink(folder, in("b/loop")), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(read_paths(all, 1), "remove the link"));
}

/* Expected values: bytes.decode("utf-8", "replace") of CPython. */
static void test_utf8(void) {
    static const struct {
        const char *in, *out;
        int64_t bad;
    } table[] = {
        {"", "", 0},
        {"abc", "abc", 0},
        {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf", 0},
        {"\x80", "?", 1},
        {"\xc3", "?", 1},
        {"\xc3z", "?z", 1},
        {"\xc0\x80", "??", 2},
        {"\xe2\x82", "?", 1},
        {"\xe2\x82z", "?z", 1},
        {"\xe0\x80\x80", "???", 3},
        {"\xe0\xa0", "?", 1},
        {"\xed\xa0\x80", "???", 3},
        {"\xed\x9f\xbf", "\xed\x9f\xbf", 0},
        {"\xf0\x9f\x98", "?", 1},
        {"\xf0\x8f\x80\x80", "????", 4},
        {"\xf4\x90\x80\x80", "????", 4},
        {"\xf5\x80", "??", 2},
        {"\xf0\x9f\xff\x98", "???", 3},
        {"\xe2\xe2\x82\xac", "?\xe2\x82\xac", 1},
        {"12345678\xff"
         "12345678",
         "12345678?12345678", 1},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char *out, want[100] = "";
        size_t n;
        int64_t bad;
        size_t at = 0;
        for (const char *p = table[i].out; *p; p++) {
            if (*p == '?')
                memcpy(want + at, "\xef\xbf\xbd", 3), at += 3;
            else
                want[at++] = *p;
        }
        CU_ASSERT_EQUAL_FATAL(utf8_repair(table[i].in, strlen(table[i].in), &out, &n, &bad), ST_OK);
        CU_ASSERT_STRING_EQUAL(out, want);
        CU_ASSERT(n == strlen(want) && bad == table[i].bad);
        CU_ASSERT_EQUAL(utf8_valid_bytes(out, n), n);
        mem_free(out);
    }
}

static void test_no_memory(void) {
    static const char text[] = "{\"text\":\"a\\u0000\\u0000\xff\",\"id\":5}\n{\"text\":\"b\"}\n";
    size_t before = mem_now_bytes();
    bool done = false;
    for (int k = 1; !done && k < 100; k++) {
        corpus_t *c;
        document_t d;
        bool got = true;
        mem_fail_at(k);
        status_t st = corpus_open_memory(text, sizeof text - 1, "f.jsonl", "text", &c);
        while (!st && got) st = corpus_next(c, &d, &got);
        corpus_close(c);
        CU_ASSERT(st == ST_OK || st == ST_FAIL);
        CU_ASSERT_EQUAL(mem_now_bytes(), before);
        done = st == ST_OK;
    }
    mem_fail_at(0);
    CU_ASSERT(done);
}

UNIT_MAIN("corpus", {"text", test_text}, {"lines", test_lines}, {"refused_lines", test_refused_lines}, {"packed", test_packed},
          {"limits", test_limits}, {"folders", test_folders}, {"give_up", test_give_up}, {"utf8", test_utf8}, {"no_memory", test_no_memory})
