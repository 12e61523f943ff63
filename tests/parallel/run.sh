#!/bin/bash
# Runs parallel test programs under mpirun at 1, 2, 3, 4 and 7 ranks.   usage: tests/parallel/run.sh PROGRAM...
# Each prints `suite x N: P passed, F failed`; one that dies or hangs counts as a failure. Exit 1 when anything failed.
# SIZES="1 2" and TIMEOUT=60 (seconds per run) can be set from outside.
set -u
here=$(dirname "$0")
. "$here/env.sh"
[ $# -gt 0 ] || { echo "usage: $0 PROGRAM..." >&2; exit 2; }
if ! command -v mpirun >/dev/null; then
    echo "parallel: 0 passed, 0 failed, 1 skipped (no mpirun)"
    exit 0
fi
fail=0
for program in "$@"; do
    suite=$(basename "$program"); suite=${suite#test_}
    for n in ${SIZES:-1 2 3 4 7}; do
        out=$(timeout -k 5 "${TIMEOUT:-60}" mpirun -n "$n" "$program"); rc=$?
        printf '%s' "${out:+$out
}"
        [ $rc -eq 0 ] || fail=1
        case $out in
        *', 0 failed'*) [ $rc -eq 0 ] || echo "$suite x $n, its end: 0 passed, 1 failed (mpirun left with $rc)" ;;
        *' passed, '*) ;;
        *) echo "$suite x $n: 0 passed, 1 failed (mpirun left with $rc before the suite ended)"; fail=1 ;;
        esac
    done
    # A rank that ends the job takes the others with it, and its code is the job's.
    timeout -k 5 30 mpirun -n 3 "$program" abort >/dev/null 2>&1; rc=$?
    if [ $rc -eq 3 ]; then echo "$suite abort: 1 passed, 0 failed"; else echo "$suite abort: 0 passed, 1 failed (exit $rc, not 3)"; fail=1; fi
done
exit $fail
