#!/bin/bash
# What goes wrong on a cluster: mistaken options, files that are missing, cut or of another kind, texts of another encoding, full and read-only disks, stores of
# another model, two runs on one store, killed runs.   usage: tests/misuse/run.sh build/precis
# Each must end with the right exit code (0 good, 1 the run failed, 2 usage, 3 bad input, 75 stopped) and one message that names the file, the place and the value
# and says what to do. tests/expect.sh says what a pattern is. Where no small disk can be mounted, those cases are skipped.
set -u
here=$(dirname "$0")
. "$here/../expect.sh"
. "$here/../tiny_model.sh"
. "$here/../parallel/env.sh"
begin misuse "$@"
unset "${!PRECIS_@}"
skipped=0 slow=
finish() {
    [ -z "$slow" ] || kill -9 "$slow" 2>/dev/null
    mountpoint -q "$dir/disk" && umount "$dir/disk"
    [ "${KEEP:-0}" = 1 ] || rm -rf "$dir"
}
trap finish EXIT
cd "$dir" || exit 1

tiny_model model
model() { rm -rf other && cp -r model other; } # a copy to be spoilt
golden=$root/tests/golden
head -c 3000 "$root/LICENSE" >text.txt
seq 1 10 >ids
yes 7 | head -n 500 >many
: >empty.txt
mkdir empty
encode=(encode --model model --segment 64 --sink 'A text:')
expect 0 - '*' "${encode[@]}" --store store text.txt
same_store() { local of; of=$(digest "$1"); [ -n "$of" ] && [ "$of" = "$(digest "$2")" ]; }
copy() { rm -rf bad && cp -r store bad; } # a copy to be spoilt
index=bad/rank0000-000001.index data=bad/rank0000-000001.safetensors

# refuses CODE PATTERN ARGUMENTS...: one message, on stderr, which holds the pattern and says what to do
refuses() {
    local code=$1 pattern=$2 said
    shift 2
    expect "$code" - "error: .*$pattern" "$@"
    said=$(grep ': error: ' "$dir/err" | tail -n 1)
    holds "says no more than what is wrong: $said" grep -qE '(; |usage:|did you mean|iconv)' <<<"$said"
}

# ---- options ------------------------------------------------------------------------------------------------------------------------------------------
refuses 2 '--score.*|--keep-by: "nope" is not known; give one of knorm' "${encode[@]}" --store s --layout blockselect --score nope text.txt
refuses 2 'local 100 is no multiple of --ratio 8; use 96' "${encode[@]}" --store s --layout unigist --local 100 --ratio 8 text.txt
refuses 2 '--shard document: --layout pce' "${encode[@]}" --store s --shard document text.txt
refuses 2 '--kv-dtype: "int8".*bf16, f16, f32' "${encode[@]}" --store s --kv-dtype int8 text.txt
refuses 2 '--layout streaming keeps nothing' encode --model model --store s --layout streaming text.txt
refuses 2 '--backend: "gpu" is not known' "${encode[@]}" --store s --backend gpu text.txt
PRECIS_FORMAT=xml refuses 2 'PRECIS_FORMAT in the environment: "xml"' "${encode[@]}" --store s text.txt
refuses 3 'no beginning-of-sequence token; leave it out' "${encode[@]}" --store s --layout pcw text.txt
expect 0 - '--ratio has no meaning for --layout pce and is not used' "${encode[@]}" --store store --ratio 4 text.txt
refuses 2 'no question, or two; give either --prompt TEXT' query --model model --store store
refuses 2 '--select: asks something of a store' query --model model --select 2 --prompt x
refuses 2 '--fetch: asks something of a store' query --model model --fetch raw --prompt x
refuses 2 '--fetch raw: store does not hold raw rows' query --model model --store store --fetch raw --select 2 --prompt x
refuses 2 '--ape-scale: has no meaning for a store of --layout pce' query --model model --store store --ape-scale 1 --prompt x
refuses 2 '--ratio: store knows how it was encoded' query --model model --store store --ratio 4 --prompt x
refuses 3 'no document "nothing"; precis store ls store' query --model model --store store --docs nothing --prompt x
refuses 3 'no chat template.*ask without --chat' query --model model --store store --chat --prompt x
refuses 2 'INPUT files, or --corpus-tokens' plan --model model
refuses 2 '--docs is no option of precis encode but of precis query, .*--help lists its own' "${encode[@]}" --store s --docs a text.txt
refuses 2 'precis bench: a word is missing; add one of: ops encode query shard' bench
refuses 2 'precis edit foo: no such command; it is one of: encode query' edit foo
refuses 2 '--no-verify is no option of precis store but of precis encode, .*--help lists its own' store check store --no-verify
refuses 2 '--format csv: precis query prints no table; use text or json' query --model model --store store --prompt x --format csv
refuses 2 '--system: has no meaning without --chat; add that, or leave it out' query --model model --store store --prompt x --system y
refuses 2 '--ratio 128: segments of 64 tokens .--segment. are too short for a gist; use --ratio 64 or less' "${encode[@]}" --store s --layout blockgist --ratio 128 text.txt
refuses 2 '--pieces 100: the context of a window is 63 tokens' eval ppl --model model --input text.txt --window 128 --score 64 --pieces 1,100
expect 1 'round of segments +68.00 TiB' 'does not fit' plan --model model --corpus-tokens 1T --segment 1
refuses 2 '--out ids: is what --tokens reads, and would be lost; name another' logits --model model --tokens ids --out ids
refuses 2 '--out model/model.safetensors: is what --model reads, and would be lost; name another' logits --model model --tokens ids --out model/model.safetensors
refuses 2 '--out empty: is a folder; name a file in it' logits --model model --tokens ids --out empty
expect 1 'total per rank' 'does not fit: a rank needs .*use a smaller' plan --model model --corpus-tokens 1G --segment 1M --layout full --max-bytes 1M

# ---- texts --------------------------------------------------------------------------------------------------------------------------------------------
refuses 3 'no.txt: no such file or folder' "${encode[@]}" --store s no.txt
refuses 3 'empty: no document in it.*check the path' "${encode[@]}" --store s empty
expect 0 - 'warning: empty.txt: no text; recorded without segments' "${encode[@]}" --store nothing empty.txt
refuses 3 'nothing: holds no document with text' query --model model --store nothing --prompt x
printf 'abc \xff\xc3 def' >bad.txt
expect 0 - 'bad.txt: not UTF-8; 2 bad place' "${encode[@]}" --store s bad.txt
iconv -f UTF-8 -t UTF-16 text.txt >utf16.txt
refuses 3 'utf16.txt: byte 0: UTF-16.*iconv' "${encode[@]}" --store s utf16.txt
printf '{"text":"a"}\n{"text":5}\n' >type.jsonl
refuses 3 'type.jsonl line 2: "text" is of another type' "${encode[@]}" --store s type.jsonl
printf '{"text":"a"}\n{"text":\n' >cut.jsonl
refuses 3 'cut.jsonl line 2: byte 7: not valid JSON' "${encode[@]}" --store s cut.jsonl
zstd -q text.txt -o text.txt.zst && head -c 500 text.txt.zst >cut.txt.zst
refuses 3 'cut.txt.zst: ends in the middle of its zstd data; it is cut' "${encode[@]}" --store s cut.txt.zst
gzip -c text.txt | head -c 500 >cut.txt.gz
refuses 3 'cut.txt.gz: ends in the middle of its gzip data; it is cut' "${encode[@]}" --store s cut.txt.gz
cp ids text.gz
refuses 3 'text.gz: byte 0: not gzip data' "${encode[@]}" --store s text.gz
refuses 3 'no.txt: no such file' "${encode[@]}" --store s --sink @no.txt text.txt
expect 0 . '--prompt: not UTF-8 at byte 1' query --model model --store store --max-tokens 2 --prompt $'a\xff'
refuses 3 'empty.txt: the prompt is empty' query --model model --store store --prompts empty.txt
: >empty.jsonl
refuses 3 'empty.jsonl: no prompt in it' query --model model --store store --prompts empty.jsonl
printf '{"prompt":"x"}\n{"prompt":""}\n' >blank.jsonl
refuses 3 'blank.jsonl line 2: the prompt is empty' query --model model --store store --prompts blank.jsonl
printf '{"id":7,"text":"a"}\n{"id":7,"text":"b"}\n' >twice.jsonl
expect 0 - 'twice.jsonl: another text of this run has the id "7"' "${encode[@]}" --store twice twice.jsonl
expect 0 - '*' "${encode[@]}" --store again ids ids # the same text twice is no loss
holds 'the same text twice is warned of' test "$(grep -c warning "$dir/err")" -eq 0
printf 'a\0b\0' >nul.txt
expect 0 - 'nul.txt: has NUL bytes in it, so it is no text; taken as it is, since it was named' "${encode[@]}" --store nul nul.txt
refuses 3 'text.txt: a text, but --decode reads JSON lines' tokenize --model model --decode --input text.txt
refuses 3 'text.txt: none of its 1 documents has 8192 tokens' eval ppl --model model --input text.txt

# ---- models -------------------------------------------------------------------------------------------------------------------------------------------
refuses 3 'text.txt: byte 0: not a GGUF file' "${encode[@]/#model/text.txt}" --store s text.txt
for bytes in 50 5000 200000; do
    model && truncate -s $bytes other/model.safetensors
    refuses 3 'other/model.safetensors: .*it is cut' inspect other
done
model && truncate -s 100 other/config.json
refuses 3 'other/config.json: byte 99: not valid JSON' inspect other
model && sed -i 's/"num_hidden_layers": *[0-9]*/"num_hidden_layers": 99/' other/config.json
refuses 3 'other: tensor model.layers.2..* is missing' inspect other
model && sed -i 's/"llama"/"mamba"/' other/config.json
refuses 3 'architecture "mamba" is not one we can run .llama, mistral' inspect other
model && rm other/model.safetensors && touch other/pytorch_model.bin
refuses 3 'other: holds neither model.safetensors' inspect other
model && truncate -s 100 other/tokenizer.json
refuses 3 'other/tokenizer.json: byte [0-9]+: not valid JSON' "${encode[@]/#model/other}" --store s text.txt
model && cp "$golden/tokens/llama3.json" other/tokenizer.json
refuses 3 'the model has 160 rows; the tokenizer is another' "${encode[@]/#model/other}" --store t text.txt
model && tail -c 288000 other/model.safetensors | tr '\0-\377' '\377' | dd of=other/model.safetensors bs=1 seek=$(($(stat -c %s other/model.safetensors) - 288000)) conv=notrunc status=none
refuses 3 "the model's logits are no numbers .*its weights are damaged" query --model other --max-tokens 2 --prompt x
refuses 3 'text.txt: byte 0: a header of .*no safetensors file' query --model model --store store --adapter text.txt --prompt x

# ---- stores -------------------------------------------------------------------------------------------------------------------------------------------
refuses 3 'empty is no store: it has no store.json' query --model model --store empty --prompt x
refuses 3 'store was made with --segment 64, not 32' "${encode[@]/#64/32}" --store store text.txt
model && sed -i 's/10000.0/20000.0/' other/config.json
refuses 3 'store: was encoded by model .*, but other has fingerprint' query --model other --store store --prompt x
refuses 3 'is no pool of edits; use precis query' edit query --model model --store store --prompt x
mends() { # what is spoilt is encoded again
    expect 0 - 'repaired' "${encode[@]}" --store bad text.txt
    expect 0 '^bad: sound' - store check bad
    holds 'the mended store is another' same_store bad store
}
copy && truncate -s 300000 $data
refuses 3 "$data is cut: 300000 of [0-9]+ bytes" query --model model --store bad --prompt x
expect 3 - "$data is cut" store check bad
mends
copy && truncate -s 300 $index
refuses 3 "$index: the last line of a complete file is cut" store ls bad
mends
copy && rm $index
refuses 3 "$index is missing" query --model model --store bad --prompt x
copy && printf x | dd of=$data bs=1 seek=300000 conv=notrunc status=none
refuses 3 "$data: segment [0-9a-f]+ is damaged" query --model model --store bad --prompt x
copy && truncate -s 100 bad/store.json
refuses 3 'bad/store.json is damaged' query --model model --store bad --prompt x
mends
mkdir used && printf '{"id":1,"text":"mine"}\n' >used/documents.jsonl
refuses 3 'used holds other files and no store .*give --store a new folder' "${encode[@]}" --store used text.txt
holds 'a file of the user was touched' test "$(cat used/*)" = '{"id":1,"text":"mine"}'
refuses 3 'store holds text and is not a pool of edits .*give another --store' edit encode --model model --store store text.txt
refuses 1 'text.txt: exists and is no folder' "${encode[@]}" --store text.txt text.txt

# ---- disks --------------------------------------------------------------------------------------------------------------------------------------------
mkdir disk
if mount -t tmpfs -o size=280k tmpfs disk 2>/dev/null; then
    refuses 1 'no space left on the disk of disk/s/rank0000-000001.*run the same command again' "${encode[@]}" --store disk/s text.txt
    refuses 1 'no space left on the disk of disk/s/' "${encode[@]}" --store disk/s text.txt
    refuses 1 'no space left on disk/l' logits --model model --tokens many --out disk/l
    mount -o remount,size=16m disk
    expect 0 - '*' "${encode[@]}" --store disk/s text.txt
    holds 'a store whose disk was full is another' same_store disk/s store
    mount -o remount,ro disk
    expect 0 . '*' query --model model --store disk/s --max-tokens 2 --prompt x
    expect 0 - '*' "${encode[@]}" --store disk/s text.txt # there is nothing to do
    refuses 1 'disk/s/rank0000-000002.*Read-only file system' "${encode[@]}" --store disk/s "$root/README.md"
    refuses 1 'disk/new: making the folder failed: Read-only' "${encode[@]}" --store disk/new text.txt
    refuses 1 'disk/l: Read-only file system; --out names a file' logits --model model --tokens ids --out disk/l
    umount disk
else
    echo "$suite: no small disk can be mounted"
    skipped=16
fi

# ---- two runs, killed runs, stopped runs ----------------------------------------------------------------------------------------------------------------
for ((i = 0; i < 40; i++)); do tail -c +$((i * 131)) "$root/LICENSE" | head -c 5000; done >long.txt # no two segments alike
late=("${encode[@]}" --backend cpu_ref --threads 1 --store killed long.txt)
begin_slow() { # until its first segments are committed
    "$precis" "${late[@]}" 2>late.log &
    slow=$!
    for ((i = 0; i < 400; i++)); do
        [ "$(cat killed/*.index 2>/dev/null | wc -l)" -gt 2 ] && return
        sleep 0.05
    done
}
begin_slow
kill -STOP $slow
refuses 1 'killed.*another.*' "${late[@]}"
kill -CONT $slow
kill -USR1 $slow
wait $slow
rc=$?
holds "a stopped run leaves with $rc, not 75" test $rc -eq 75
holds 'a stopped run says how to go on' grep -q 'run the same command again to go on' late.log
mkfifo waiting
"$precis" "${encode[@]}" --store late waiting 2>late.log &
slow=$!
for ((i = 0; i < 100; i++)); do [ -e late/store.json ] && break; sleep 0.05; done
kill -TERM $slow
wait $slow
rc=$?
holds "a run that waits for a pipe leaves with $rc, not 75, when it is stopped: $(tail -n 1 late.log)" test $rc -eq 75
(cat text.txt >waiting &)
expect 0 - '*' "${encode[@]}" --store late waiting
holds 'a text through a pipe gives other segments' same_store late store
begin_slow
kill -9 $slow
wait $slow 2>/dev/null
slow=
expect 0 '^killed: sound' - store check killed
expect 0 - 'segments: [0-9]+ encoded, [1-9][0-9]* in the store already' "${late[@]}"
expect 0 - '*' "${late[@]/#killed/whole}"
holds 'a run that was killed gives another store' same_store killed whole

# ---- ranks: one message, one code -------------------------------------------------------------------------------------------------------------------------
if command -v mpirun >/dev/null && "$precis" version | grep -q '^MPI'; then
    ranks() { # CODE PATTERN ARGUMENTS...
        timeout -k 5 60 mpirun -n 2 "$precis" "${@:3}" >"$dir/out" 2>"$dir/err" </dev/null
        local rc=$?
        holds "2 ranks, exit $rc in place of $1: $(head -c 300 "$dir/err")" test $rc -eq "$1"
        holds "2 ranks do not say once: $2" test "$(grep -cE -e "error: .*$2" "$dir/err")" -eq 1
    }
    ranks 3 'empty is no store' query --model model --store empty --prompt x
    ranks 2 '--segmnt is no option' "${encode[@]}" --store s --segmnt 4K text.txt
    ranks 3 'type.jsonl line 2' "${encode[@]}" --store s type.jsonl
    ranks 3 'empty: no document in it' "${encode[@]}" --store s empty
    # A document that both share is stopped in its first layer of two, which takes seconds by cpu_ref, and gone on with.
    shared=(encode --model model --segment 256 --layout full --shard document --backend cpu_ref --threads 1 --store shared long.txt)
    head -c 9000 long.txt >part.txt && shared[-1]=part.txt
    mpirun -n 2 "$precis" "${shared[@]}" 2>shared.log &
    slow=$!
    for ((i = 0; i < 400; i++)); do [ -e shared/store.json ] && break; sleep 0.05; done
    sleep 0.5
    kill -USR1 $slow # mpirun passes it on
    wait $slow
    rc=$?
    slow=
    holds "a stop inside a shared document leaves with $rc, not 75: $(grep -v '^-' shared.log | tail -n 3)" test $rc -eq 75
    holds 'a stop inside a shared document saves nothing' test -s shared/rank0000.under-way -a -s shared/rank0001.under-way
    mpirun -n 2 "$precis" "${shared[@]}" 2>shared.log
    holds 'a shared document begins anew after a stop' grep -q 'went on behind layer 1 of 2' shared.log
    holds 'what a stop saved stays behind' test -z "$(find shared -name '*.under-way*')"
    "$precis" "${shared[@]/#shared/unshared}" 2>/dev/null
    holds 'a stopped shared document gives another store' same_store shared unshared
else
    skipped=$((skipped + 13))
fi
count_end "$([ $skipped -eq 0 ] || echo $skipped)"
