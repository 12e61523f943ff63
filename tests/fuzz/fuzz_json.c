/* JSON: what is parsed and written is parsed and written the same again; the helpers on raw text stay within it. */
#include "fuzz.h"
#include "io/json.h"
#include "io/json_span.h"

static char *write_value(const cJSON *v, size_t *n) {
    char *text = NULL;
    FILE *f = open_memstream(&text, n);
    json_out_t j;
    FUZZ_CHECK(f);
    json_begin(&j, f);
    json_raw(&j, NULL, v);
    fclose(f);
    return text;
}

static void check_span(const char *text, size_t bytes, const cJSON *v) {
    const char *raw;
    size_t n;
    const cJSON *member = json_get(v, "text");
    bool found = json_span(text, bytes, "text", &raw, &n);
    if (!cJSON_IsObject(v)) return;
    FUZZ_CHECK(found == (member != NULL));
    if (!found) return;
    fuzz_touch(raw, n);
    FUZZ_CHECK(n >= 1 && (raw[0] == '"') == (cJSON_IsString(member) != 0));
    if (raw[0] != '"') return;
    FUZZ_CHECK(n >= 2);
    char *plain = malloc(n);
    size_t plain_n = json_unescape(raw + 1, n - 2, plain);
    FUZZ_CHECK(plain_n <= n - 2 && !strncmp(plain, member->valuestring, plain_n)); /* equal up to the first NUL */
    free(plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    cJSON *v, *again;
    char *text = malloc(bytes ? bytes : 1);
    if (bytes) memcpy(text, data, bytes);
    json_mend(text, bytes);
    status_t st = json_parse(text, bytes, "fuzz.json", &v);
    fuzz_check_status(st);
    if (!st) {
        size_t first_n, second_n;
        char *first = write_value(v, &first_n);
        FUZZ_CHECK(json_parse(first, first_n, "again", &again) == ST_OK);
        char *second = write_value(again, &second_n);
        FUZZ_CHECK(first_n == second_n && !memcmp(first, second, first_n));
        check_span(text, bytes, v);
        cJSON_Delete(again);
        free(first);
        free(second);
    }
    cJSON_Delete(v);
    free(text);
    return 0;
}
