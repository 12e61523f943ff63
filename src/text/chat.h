/* Chat families, told by the words of the template that comes with a model (which is a program in a language we do not run). */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum { CHAT_TEMPLATE_MAX = 1 << 20, CHAT_MARK_MAX = 24 };

typedef enum { CHAT_NONE, CHAT_CHATML, CHAT_LLAMA3, CHAT_LLAMA2, CHAT_MISTRAL, CHAT_ZEPHYR } chat_family_t;
typedef struct {
    chat_family_t family;
    bool dated;   /* llama3: the system turn opens with dates */
    char *system; /* the family's default system text; NULL: none */
    /* llama2, mistral: as the template spells them, with the blanks around */
    char open[CHAT_MARK_MAX], close[CHAT_MARK_MAX];
    bool bos, trims, has_system;
    bool turn_line, last_line; /* zephyr: a newline after a turn; after the last head */
} chat_t;

status_t chat_recognise(chat_t *c, const char *text, size_t n);
void chat_free(chat_t *c);

#endif
