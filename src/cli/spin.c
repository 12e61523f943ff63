/* OpenMP's threads spin for a moment before they sleep. libgomp's own moment is so long that on cores shared with other work (a test
 * machine, more ranks than cores) waiting threads use up the time that those they wait for would need: with 17 runnable processes on 2
 * cores decoding fell to 1.8 tokens/s, and reached 7.3 with this one; on idle cores it cost nothing that could be measured (SPEED.md).
 *
 * libgomp reads the setting when it is loaded, before main, so the process starts itself once more with GOMP_SPINCOUNT in its environment,
 * before any library has run. Set OMP_WAIT_POLICY or GOMP_SPINCOUNT to decide otherwise; then nothing is started anew.
 */
#if defined(__linux__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#include <string.h>
#include <unistd.h>

enum { ENV_MAX = 4096 };
static char setting[] = "GOMP_SPINCOUNT=2000";

static void short_spin(int argc, char **argv, char **env) {
    static char *more[ENV_MAX + 2];
    int n = 0;
    (void)argc;
    for (; env[n]; n++) {
        if (n == ENV_MAX || !strncmp(env[n], "GOMP_SPINCOUNT=", 15) || !strncmp(env[n], "OMP_WAIT_POLICY=", 16)) return;
        more[n] = env[n];
    }
    more[n] = setting;
    execve("/proc/self/exe", argv, more); /* where it cannot, go on as we are */
}

__attribute__((section(".preinit_array"), used)) static void (*const before_libraries)(int, char **, char **) = short_spin;
#else
typedef int spin_not_needed_t; /* a file must declare something */
#endif
