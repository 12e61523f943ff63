#include "base/stop.h"

#include <signal.h>
#include <unistd.h>

static volatile sig_atomic_t caught;

static void on_signal(int sig) {
    if (sig == SIGINT && caught == SIGINT) _exit(130);
    caught = sig;
}

void stop_install(void) {
    struct sigaction a = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&a.sa_mask);
    sigaction(SIGTERM, &a, 0);
    sigaction(SIGUSR1, &a, 0);
    sigaction(SIGINT, &a, 0);
}

bool stop_requested(void) { return caught != 0; }

const char *stop_reason(void) { return caught == SIGTERM ? "SIGTERM" : caught == SIGUSR1 ? "SIGUSR1" : caught == SIGINT ? "SIGINT" : ""; }
