/* SIGTERM, SIGUSR1 and SIGINT mean "stop at the next consistent point": the handler sets a flag, the loops look at it. A second SIGINT ends
 * the process at once. */
#ifndef BASE_STOP_H
#define BASE_STOP_H

#include <stdbool.h>

void stop_install(void);
bool stop_requested(void);
const char *stop_reason(void); /* "SIGTERM", ..; "" when none came */

#endif
