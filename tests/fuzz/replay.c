/* Runs one harness over every file of the folders (or files) named on the command line: the main() that libFuzzer would bring along, for
 * any compiler. Files run in the order of their names; REPLAY_VERBOSE=1 prints each before it runs, so the last one printed is the one that
 * crashed.
 *
 * README.md beside this file says how to run a campaign.
 */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "fuzz.h"

enum { INPUT_BYTES_MAX = 1 << 24 };

static int run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    struct stat s;
    if (!f || fstat(fileno(f), &s) || s.st_size > INPUT_BYTES_MAX) {
        fprintf(stderr, "%s: cannot be read\n", path);
        if (f) fclose(f);
        return 1;
    }
    size_t n = (size_t)s.st_size;
    uint8_t *data = malloc(n ? n : 1); /* of exactly this size: a byte too far is seen */
    int bad = !data || fread(data, 1, n, f) != n;
    fclose(f);
    if (!bad) LLVMFuzzerTestOneInput(data, n);
    free(data);
    return bad;
}

static int visible(const struct dirent *e) { return e->d_name[0] != '.'; }

static int run_path(const char *path, int *n_run) {
    char now[PATH_MAX];
    struct dirent **names;
    struct stat s;
    int bad = 0;
    if (stat(path, &s) || !S_ISDIR(s.st_mode)) {
        ++*n_run;
        return run_file(path);
    }
    int n = scandir(path, &names, visible, alphasort);
    for (int i = 0; i < n; i++) {
        snprintf(now, sizeof now, "%s/%s", path, names[i]->d_name);
        if (getenv("REPLAY_VERBOSE")) fprintf(stderr, "%s\n", now);
        bad += run_file(now);
        ++*n_run;
        free(names[i]);
    }
    if (n >= 0) free(names);
    return bad;
}

int main(int argc, char **argv) {
    int n_run = 0, bad = 0;
    for (int i = 1; i < argc; i++) bad += run_path(argv[i], &n_run);
    const char *slash = strrchr(argv[0], '/');
    printf("%s: %d passed, %d failed\n", slash ? slash + 1 : argv[0], n_run - bad, bad);
    if (!n_run) fprintf(stderr, "no inputs; name a folder of them\n");
    return bad || !n_run;
}
