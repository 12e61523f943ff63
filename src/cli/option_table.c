/* The option table and what follows from a row of it: which values are accepted, in words, and which key was probably meant. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "cli/options.h"

#define K 1024.0
#define M (K * 1024)
#define T (M * M)

/* key, type, default, min, max, choices, unit, help; in the order of --help: what, how, how much, where it goes. */
static const option_t table[] = {
    {"model", OPT_TEXT, NULL, 0, 0, NULL, "", "the model: a .gguf file, or a Hugging Face folder with config.json"},
    {"store", OPT_TEXT, NULL, 0, 0, NULL, "", "folder of encoded segments; made when it is not there"},
    {"input", OPT_TEXT, NULL, 0, 0, NULL, "", "file of JSON lines (also .zst and .gz), or - for standard input"},
    /* the context */
    {"layout", OPT_CHOICE, "pce", 0, 0,
     "full|pce|blockgist|fine-kv|coarse-kv|coarse-rec|unigist|blockselect|pcw|structured|ape|block|star|streaming", "",
     "full: rows see all before them; pce: segments encoded apart; blockgist: the same with gists inside; fine-kv, coarse-kv, coarse-rec: "
     "segments see "
     "the gists of those before; unigist: rows see all gists and a window; blockselect: segments encoded apart keep their most important "
     "rows; for comparison pcw, structured, ape, block, star and streaming (README)"},
    {"ape-temperature", OPT_REAL, "0.9", 0.01, 100, NULL, "", "ape: the context's attention logits are divided by this"},
    {"ape-scale", OPT_REAL, "0.9", 0.01, 100, NULL, "", "ape: and their log-sum, times the temperature, is multiplied by this"},
    {"edit-temperature", OPT_REAL, NULL, 0.01, 100, NULL, "",
     "edits: logits of the pool are divided by this; not given: 0.45 when it has more than 10 entries, else 1"},
    {"keep-by", OPT_CHOICE, "reconstruct", 0, 0, "knorm|snapkv|observed|expected|reconstruct", "",
     "blockselect: rows matter by their keys' length, by the attention of the segment's last rows, of all its rows, of the queries that "
     "its "
     "own let expect, or of the segment read again; --score NAME says the same"},
    {"budget", OPT_CHOICE, "head", 0, 0, "uniform|head", "",
     "blockselect: every head keeps 1/ratio of the rows, or the best over a layer's heads stay"},
    {"segment", OPT_SIZE, "4K", 1, 16 * M, NULL, "tokens", "longest segment; longer documents are cut"},
    {"sink", OPT_TEXT, "none", 0, 0, NULL, "", "text that all segments share and see first: TEXT, @FILE or none"},
    {"align", OPT_CHOICE, NULL, 0, 0, "even|left|right|sequential", "",
     "positions of a segment shorter than the longest; not given: left for a store, even for eval ppl"},
    {"split", OPT_CHOICE, "tokens", 0, 0, "tokens|lines|paragraphs", "",
     "where a long document is cut: after exactly --segment tokens, or before that at a line's end or a blank line"},
    {"shard", OPT_CHOICE, "auto", 0, 0, "auto|segments|document", "",
     "under mpirun, who takes a document whose segments see each other: one rank (segments), all ranks together (document), or all when it "
     "is more than a rank's share (auto)"},
    {"ratio", OPT_INT, "8", 1, 4096, NULL, "tokens", "raw tokens that a gist summarises; blockselect keeps one row of so many"},
    {"local", OPT_SIZE, NULL, 0, 16 * M, NULL, "tokens",
     "raw tokens a row sees besides its own unit, a multiple of --ratio (UniGist spacing); not given: all of its segment (Fine-KV); "
     "streaming: "
     "rows it sees besides the sink, itself included; not given: 1020"},
    {"sinks", OPT_INT, "0", 0, 4096, NULL, "rows",
     "sink rows without text, in front of --sink's; what they begin as: --gist-init; streaming: tokens of the text that are its sink; "
     "not given: 4"},
    {"positions", OPT_CHOICE, NULL, 0, 0, "reused|global|compact|original", "",
     "of segments: the same range for each or (global) on through the text; of the gists that later segments see (fine-kv, coarse-kv, "
     "coarse-rec): "
     "where they were, or (compact) one after another"},
    {"gist-init", OPT_TEXT, "mean", 0, 0, NULL, "",
     "what a gist's input is without an adapter: mean (of all embeddings), unit (of its tokens'), or a token's id"},
    {"adapter", OPT_TEXT, NULL, 0, 0, NULL, "",
     "safetensors file of trained gist and sink rows and of changes to the model (src/model/ADAPTER.md)"},
    {"keep", OPT_CHOICE, "gist", 0, 0, "gist|raw|both", "",
     "rows of a gist layout that go to the store; blockselect: the rows it selects, or all "
     "with a list of those"},
    {"fetch", OPT_CHOICE, "none", 0, 0, "none|raw", "",
     "raw: --select chooses segments by their gists, then attends to their raw rows (two-level)"},
    {"rope-length", OPT_SIZE, NULL, 1, 1024 * M, NULL, "tokens",
     "positions the whole run takes, for models with dynamic or longrope scaling whose frequencies depend on it; not given: no more than "
     "the model was trained for"},
    {"reserve", OPT_CHOICE, "max", 0, 0, "max|mean|harmonic", "",
     "positions held by the segments: their longest, mean or harmonic mean length"},
    {"bos", OPT_FLAG, "no", 0, 0, NULL, "", "put the model's beginning-of-sequence token in front"},
    /* questions */
    {"prompt", OPT_TEXT, NULL, 0, 0, NULL, "", "one question, as text"},
    {"prompts", OPT_TEXT, NULL, 0, 0, NULL, "", "questions: JSON lines {\"id\",\"prompt\"}, or - for standard input"},
    {"docs", OPT_TEXT, NULL, 0, 0, NULL, "", "only these documents of the store: ids, separated by commas"},
    {"select", OPT_INT, "0", 0, 1e6, NULL, "segments", "attend to the K best segments of each layer (SEL); 0: to all"},
    {"aggregate", OPT_CHOICE, NULL, 0, 0, "none|head|token|joint", "",
     "who chooses with --select: each head and token, all heads of a token, all tokens of a head, all jointly; not given: joint, in eval "
     "ppl none"},
    {"select-by", OPT_CHOICE, "top5", 0, 0, "top5|mean", "", "score of a segment: its 5 largest attention probabilities, or its mean one"},
    {"chat", OPT_FLAG, "no", 0, 0, NULL, "", "put the prompt into the model's chat template"},
    {"system", OPT_TEXT, NULL, 0, 0, NULL, "", "system message for --chat in place of the template's own"},
    {"max-tokens", OPT_INT, "128", 1, 1e6, NULL, "tokens", "longest answer"},
    {"temperature", OPT_REAL, "0", 0, 100, NULL, "", "0: always the likeliest token; 1: as the model has it"},
    {"top-p", OPT_REAL, "1", 1e-6, 1, NULL, "", "draw from the likeliest tokens that hold this share"},
    {"seed", OPT_INT, "0", 0, 9007199254740992.0, NULL, "", "of the draw"},
    {"stats", OPT_FLAG, "no", 0, 0, NULL, "", "add timings, evidence and entropy to each answer"},
    {"slots", OPT_INT, "8", 1, 4096, NULL, "prompts", "prompts answered side by side, which share the reading of the weights"},
    {"deal", OPT_CHOICE, "auto", 0, 0, "auto|segments|prompts", "",
     "under mpirun, what ranks divide: the context's segments, each reading its part, or the prompts, each reading all of the context; "
     "auto: "
     "segments of a store, else prompts"},
    /* perplexity */
    {"window", OPT_SIZE, "8K", 16, 16 * M, NULL, "tokens", "of each document, full windows only"},
    {"score", OPT_SIZE, "1K", 1, 16 * M, NULL, "tokens", "the last tokens of a window, which are scored; a word: --keep-by"},
    {"pieces", OPT_INT_LIST, "1,2,4,8", 1, 65536, NULL, "pieces",
     "cut the context of a window into this many; a list makes a row for each"},
    {"agree", OPT_FLAG, "no", 0, 0, NULL, "", "compare the scored rows with full attention over the window: KL and equal likeliest tokens"},
    {"by-position", OPT_FLAG, "no", 0, 0, NULL, "", "the loss by place inside a piece (boundary probe) and inside the scored rows, too"},
    {"entropy", OPT_CHOICE, "mean", 0, 0, "mean|per-layer", "", "per-layer: the attention entropy of every layer and head, too"},
    {"limit", OPT_SIZE, NULL, 1, T, NULL, "items", "stop after this many documents, windows or prompts"},
    /* tokens and logits */
    {"tokens", OPT_TEXT, NULL, 0, 0, NULL, "", "file of token ids separated by white space, or -"},
    {"decode", OPT_FLAG, "no", 0, 0, NULL, "", "the other way: ids in, text out"},
    {"special", OPT_FLAG, "yes", 0, 0, NULL, "",
     "special tokens written in the text become their ids; --no-special: they are ordinary text"},
    {"all-rows", OPT_FLAG, "no", 0, 0, NULL, "", "rows of sinks and gists, too, in the order of the sequence"},
    {"out", OPT_TEXT, NULL, 0, 0, NULL, "", "file to write"},
    /* the machine */
    {"dtype", OPT_CHOICE, "auto", 0, 0, "auto|f32|bf16", "", "numbers to compute in; auto: bf16 where the CPU is fast at it"},
    {"kv-dtype", OPT_CHOICE, "bf16", 0, 0, "bf16|f16|f32", "", "numbers to keep keys and values in"},
    {"backend", OPT_CHOICE, "auto", 0, 0, "auto|cpu|cpu_ref|cuda", "", "cpu_ref: the plain reference, slow"},
    {"share-gpu", OPT_FLAG, "no", 0, 0, NULL, "", "several ranks may use one GPU; what they send each other goes through the host"},
    {"threads", OPT_INT, NULL, 1, 4096, NULL, "threads",
     "of each rank; not given: OMP_NUM_THREADS, SLURM_CPUS_PER_TASK, or its share of the CPUs it may use"},
    {"speed", OPT_REAL, NULL, 1e-6, 1e12, NULL, "",
     "of this rank beside the others of a job, in any unit: its part of the encoding; not given: all alike, or measured where some have "
     "GPUs "
     "and some CPUs"},
    {"batch", OPT_SIZE, NULL, 1, M, NULL, "rows", "rows that go through the model at once; not given: chosen from segment and memory"},
    {"ranks", OPT_INT, "1", 1, 1e6, NULL, "ranks", "to plan for"},
    {"ranks-per-node", OPT_INT, "1", 1, 1024, NULL, "ranks", "that share a node and its copy of the weights"},
    {"corpus-tokens", OPT_SIZE, NULL, 1, T, NULL, "tokens", "plan for a corpus of this many tokens in place of files"},
    {"max-bytes", OPT_SIZE, NULL, M, 1024 * T, NULL, "bytes", "memory that a rank may use; not given: its share of the node's"},
    {"gpu-memory", OPT_SIZE, NULL, M, 1024 * T, NULL, "bytes", "of a GPU to plan for; not given: what the GPU here has free, or no GPU"},
    {"mask", OPT_FLAG, "no", 0, 0, NULL, "", "attend through the layout's row-by-row rule in place of its spans: the check, slow"},
    /* measurements */
    {"shape", OPT_CHOICE, "tiny", 0, 0, "tiny|smollm2|1b|8b", "", "dimensions of the model that is made up"},
    {"segments", OPT_INT, "4", 1, 1e6, NULL, "segments", "to encode"},
    {"context", OPT_SIZE, "8K", 0, T, NULL, "rows", "of K/V that the prompts see"},
    {"kv-to", OPT_CHOICE, "device", 0, 0, "device|host", "", "host: keys and values are copied out beside the encoding"},
    {"repeats", OPT_INT, "3", 1, 64, NULL, "runs", "of which the median is given"},
    {"profile", OPT_FLAG, "no", 0, 0, NULL, "",
     "bench: run once more with every operation timed; encode: tell how long the device computed, and what was waited for"},
    /* the run */
    {"verify", OPT_FLAG, "yes", 0, 0, NULL, "",
     "read every stored byte that is used and compare its checksum first; --no-verify: trust the disk"},
    {"format", OPT_CHOICE, NULL, 0, 0, "text|json|jsonl|csv", "", "of what is printed; not given: text, for --prompts jsonl"},
    {"progress", OPT_CHOICE, "auto", 0, 0, "auto|on|off", "", "a bar on a terminal, a line now and then elsewhere"},
    {"all", OPT_FLAG, "no", 0, 0, NULL, "", "every metadata key and tensor too"},
    {"quiet", OPT_FLAG, "no", 0, 0, NULL, "", "warnings and errors only"},
    {"verbose", OPT_FLAG, "no", 0, 0, NULL, "", "say more of what is decided and why"},
    {"config", OPT_TEXT, NULL, 0, 0, NULL, "", "file of lines key = value; PRECIS_KEY in the environment and flags go before it"},
    {"print-config", OPT_FLAG, "no", 0, 0, NULL, "", "print every setting, its value and where it came from, and stop"},
};

const option_t *option_table(int *n) {
    *n = (int)(sizeof table / sizeof *table);
    return table;
}

const option_t *option_find(const char *key) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (!strcmp(table[i].key, key)) return &table[i];
    return NULL;
}

const char *option_meant(const char *key, const char *value) {
    return value && !strcmp(key, "score") && option_has_choice(option_find("keep-by"), value) ? "keep-by" : key;
}

/* 4096 as 4K, 1048577 as it is. */
static void size_text(double v, char *out, size_t cap) {
    static const char *const unit[] = {"", "K", "M", "G", "T", "P"};
    int u = 0;
    while (u < 5 && v >= K && fmod(v, K) == 0) {
        v /= K;
        u++;
    }
    snprintf(out, cap, "%.16g%s", v, unit[u]);
}

void option_accepts(const option_t *o, char *out, size_t cap) {
    char lo[32], hi[32];
    switch (o->type) {
    case OPT_INT:
    case OPT_INT_LIST:
        snprintf(out, cap, "%s from %.16g to %.16g", o->type == OPT_INT ? "a whole number" : "whole numbers separated by commas, each",
                 o->min, o->max);
        break;
    case OPT_SIZE:
        size_text(o->min, lo, sizeof lo);
        size_text(o->max, hi, sizeof hi);
        snprintf(out, cap, "a whole number of %s from %s to %s, as 4096, 4K or 4KiB (K, M, G, T are powers of 1024)",
                 *o->unit ? o->unit : "units", lo, hi);
        break;
    case OPT_REAL:
        snprintf(out, cap, "a number from %g to %g", o->min, o->max);
        break;
    case OPT_FLAG:
        snprintf(out, cap, "yes or no");
        break;
    case OPT_CHOICE: {
        size_t n = (size_t)snprintf(out, cap, "one of ");
        for (const char *c = o->choices; *c && n + 3 < cap; c++) {
            if (*c == '|') out[n++] = ',';
            out[n++] = *c == '|' ? ' ' : *c;
        }
        out[n < cap ? n : cap - 1] = 0;
        break;
    }
    case OPT_TEXT:
        snprintf(out, cap, "text");
        break;
    }
}

/* Edit distance with neighbours swapped counting as one mistake ("encoed" is one step from "encode"). Words longer than 63 bytes are far
 * from everything. */
static int distance(const char *a, size_t n, const char *b, size_t m) {
    enum { LONGEST = 63 };
    int d[3][LONGEST + 1];
    if (n > LONGEST || m > LONGEST) return LONGEST;
    int *before = d[0], *last = d[1], *now = d[2];
    for (size_t j = 0; j <= m; j++) last[j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        now[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best) best = last[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best) best = before[j - 2] + 1;
            now[j] = best;
        }
        int *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[m];
}

bool option_nearest(const char *word, const char *words, char *out, size_t cap) {
    size_t n = strlen(word), best_n = 0;
    int best = 1000;
    const char *nearest = NULL;
    for (const char *w = words; *(w += strspn(w, " "));) {
        size_t end = strcspn(w, " "), m = strcspn(w, " !=");
        int d = distance(word, n, w, m);
        if (n >= 3 && m > n && !strncmp(word, w, n) && d > 1) d = 1; /* the beginning of a word was probably meant to be it */
        if (d < best) {
            best = d;
            nearest = w;
            best_n = m;
        }
        w += end;
    }
    if (!nearest || best > 1 + (int)(n > best_n ? n : best_n) / 3) return false;
    snprintf(out, cap, "%.*s", (int)best_n, nearest);
    return true;
}
