/* precis edit encode, edit query: a pool of edits, each kept as one gist (methods.md section 6). The jobs are encode's and query's; what is
 * different follows from the layout `incomes`. */
#include "cli/commands.h"

const command_t cmd_edit_encode = {
    .spec =
        {.name = "edit encode",
         .summary = "edits into a store, each as one gist: facts to be used without being read again",
         .usage = "precis edit encode --model M --store DIR [options] EDITS...",
         .text =
             "Encodes each edit alone (BOS, its text, one gist behind it) and keeps the gist's keys, before rotation, and values in the "
             "upper half of the layers. EDITS are JSON\n"
             "lines ({\"id\",\"text\"} a line) or text files, a file being one edit. Equal edits are kept once; what DIR holds already "
             "is not encoded again. Without an\n"
             "--adapter the gist begins as --gist-init says, which the model was not trained for.",
         .examples = "  precis edit encode --model M.gguf --adapter edits.safetensors --store edits.store edits.jsonl\n"
                     "  mpirun -n 4 precis edit encode --model M.gguf --store edits.store edits.jsonl.zst\n",
         .keys = "model! store! adapter gist-init special kv-dtype rope-length dtype backend share-gpu threads speed batch verify format "
                 "progress quiet "
                 "verbose config print-config",
         .min_args = 1,
         .max_args = -1},
    .ranks = true,
    .run = encode_run};

const command_t cmd_edit_query = {
    .spec =
        {.name = "edit query",
         .summary = "answer prompts with a pool of edits beside the model's own attention",
         .usage = "precis edit query --model M --store DIR (--prompt TEXT | --prompts FILE.jsonl) [options]",
         .text = "In the upper half of the layers each row also attends to all edits of DIR, in a softmax of its own with an entry that "
                 "says that none is needed, and adds what it\n"
                 "finds. The pool is divided over the ranks; the answer has the same bits on any number of them. Prompts begin without "
                 "BOS. entropy is that of the rows' own attention, edit_share what rows took from edits, not from that entry.",
         .examples = "  precis edit query --model M.gguf --adapter edits.safetensors --store edits.store --prompt 'The capital of X is'\n"
                     "  mpirun -n 4 precis edit query --model M.gguf --store edits.store --prompts questions.jsonl\n",
         .keys =
             "model! store! docs prompt prompts adapter edit-temperature chat system bos special max-tokens temperature top-p seed "
             "slots deal stats rope-length dtype backend share-gpu threads batch verify format quiet verbose progress config print-config",
         .min_args = 0,
         .max_args = 0},
    .ranks = true,
    .run = query_run};
