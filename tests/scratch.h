/* Folders of a test's own:
 *
 *     char dir[SCRATCH_PATH];
 *     scratch_dir(dir, SCRATCH_DISK);
 *
 * They go when the program does, also behind a fatal failure, a timeout's SIGTERM or an abort; SIGKILL alone leaves them.
 */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SCRATCH_PATH = 512 };
typedef enum { SCRATCH_DISK, SCRATCH_MEMORY } scratch_place_t; /* below TMPDIR, else /tmp; in /dev/shm where there is one */

static struct {
    char root[2][SCRATCH_PATH - 16]; /* one for each place, made when it is wanted */
    int n;                           /* folders in them */
    pid_t owner;                     /* children of the test leave them alone */
} scratch;

/* By another program, since a signal's handler may not walk folders itself. */
static inline void scratch_clean(void) {
    for (int i = 0; i < 2 && getpid() == scratch.owner; i++) {
        if (!*scratch.root[i]) continue;
        pid_t child = fork();
        if (child == 0) {
            execlp("rm", "rm", "-rf", scratch.root[i], (char *)NULL);
            _exit(127);
        }
        if (child > 0) waitpid(child, NULL, 0);
    }
}

static inline void scratch_on_signal(int sig) {
    scratch_clean();
    signal(sig, SIG_DFL);
    raise(sig);
}

static inline void scratch_begin(void) {
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGABRT};
    scratch.owner = getpid();
    atexit(scratch_clean);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) signal(signals[i], scratch_on_signal);
}

static inline void scratch_dir(char dir[SCRATCH_PATH], scratch_place_t place) {
    const char *wish = getenv("TMPDIR"), *base = wish && *wish ? wish : "/tmp";
    char *root = scratch.root[place];
    if (place == SCRATCH_MEMORY && !access("/dev/shm", W_OK)) base = "/dev/shm";
    if (!scratch.owner) scratch_begin();
    if (!*root) {
        snprintf(root, sizeof *scratch.root, "%s/precis-test.XXXXXX", base);
        if (!mkdtemp(root)) perror(root), exit(1);
    }
    snprintf(dir, SCRATCH_PATH, "%s/%d", root, scratch.n++);
    if (mkdir(dir, 0777)) perror(dir), exit(1);
}

#endif
