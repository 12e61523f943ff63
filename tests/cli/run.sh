#!/bin/bash
# The command line: a table of commands with the exit code, a pattern for standard output and one for standard error.   usage: tests/cli/run.sh build/precis
# Needs no model but the tiny ones of tests/golden. tests/expect.sh says what a pattern is.
set -u
. "$(dirname "$0")/../expect.sh"
begin cli "$@"
cd "$root" || exit 1
unset "${!PRECIS_@}"
tiny=tests/golden/tiny-llama/model.gguf

# ---- help: on stdout, exit 0, by example ------------------------------------------------------------------------------------------------------------
expect 0 'commands' - --help
expect 0 'commands' - help
expect 2 - 'commands'
expect 0 '^precis [0-9]+\.' - --version
expect 0 '^backends: cpu, cpu_ref' - version
for command in encode query 'edit encode' 'edit query' 'eval ppl' plan tokenize inspect store logits version help; do
    # shellcheck disable=SC2086 # a command may be two words
    expect 0 '^examples' - $command --help
    # shellcheck disable=SC2086
    expect 0 '^usage: precis' - help $command
done
expect 0 '^precis eval ppl' - eval --help
expect 0 '^\.TH PRECIS 1' - help man
expect 0 'complete -o filenames -F _precis precis' - help completion
holds 'the completion is no bash' bash -n <("$precis" help completion)
if command -v man >/dev/null; then holds 'the man page has faults' test -z "$("$precis" help man | MANROFFSEQ='' man --warnings -E UTF-8 -l -Tutf8 -Z - 2>&1 >/dev/null)"; fi

# ---- mistakes: exit 2, what is wrong and what was probably meant --------------------------------------------------------------------------------------
expect 2 - 'encoed.*did you mean precis encode' encoed
expect 2 - 'no command; precis --help' zzzzzzzz
expect 2 - 'eval.*did you mean precis eval ppl' eval ppx
expect 2 - '--modle.*did you mean --model' encode --modle x
expect 2 - '--segmnt.*did you mean --segment' encode --segmnt=4K
expect 2 - '--zzzzzzzz is no option.*--help' encode --zzzzzzzz
expect 2 - '-m: options have two dashes' encode -m x
expect 2 - 'needs --model and --store' encode x
expect 2 - 'something is missing.*usage' encode --model m --store s
expect 2 - 'one word too many' tokenize --model m --input f extra
expect 2 - '--segment: "4X" has a unit' encode --model m --store s --segment 4X x
expect 2 - '--segment: "4KB" has a unit that is 1000' encode --model m --store s --segment 4KB x
expect 2 - '--segment: "0" is too small.*from 1 to 16M' encode --model m --store s --segment 0 x
expect 2 - '--segment: "-1" is too small' encode --model m --store s --segment -1 x
expect 2 - '--segment: "99999999999999999999" is far too large' encode --model m --store s --segment 99999999999999999999 x
expect 2 - '--segment: "17M" is too large' encode --model m --store s --segment 17M x
expect 2 - '--segment: "4K 5" has a unit' encode --model m --store s --segment '4K 5' x
expect 2 - '--segment needs a value' encode --model m --store s --segment
expect 2 - '--segment needs a value but is followed by --bos' encode --model m --store s --segment --bos
expect 2 - '--layout: "nope" is not known; give one of full, pce' encode --model m --store s --layout nope x
expect 2 - 'edit.*did you mean precis edit encode' edit encoed
expect 2 - 'needs --model and --store' edit encode x
expect 2 - '--layout is no option of precis edit query' edit query --model m --store s --layout pce --prompt x
expect 2 - '--edit-temperature: "0" is too small' edit query --model m --store s --edit-temperature 0 --prompt x
expect 2 - '--ape-scale: "0" is too small' query --model m --store s --ape-scale 0 --prompt x
expect 2 - '--select: "-1" is too small' query --model m --store s --select -1 --prompt x
expect 2 - '--temperature: "hot" is no number' query --model m --store s --temperature hot --prompt x
expect 2 - '--temperature: "nan" is no number' query --model m --store s --temperature nan --prompt x
expect 2 - '--top-p: "0" is too small' query --model m --store s --top-p 0 --prompt x
expect 2 - '--pieces: "1,,4" has an empty item' eval ppl --model m --input f --pieces 1,,4
expect 2 - '--pieces: "1,0" is too small' eval ppl --model m --input f --pieces 1,0
expect 2 - '--bos: "maybe" is neither yes nor no' encode --model m --store s --bos=maybe x
expect 2 - '--model: "" is empty' tokenize --model= --input x
expect 2 - 'store lss.*did you mean precis store ls' store lss x

# ---- where settings come from: default < file < environment < flag --------------------------------------------------------------------------------------
conf=$dir/a.conf
printf '# a comment\nsegment = 2K   # with a unit\nsink = "one\\ntwo # \\"three\\""\npieces = 1,2\n' >"$conf"
job=(encode --model m --store s --print-config x)
expect 0 '^segment = 4K +# default' - "${job[@]}"
expect 0 '^segment = 2K +# file' - "${job[@]}" --config "$conf"
expect 0 '^sink = "one\\ntwo # \\"three\\"" +# file' - "${job[@]}" --config="$conf"
PRECIS_SEGMENT=3K expect 0 '^segment = 3K +# environment' - "${job[@]}" --config "$conf"
PRECIS_CONFIG=$conf expect 0 '^segment = 2K +# file' - "${job[@]}"
PRECIS_SEGMENT=3K expect 0 '^segment = 5K +# flag' - "${job[@]}" --config "$conf" --segment 5K
PRECIS_SEGMENT=3X expect 2 - 'PRECIS_SEGMENT in the environment: "3X"' "${job[@]}"
PRECIS_SEGMNT=3K expect 0 '^segment = 4K' 'PRECIS_SEGMNT.*nearest is segment' "${job[@]}"
"$precis" "${job[@]}" --config "$conf" >"$dir/printed.conf" 2>/dev/null
"$precis" encode --config "$dir/printed.conf" --print-config 2>/dev/null | sed 's/  # .*//' >"$dir/again"
holds 'a printed configuration does not read back the same' diff <(sed 's/  # .*//' "$dir/printed.conf") "$dir/again"
printf 'segmnt = 2K\n' >"$conf"
expect 2 - 'a.conf line 1: "segmnt" is no setting; did you mean segment' "${job[@]}" --config "$conf"
printf '\nsegment 2K\n' >"$conf"
expect 2 - 'a.conf line 2: "segment 2K" is no' "${job[@]}" --config "$conf"
printf 'segment = 2Q\n' >"$conf"
expect 2 - 'a.conf line 1: segment: "2Q" has a unit' "${job[@]}" --config "$conf"
printf 'sink = "open\n' >"$conf"
expect 2 - 'a.conf line 1: sink: a closing quote' "${job[@]}" --config "$conf"
printf 'config = b.conf\n' >"$conf"
expect 2 - 'config cannot be set in a file' "${job[@]}" --config "$conf"
expect 3 - '/no/such.conf: No such file' "${job[@]}" --config /no/such.conf
for f in configs/*.conf; do expect 0 '^segment' - "${job[@]}" --config "$f"; done

# ---- bad input: exit 3, the file and the place ----------------------------------------------------------------------------------------------------------
expect 3 - '/no/such.gguf' inspect /no/such.gguf
expect 3 - 'run.sh' inspect tests/cli/run.sh
expect 3 - '/no/store' store ls /no/store
expect 3 - '/no/store' store check /no/store
expect 3 - '/no/store' store digest /no/store
expect 3 - '/no/such.gguf' encode --model /no/such.gguf --store "$dir/s" README.md
expect 3 - "no tokenizer" encode --model "$tiny" --store "$dir/s" README.md
expect 3 - '/no/such.gguf' logits --model /no/such.gguf --tokens x --out "$dir/l"
expect 3 - '/no/ids' logits --model "$tiny" --tokens /no/ids --out "$dir/l"
echo '1 2 x' >"$dir/ids"
expect 3 - 'word 3, "x", is no token id' logits --model "$tiny" --tokens "$dir/ids" --out "$dir/l"
echo '1 2 99999999' >"$dir/ids"
expect 3 - 'word 3, "99999999"' logits --model "$tiny" --tokens "$dir/ids" --out "$dir/l"
: >"$dir/ids"
expect 3 - 'no token ids' logits --model "$tiny" --tokens "$dir/ids" --out "$dir/l"
for cut in 0 3 8 100 2000; do
    head -c "$cut" "$tiny" >"$dir/cut.gguf"
    expect 3 - 'cut.gguf' inspect "$dir/cut.gguf"
done

# ---- a tokenizer alone, a model alone, neither -----------------------------------------------------------------------------------------------------------
mkdir "$dir/tok" "$dir/none"
cp tests/golden/tokens/llama3.json "$dir/tok/tokenizer.json"
echo '{"id":7,"text":"In 1984"}' >"$dir/text.jsonl"
expect 0 '^\{"id":7,"tokens":\[[0-9,]+\]\}$' - tokenize --model "$dir/tok" --input "$dir/text.jsonl"
expect 0 '^tokenizer +byte-level BPE' - inspect "$dir/tok"
expect 3 - 'no config.json in it' logits --model "$dir/tok" --tokens x --out "$dir/l"
expect 3 - 'no tokenizer.json in it' tokenize --model "$dir/none" --input "$dir/text.jsonl"
expect 3 - 'no config.json in it' inspect "$dir/none"
expect 0 '^tokenizer +none' - inspect tests/golden/tiny-yarn

# ---- rope scaling that depends on the length; a sliding window ---------------------------------------------------------------------------------------------
mkdir "$dir/far" && ln -s "$PWD/tests/golden/tiny-llama/model.safetensors" "$dir/far/"
sed 's/"max_position_embeddings": 128/"max_position_embeddings": 16/; s/"rope_scaling": null/"rope_scaling": {"type": "dynamic", "factor": 2.0}/' \
    tests/golden/tiny-llama/config.json >"$dir/far/config.json"
seq 1 20 >"$dir/ids"
expect 0 '^rope_scaling +dynamic' - inspect "$dir/far"
expect 3 - 'position 16, but dynamic rope scaling was set for positions below 16.*--rope-length' logits --model "$dir/far" --tokens "$dir/ids" --out "$dir/l"
expect 0 - '*' logits --model "$dir/far" --tokens "$dir/ids" --out "$dir/l" --rope-length 20
expect 2 - '--rope-length: .*"none".*leave it out' logits --model "$tiny" --tokens "$dir/ids" --out "$dir/l" --rope-length 20
expect 0 '^sliding_window +9$' - inspect tests/golden/tiny-window
expect 0 - '*' logits --model tests/golden/tiny-window --tokens "$dir/ids" --out "$dir/l"
expect 0 - '*' logits --model tests/golden/tiny-window --tokens "$dir/ids" --out "$dir/l" --layout pce --segment 12
expect 3 - 'last 9 positions only.*layout blockgist does not do' logits --model tests/golden/tiny-window --tokens "$dir/ids" --out "$dir/l" --layout blockgist --segment 12 --ratio 4

# ---- the tools at work ------------------------------------------------------------------------------------------------------------------------------------
expect 0 '^architecture +llama' - inspect "$tiny"
expect 0 '"architecture":"llama"' - inspect --format json "$tiny"
expect 0 '^token_embd.weight' - inspect --all "$tiny"
echo '1 2 3 4 5' >"$dir/ids"
expect 0 - '*' logits --model "$tiny" --tokens "$dir/ids" --out "$dir/l.safetensors" --dtype f32
printf '1\n2\t3 4  5' | "$precis" logits --model "$tiny" --tokens - --out "$dir/piped.safetensors" --quiet
holds 'ids from a pipe give other logits' cmp "$dir/l.safetensors" "$dir/piped.safetensors"
holds 'the logits are no tensor of 5 rows' grep -qaE '"logits":\{"dtype":"F32","shape":\[5,' "$dir/l.safetensors"
holds 'a part file was left behind' test -z "$(find "$dir" -name '*.part*')"
expect 2 - 'segments are aligned right; leave --align out' logits --model "$tiny" --tokens "$dir/ids" --out "$dir/l" --layout structured --align even
expect 2 - '--positions reused has no meaning for --layout star' logits --model "$tiny" --tokens "$dir/ids" --out "$dir/l" --layout star --positions reused
expect 2 - '--local 0: a row sees at least itself' logits --model "$tiny" --tokens "$dir/ids" --out "$dir/l" --layout streaming --local 0
for layout in structured ape block star coarse-rec streaming; do
    expect 0 - '*' logits --model "$tiny" --tokens "$dir/ids" --out "$dir/l.safetensors" --dtype f32 --layout $layout --segment 3 --ratio 2
    holds "the logits of $layout are no tensor of 5 rows" grep -qaE '"logits":\{"dtype":"F32","shape":\[5,' "$dir/l.safetensors"
done
adapter=tests/golden/tiny-llama/adapter-everything.safetensors
expect 0 '^gist_lora_layers +14' - inspect "$adapter"
expect 0 '^fits' - inspect "$adapter" --model "$tiny"
expect 3 - 'was made for the model with fingerprint' inspect "$adapter" --model tests/golden/tiny-qwen2
expect 3 - 'is no adapter' inspect tests/golden/tiny-llama/golden.safetensors
with=(logits --model "$tiny" --tokens "$dir/ids" --dtype f32 --out "$dir/a.safetensors" --layout coarse-kv --adapter)
expect 0 - '*' "${with[@]}" "$adapter" --ratio 4
holds 'an adapter changes nothing' test -s "$dir/a.safetensors" -a "$(cmp -s "$dir/a.safetensors" "$dir/l.safetensors"; echo $?)" = 1
expect 3 - 'was trained for --ratio 4, not 8' "${with[@]}" "$adapter"
expect 3 - 'was trained for --layout blockgist fine-kv, not coarse-kv' "${with[@]}" tests/golden/tiny-llama/adapter-rows.safetensors
expect 2 - '--sinks 3: .* has 4 sink rows' "${with[@]}" "$adapter" --ratio 4 --sinks 3
expect 2 - '--gist-init: .* has gist rows of its own' "${with[@]}" "$adapter" --ratio 4 --gist-init unit
expect 3 - 'metadata must say format precis-adapter-1' "${with[@]}" tests/golden/tiny-llama/golden.safetensors --ratio 4
expect 3 - '/no/such.safetensors' "${with[@]}" /no/such.safetensors --ratio 4
expect 1 - '/no/dir/l' logits --model "$tiny" --tokens "$dir/ids" --out /no/dir/l
if [ -w /dev/full ]; then
    "$precis" inspect "$tiny" >/dev/full 2>"$dir/err"
    rc=$?
    holds 'a full standard output is not noticed' test $rc -eq 1 -a -s "$dir/err"
fi

count_end
