#!/bin/bash
# The short rules that a script can keep:
#   format     clang-format has nothing to change
#   arrows     a room includes only the rooms it may (jobs -> store, layout, model, backend, comm -> io, text -> base); see allowed() below
#   portable   no MPI, CUDA or NCCL header in src/; printf, exit and abort only in the command line
#   length     no file over 600 lines; no line of code over 170 columns
#   opening    a source file opens with its idea in a comment (a .c beside its .h may leave it to the header)
#   words      no notes to self left behind
# Prints one line for each fault. Exit 1 when there is any.
set -u
cd "$(dirname "$0")/.." || exit 1
faults=0
fault() { echo "lint: $*"; faults=$((faults + 1)); }

mapfile -t code < <(git ls-files '*.c' '*.h' '*.cu' '*.cuh')
mapfile -t scripts < <(git ls-files '*.sh' '*.py' '*.sbatch' Makefile .ci/run)

allowed() { # rooms that a room may include, besides itself
    case $1 in
    base) ;;
    io) echo base ;;
    text) echo base io ;;
    layout) echo base ;;
    backend) echo base layout ;;
    comm) echo base ;;
    model) echo base io text layout backend comm ;;
    store) echo base io ;;
    cli) echo base io text layout backend comm model store encode query eval bench mpi cuda ;;
    encode) echo base io text layout backend comm model store ;;
    query) echo base io text layout backend comm model store encode ;;
    eval | bench) echo base io text layout backend comm model store encode query ;;
    *) echo "unknown room $1" ;;
    esac
}

check_format() {
    command -v clang-format >/dev/null || { echo "lint: no clang-format, format not checked"; return; }
    local f
    for f in "${code[@]}"; do
        case $f in *.cu | *.cuh) continue ;; esac
        clang-format "$f" | cmp -s - "$f" || fault "$f: clang-format would change it (clang-format -i $f)"
    done
}

check_arrows() {
    local f room to
    for f in "${code[@]}"; do
        case $f in src/*) ;; *) continue ;; esac
        room=${f#src/}; room=${room%%/*}
        while read -r to; do
            case " $room $(allowed "$room") " in *" $to "*) ;; *) fault "$f: the room $room may not include $to/" ;; esac
            case $to in mpi | cuda) [ "$f" = src/cli/registry.c ] || fault "$f: only the registry names $to/" ;; esac
        done < <(sed -nE 's/^ *#include "([a-z]+)\/.*/\1/p' "$f" | sort -u)
        grep -nE '#include *[<"](mpi|cuda|nccl|cublas)[a-zA-Z_]*\.h' "$f" && fault "$f: no MPI or CUDA header in src/"
        [ "$room" != cli ] || continue
        grep -nE '(^|[^a-z_>.])(printf|exit|abort)\(' "$f" | grep -vE '^[0-9]+: *(/\*|\*)|attribute' && fault "$f: printf, exit and abort belong to the command line"
    done
    for f in "${code[@]}"; do
        case $f in
        cuda/*) grep -n '#include "mpi/' "$f" && fault "$f: cuda/ does not know mpi/" ;;
        mpi/comm_nccl.c) ;;
        mpi/*) grep -n '#include "cuda/' "$f" && fault "$f: mpi/ does not know cuda/" ;;
        esac
    done
}

check_length() {
    local f
    for f in "${code[@]}" "${scripts[@]}"; do
        [ "$(wc -l <"$f")" -le 600 ] || fault "$f: $(wc -l <"$f") lines, the lid is 600: cut it in two"
    done
    for f in "${code[@]}"; do
        awk -v f="$f" 'length($0) > 170 { print "lint: " f ":" NR ": line of " length($0) " columns"; n++ } END { exit n > 0 }' "$f" || faults=$((faults + 1))
    done
}

check_opening() {
    local f
    for f in "${code[@]}"; do
        head -c 2 "$f" | grep -qE '^(/\*|//)' && continue
        case $f in */test_*.c) continue ;; *.c) [ -f "${f%.c}.h" ] && continue ;; esac
        fault "$f: does not open with its idea"
    done
}

check_words() {
    local words='TO''DO|FIX''ME|XX''X|HA''CK'
    git grep -nwE "$words" -- ':!tests/golden' ':!configs/demo' ':!tests/fuzz/corpus' && fault "notes to self: finish them or take them out"
}

check_scripts() {
    command -v shellcheck >/dev/null || return
    local f
    for f in "${scripts[@]}"; do
        case $f in
        *.sh | *.sbatch | .ci/run) shellcheck -x -P SCRIPTDIR --severity=warning --shell=bash -e SC1090,SC1091,SC1007 "$f" || fault "$f: shellcheck" ;;
        esac
    done
}

check_format
check_arrows
check_length
check_opening
check_words
check_scripts
if [ $faults -eq 0 ]; then echo "lint: ${#code[@]} files in order"; else echo "lint: $faults faults"; exit 1; fi
