/* A bar is rewritten in place ten times a second; a log gets a line every few seconds, more rarely as the work goes on (5 s at first, then
 * 5 % of the time spent, at most a minute apart), so that a night's job leaves a page and not a book. */
#include "base/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

static void duration_text(double s, char *out, size_t cap) {
    int64_t t = (int64_t)(s + 0.5);
    if (s < 10)
        snprintf(out, cap, "%.1f s", s);
    else if (t < 120)
        snprintf(out, cap, "%lld s", (long long)t);
    else if (t < 2 * 3600)
        snprintf(out, cap, "%lld min", (long long)(t / 60));
    else
        snprintf(out, cap, "%lld h %lld min", (long long)(t / 3600), (long long)(t / 60 % 60));
}

void progress_begin(progress_t *p, const char *what, const char *unit, int64_t total, bool on) {
    *p = (progress_t){.what = what, .unit = unit, .total = total, .on = on, .every_s = 5};
    p->begin_s = p->last_s = clock_s();
    p->terminal = on && isatty(STDERR_FILENO);
    if (p->terminal) p->every_s = 0.1;
}

/* what 1200/5000 unit, 800 unit/s, 5 s to go */
static int progress_text(const progress_t *p, double spent, char *out, size_t cap) {
    char left[32] = "";
    double rate = spent > 0 ? (double)p->done / spent : 0;
    int n = snprintf(out, cap, "%s %lld/%lld %s, %.*f %s/s", p->what, (long long)p->done, (long long)p->total, p->unit, rate < 10, rate,
                     p->unit);
    if (rate > 0 && p->done < p->total) {
        duration_text((double)(p->total - p->done) / rate, left, sizeof left);
        n += snprintf(out + n, cap - (size_t)n, ", %s to go", left);
    }
    return n;
}

static void draw_bar(const progress_t *p, const char *text) {
    enum { WIDTH = 24 };
    char line[512], bar[WIDTH + 1];
    int full = p->total > 0 ? (int)((double)p->done / (double)p->total * WIDTH) : 0;
    for (int i = 0; i < WIDTH; i++) bar[i] = i < full ? '#' : '.';
    bar[WIDTH] = 0;
    int n = snprintf(line, sizeof line, "\r[%s] %s\033[K", bar, text);
    ssize_t written = write(STDERR_FILENO, line, (size_t)n);
    (void)written;
}

void progress_update(progress_t *p, int64_t done) {
    char text[256];
    p->done = done;
    if (!p->on) return;
    double now = clock_s(), spent = now - p->begin_s;
    if (now - p->last_s < p->every_s) return;
    p->last_s = now;
    progress_text(p, spent, text, sizeof text);
    if (p->terminal)
        draw_bar(p, text);
    else {
        log_info("%s", text);
        p->every_s = spent * 0.05 < 5 ? 5 : spent * 0.05 > 60 ? 60 : spent * 0.05;
    }
}

void progress_end(progress_t *p) {
    char spent_text[32];
    if (!p->on) return;
    double spent = clock_s() - p->begin_s, rate = spent > 0 ? (double)p->done / spent : 0;
    duration_text(spent, spent_text, sizeof spent_text);
    if (p->terminal && write(STDERR_FILENO, "\r\033[K", 4) < 0) return;
    if (p->total > 0) log_info("%s %lld %s in %s, %.*f %s/s", p->what, (long long)p->done, p->unit, spent_text, rate < 10, rate, p->unit);
    p->on = false;
}
