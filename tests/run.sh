#!/bin/bash
# Runs test programs and adds up what they say.   usage: tests/run.sh "PROGRAM ARGUMENTS" ...
# A suite prints `name: N passed, N failed[, N skipped]`, as often as it likes. One that leaves with an error and no failure to show counts as one failure.
# Suites that failed are named once more at the end. The last line is the total, alone; exit 1 when anything failed.
set -u
export OMP_WAIT_POLICY=passive # test machines share their cores
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0 names=()

count() { # of the word $1 over all result lines of the log
    sed -nE "s/^[^:]+: [0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?.*/&/p" "$log" | sed -nE "s/.*[ :]([0-9]+) $1.*/\1/p" | awk '{ n += $1 } END { print n + 0 }'
}

for program in "$@"; do
    # shellcheck disable=SC2086 # a command line in one word
    bash -c "$program" </dev/null 2>&1 | sed -u '/^Run Summary:/,/^Elapsed time/d; /^$/d' | tee "$log" # without CUnit's own table
    rc=${PIPESTATUS[0]}
    p=$(count passed) f=$(count failed) s=$(count skipped)
    if [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then
        echo "$program: 0 passed, 1 failed (exit $rc)"
        f=1
    elif [ $((p + f + s)) -eq 0 ]; then
        echo "$program: 0 passed, 1 failed (it told of no test)"
        f=1
    fi
    [ "$rc" -eq 0 ] && [ "$f" -eq 0 ] || names+=("$program: exit $rc, $f failed")
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
[ ${#names[@]} -eq 0 ] || printf 'FAILED %s\n' "${names[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
