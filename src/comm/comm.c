/* What any communicator can do with its collectives: agree on a status.
 *
 * Phase ends look like   st = comm_agree(c, st); if (st) goto out;   on every rank, so nobody is left in a collective that the others skip.
 */
#include "comm/comm.h"

#include <stdio.h>
#include <string.h>

enum { AGREE_MESSAGE_MAX = 2048 };

/* Failures outrank a stop (75): a run that failed on one rank and was stopped on another must not look restartable. */
static int64_t severity(status_t st) {
    switch (st) {
    case ST_OK:
        return 0;
    case ST_STOPPED:
        return 1;
    case ST_INPUT:
        return 2;
    case ST_USAGE:
        return 3;
    case ST_FAIL:
        break;
    }
    return 4;
}

/* Agreed upon before: it says whose message it was. */
static bool names_rank(const char *message) {
    int end = 0;
    return sscanf(message, "rank %*d: %n", &end) == 0 && end > 0;
}

status_t comm_agree(comm_t *c, status_t mine) {
    static const status_t by_severity[] = {ST_OK, ST_STOPPED, ST_INPUT, ST_USAGE, ST_FAIL};
    if (c->size == 1) return mine;
    /* One number orders (severity, then the lower rank): its maximum names the rank whose message everyone takes. */
    int64_t code = severity(mine) * c->size + (c->size - 1 - c->rank);
    status_t st = c->ops->max_i64(c, &code, 1);
    if (st) return st;
    int64_t worst = code / c->size;
    if (worst == 0) return ST_OK;
    int speaker = c->size - 1 - (int)(code % c->size);
    char text[AGREE_MESSAGE_MAX] = "";
    if (c->rank == speaker && names_rank(status_message()))
        snprintf(text, sizeof text, "%s", status_message());
    else if (c->rank == speaker)
        snprintf(text, sizeof text, "rank %d: %s", c->rank, status_message());
    st = c->ops->bcast(c, speaker, text, sizeof text);
    if (st) return st;
    text[sizeof text - 1] = '\0';
    return status_fail(by_severity[worst], "%s", text);
}
