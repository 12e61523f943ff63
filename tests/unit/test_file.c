#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "io/file.h"
#include "scratch.h"
#include "unit.h"

static char folder[SCRATCH_PATH], path[PATH_MAX], text[64];

static const char *in(const char *name) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void test_round_trip(void) {
    file_map_t m;
    char *read_back;
    size_t n;
    CU_ASSERT_EQUAL_FATAL(file_write_atomic(in("a"), "hello", 5), ST_OK);
    CU_ASSERT_EQUAL(file_write_atomic(in("a"), "bye", 3), ST_OK); /* replaces */
    CU_ASSERT_EQUAL_FATAL(file_map(in("a"), &m), ST_OK);
    CU_ASSERT(m.bytes == 3 && !memcmp(m.data, "bye", 3));
    file_unmap(&m);
    CU_ASSERT(!m.data && !m.bytes);
    file_unmap(&m); /* again does nothing */
    CU_ASSERT_EQUAL(file_read_text(in("a"), 3, &read_back, &n), ST_OK);
    CU_ASSERT(n == 3 && !strcmp(read_back, "bye"));
    mem_free(read_back);
    CU_ASSERT_EQUAL(file_read_text(in("a"), 2, &read_back, &n), ST_INPUT);
    CU_ASSERT_PTR_NULL(read_back);
    CU_ASSERT_EQUAL(file_write_atomic(in("a"), NULL, 0), ST_OK);
    CU_ASSERT_EQUAL(file_map(in("a"), &m), ST_OK);
    CU_ASSERT(!m.data && !m.bytes);
    CU_ASSERT_EQUAL(file_read_text(in("a"), 2, &read_back, NULL), ST_OK);
    CU_ASSERT_STRING_EQUAL(read_back, "");
    mem_free(read_back);
    unlink(in("a"));
}

static void test_missing(void) {
    file_map_t m;
    char *t;
    CU_ASSERT_EQUAL(file_map(in("none"), &m), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "none: no such file"));
    CU_ASSERT_EQUAL(file_map(folder, &m), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "is a folder"));
    CU_ASSERT_EQUAL(file_map("/dev/null", &m), ST_INPUT);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "no regular file"));
    CU_ASSERT_EQUAL(file_read_text(in("none"), 10, &t, NULL), ST_INPUT);
    CU_ASSERT(!file_exists(in("none")) && file_exists(folder) && file_is_dir(folder) && !file_is_dir("/dev/null"));
}

static void test_make_dirs(void) {
    CU_ASSERT_EQUAL(file_make_dirs(in("x/y//z")), ST_OK);
    CU_ASSERT(file_is_dir(in("x/y/z")));
    CU_ASSERT_EQUAL(file_make_dirs(in("x/y/z/")), ST_OK); /* already there */
    CU_ASSERT_EQUAL(file_write_atomic(in("x/f"), "1", 1), ST_OK);
    CU_ASSERT_EQUAL(file_make_dirs(in("x/f")), ST_FAIL);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "is no folder"));
    CU_ASSERT_EQUAL(file_make_dirs(in("x/f/g")), ST_FAIL);
    CU_ASSERT_EQUAL(file_make_dirs(""), ST_FAIL);
    CU_ASSERT_EQUAL(file_write_atomic(in("none/f"), "1", 1), ST_FAIL);
    CU_ASSERT_EQUAL(file_write_atomic(in("x/y"), "1", 1), ST_FAIL); /* a folder is in the way */
    CU_ASSERT(!file_exists(in("x/y.tmp")));
    unlink(in("x/f"));
    rmdir(in("x/y/z")), rmdir(in("x/y"));
    CU_ASSERT_EQUAL(rmdir(in("x")), 0); /* no temporary was left */
}

static void test_full_disk(void) {
    int fd = open("/dev/full", O_WRONLY);
    if (fd < 0) return; /* not on this system */
    CU_ASSERT_EQUAL(file_write_all(fd, "/dev/full", text, sizeof text), ST_FAIL);
    CU_ASSERT_PTR_NOT_NULL(strstr(status_message(), "no space left on /dev/full"));
    close(fd);
}

static void test_clean_up(void) { CU_ASSERT_EQUAL(rmdir(folder), 0); } /* nothing was left */
static void test_set_up(void) { scratch_dir(folder, SCRATCH_DISK); }

UNIT_MAIN("file", {"set_up", test_set_up}, {"round_trip", test_round_trip}, {"missing", test_missing}, {"make_dirs", test_make_dirs},
          {"full_disk", test_full_disk}, {"clean_up", test_clean_up})
