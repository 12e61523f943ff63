# Sourced: tiny_model DIR makes a model that reads text, in a moment: the random llama of tests/golden with a tokenizer of 160 tokens. Then what to ask it.

# 94 printable characters, blank, newline, and 64 merges of two: ids 0..159. In the byte-level alphabet a blank is written U+0120, a newline U+010A.
write_tokenizer() {
    awk 'BEGIN {
        s = "\304\240"; n = 0
        for (c = 33; c < 127; c++) { t = sprintf("%c", c); if (t == "\"" || t == "\\") t = "\\" t; v[n++] = t }
        v[n++] = s; v[n++] = "\304\212"
        for (i = 0; i < 26; i++) { m[k++] = s " " sprintf("%c", 97 + i); v[n++] = s sprintf("%c", 97 + i) }
        for (i = 0; i < 26; i++) { m[k++] = sprintf("%c", 97 + i) " e"; v[n++] = sprintf("%ce", 97 + i) }
        for (i = 0; i < 12; i++) { m[k++] = sprintf("%c", 98 + i) " a"; v[n++] = sprintf("%ca", 98 + i) }
        printf "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
        printf "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"unk_token\":null,\"vocab\":{"
        for (i = 0; i < n; i++) printf "%s\"%s\":%d", i ? "," : "", v[i], i
        printf "},\"merges\":["
        for (i = 0; i < k; i++) printf "%s\"%s\"", i ? "," : "", m[i]
        print "]}}"
    }'
}

tiny_llama=$(cd "$(dirname "${BASH_SOURCE[0]}")/golden/tiny-llama" && pwd)
tiny_model() { # DIR
    mkdir -p "$1" && cp "$tiny_llama/config.json" "$tiny_llama/model.safetensors" "$1" && LC_ALL=C write_tokenizer >"$1/tokenizer.json"
}

tiny_prompts() { # three, in JSON lines
    cat <<'PROMPTS'
{"id":1,"prompt":"You may"}
{"id":2,"prompt":"Subject to the terms and conditions of this License, each Contributor hereby grants to You a perpetual, worldwide licence"}
{"id":3,"prompt":"x"}
PROMPTS
}
# FILE FILE: the answers to them by two backends are one, but two tokens may be as likely as each other to rounding: one answer of three may part there.
answers_alike() {
    [ "$(wc -l <"$1")" -eq 3 ] && [ "$(paste -d'|' "$1" "$2" | awk -F'|' '$1 == $2 { n++ } END { print n + 0 }')" -ge 2 ]
}

tiny_edits() { # N, in JSON lines
    awk -v n="$1" 'BEGIN { for (i = 0; i < n; i++) printf "{\"id\":\"edit %d\",\"text\":\"The size of %d is %d.\"}\n", i, i, i * 37 }'
}
