#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "io/json.h"
#include "io/json_span.h"
#include "unit.h"

static void test_parse(void) {
    static const struct {
        const char *text;
        const char *words;
    } table[] = {
        {"{}", ""},
        {" [1, 2.5e3, \"x\", null, true] \r\n\t", ""},
        {"\"\\u00e9\\ud83d\\ude00\"", ""},
        {"", "not valid JSON"},
        {"   ", "not valid JSON"},
        {"{\"a\":}", "byte 5"},
        {"{\"a\":1", "found \"1\" and the end"},
        {"[1,]", "byte 3"},
        {"{} {}", "more after the end"},
        {"[1]x", "byte 3: more after the end of the JSON value: found \"x\""},
        {"nul", "not valid JSON"},
        {"\"abc", "not valid JSON"},
        {"\"\\ud800\"", "not valid JSON"},
        {"\"\\x\"", "not valid JSON"},
        {"]]]]", "byte 0"},
        {"[\x10]", "byte 1: not valid JSON: control character 0x10"},
        {"[\"\\u12g4\"]", "byte 2: not valid JSON: \\u without"},
        {"\"\\u123", "byte 1: not valid JSON: \\u without"},
        {"\"\\", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        cJSON *v;
        size_t n = strlen(table[i].text);
        char *exact = malloc(n + 1); /* not terminated within n: the sanitizer sees a byte too far */
        memcpy(exact, table[i].text, n);
        exact = realloc(exact, n ? n : 1);
        status_t st = json_parse(exact, n, "t.json", &v);
        CU_ASSERT_EQUAL(st, *table[i].words ? ST_INPUT : ST_OK);
        CU_ASSERT((st == ST_OK) == (v != NULL));
        bool worded = !st || (strstr(status_message(), table[i].words) && strstr(status_message(), "t.json"));
        CU_ASSERT(worded);
        if (!worded) fprintf(stderr, "%s -> %s\n", table[i].text, status_message());
        cJSON_Delete(v);
        free(exact);
    }
    cJSON *v;
    CU_ASSERT_EQUAL(json_parse("[\"a\0b\"]", 7, "t", &v), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "byte 3: a NUL byte"));
}

static void test_nesting(void) {
    char bomb[4000];
    for (int depth = 255; depth <= 257; depth++) {
        cJSON *v;
        memset(bomb, '[', (size_t)depth), memset(bomb + depth, ']', (size_t)depth);
        CU_ASSERT_EQUAL(json_parse(bomb, (size_t)(2 * depth), "t", &v), depth <= 256 ? ST_OK : ST_INPUT);
        cJSON_Delete(v);
    }
    memset(bomb, '{', sizeof bomb);
    cJSON *v;
    CU_ASSERT_EQUAL(json_parse(bomb, sizeof bomb, "t", &v), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "nested deeper than 256"));
}

static void test_get(void) {
    static const char text[] = "{\"s\":\"x\",\"i\":-7,\"big\":9007199254740993000,\"f\":1.5,\"t\":true,\"n\":null,\"d\":1,\"d\":2}";
    cJSON *o;
    int64_t i = 0;
    double f = 0;
    bool b = false;
    CU_ASSERT_EQUAL_FATAL(json_parse(text, sizeof text - 1, "t", &o), ST_OK);
    CU_ASSERT_STRING_EQUAL(json_get_str(o, "s"), "x");
    CU_ASSERT(!json_get_str(o, "i") && !json_get_str(o, "none") && !json_get_str(NULL, "s"));
    CU_ASSERT(json_get_i64(o, "i", &i) && i == -7);
    CU_ASSERT(!json_get_i64(o, "f", &i) && !json_get_i64(o, "big", &i) && !json_get_i64(o, "s", &i) && !json_get_i64(o, "none", &i));
    CU_ASSERT(json_get_f64(o, "f", &f) && f == 1.5);
    CU_ASSERT(json_get_bool(o, "t", &b) && b && !json_get_bool(o, "n", &b));
    CU_ASSERT(json_get_i64(o, "d", &i) && i == 2); /* the last counts */
    CU_ASSERT_PTR_NULL(json_get(json_get(o, "s"), "x"));
    cJSON_Delete(o);
}

/* What the calls wrote, in a static buffer. */
static char line[1 << 16];
static FILE *begin(json_out_t *j) {
    FILE *f = fmemopen(line, sizeof line, "w");
    json_begin(j, f);
    return f;
}

static void test_write(void) {
    json_out_t j;
    FILE *f = begin(&j);
    json_open(&j, NULL, '{');
    json_str(&j, "id", "a");
    json_open(&j, "tokens", '[');
    json_int(&j, NULL, 5), json_int(&j, NULL, INT64_MIN);
    json_close(&j);
    json_open(&j, "none", '['), json_close(&j);
    json_open(&j, "o", '{'), json_bool(&j, "t", true), json_bool(&j, "f", false), json_num(&j, "x", NAN), json_num(&j, "y", -INFINITY),
        json_close(&j);
    json_strn(&j, "nul", "a\0b", 3);
    json_end(&j);
    json_int(&j, NULL, 1), json_end(&j); /* a second line */
    fclose(f);
    CU_ASSERT_STRING_EQUAL(
        line, "{\"id\":\"a\",\"tokens\":[5,-9223372036854775808],\"none\":[],\"o\":{\"t\":true,\"f\":false,\"x\":null,\"y\":null},"
              "\"nul\":\"a\\u0000b\"}\n1\n");
}

static void test_strings(void) {
    static const struct {
        const char *in, *out;
    } table[] = {
        {"\"\\/\b\f\n\r\t", "\"\\\"\\\\/\\b\\f\\n\\r\\t\""},
        {"\x01\x1f\x7f", "\"\\u0001\\u001f\x7f\""},
        {"h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "\"h\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\""},
        {"\xe2\x80\xa8\xe2\x80\xa9\xc2\x85\xe2\x80\xaa", "\"\\u2028\\u2029\\u0085\xe2\x80\xaa\""}, /* ends of lines */
        {"\xff", "\"\xef\xbf\xbd\""},
        {"\xe2\x82", "\"\xef\xbf\xbd\""},
        {"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xc0\xaf.", "\"\xef\xbf\xbd\xef\xbf\xbd.\""},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        json_out_t j;
        FILE *f = begin(&j);
        json_str(&j, NULL, table[i].in);
        fclose(f);
        CU_ASSERT_STRING_EQUAL(line, table[i].out);
    }
}

static void test_numbers(void) {
    static const struct {
        double v;
        const char *text;
    } table[] = {
        {0, "0"},
        {-0.0, "-0"},
        {5, "5"},
        {0.1, "0.1"},
        {1.0 / 3, "0.3333333333333333"},
        {1e21, "1e+21"},
        {1e-7, "1e-07"},
        {5e-324, "5e-324"},
        {DBL_MAX, "1.7976931348623157e+308"},
        {123456789012, "123456789012"},
        {0.1 + 0.2, "0.30000000000000004"},
        {-2.5, "-2.5"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        json_out_t j;
        FILE *f = begin(&j);
        json_num(&j, NULL, table[i].v);
        fclose(f);
        CU_ASSERT_STRING_EQUAL(line, table[i].text);
    }
    uint64_t u = 88172645463325252ull; /* xorshift: any bit pattern reads back equal */
    for (int i = 0; i < 20000; i++) {
        u ^= u << 13, u ^= u >> 7, u ^= u << 17;
        double v;
        memcpy(&v, &u, 8);
        if (!isfinite(v)) continue;
        json_out_t j;
        FILE *f = begin(&j);
        json_num(&j, NULL, v);
        fclose(f);
        CU_ASSERT(strtod(line, NULL) == v);
    }
}

static void test_raw(void) {
    static const char text[] = "{\"id\":17,\"a\":[1.5,\"\\n\",null,true,{\"k\":[]}],\"e\":{}}";
    cJSON *o;
    json_out_t j;
    CU_ASSERT_EQUAL_FATAL(json_parse(text, sizeof text - 1, "t", &o), ST_OK);
    FILE *f = begin(&j);
    json_open(&j, NULL, '[');
    json_raw(&j, NULL, o), json_raw(&j, NULL, NULL);
    json_end(&j);
    fclose(f);
    cJSON_Delete(o);
    CU_ASSERT_STRING_EQUAL(line, "[{\"id\":17,\"a\":[1.5,\"\\n\",null,true,{\"k\":[]}],\"e\":{}},null]\n");
}

static void test_span(void) {
    static const struct {
        const char *text, *key, *value;
    } table[] = {
        {"{\"a\":1}", "a", "1"},
        {" { \"a\" : \"x}\\\"\" , \"b\":[1,{\"a\":2}] }", "a", "\"x}\\\"\""},
        {"{\"b\":[1,{\"a\":2}],\"a\":3e5}", "a", "3e5"},
        {"{\"a\":{\"a\":1},\"a\":null}", "a", "null"},
        {"{\"b\":1}", "a", NULL},
        {"{\"a\":\"s\",\"\\u0061\":1}", "a", "1"},
        {"{\"a\":\"s\",\"a\\u0000b\":2}", "a", "2"},
        {"{\"ab\":1,\"\":2}", "a", NULL},
        {"[\"a\"]", "a", NULL},
        {"{}", "a", NULL},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const char *v;
        size_t n;
        bool found = json_span(table[i].text, strlen(table[i].text), table[i].key, &v, &n);
        CU_ASSERT_EQUAL(found, table[i].value != NULL);
        if (found) CU_ASSERT(n == strlen(table[i].value) && !memcmp(v, table[i].value, n));
    }
}

static void test_unescape(void) {
    static const struct {
        const char *in, *out;
        size_t n;
    } table[] = {
        {"plain", "plain", 5},
        {"\\u0000\\n\\t\\r\\b\\f\\\"\\\\\\/", "\0\n\t\r\b\f\"\\/", 9},
        {"\\u00e9\\u20AC\\uD83D\\ude00", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char out[64];
        size_t n = json_unescape(table[i].in, strlen(table[i].in), out);
        CU_ASSERT(n == table[i].n && !memcmp(out, table[i].out, n));
    }
}

static void test_mend(void) {
    static const struct {
        const char *in, *out;
        int64_t n;
    } table[] = {
        {"\"\\ud83d\\ude00\"", "\"\\ud83d\\ude00\"", 0},
        {"\"\\ud83d\"", "\"\\ufffd\"", 1},
        {"\"\\ude00x\"", "\"\\ufffdx\"", 1},
        {"\"\\ud83d\\ud83d\\ude00\"", "\"\\ufffd\\ud83d\\ude00\"", 1},
        {"\"\\\\ud83d\"", "\"\\\\ud83d\"", 0},
        {"\\ud8", "\\ud8", 0},
        {"\\", "\\", 0},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char text[64];
        strcpy(text, table[i].in);
        CU_ASSERT_EQUAL(json_mend(text, strlen(text)), table[i].n);
        CU_ASSERT_STRING_EQUAL(text, table[i].out);
    }
}

UNIT_MAIN("json", {"parse", test_parse}, {"nesting", test_nesting}, {"get", test_get}, {"write", test_write}, {"strings", test_strings},
          {"numbers", test_numbers}, {"raw", test_raw}, {"span", test_span}, {"unescape", test_unescape}, {"mend", test_mend})
