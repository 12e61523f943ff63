#!/bin/bash
# The golden suites, and others that run a model, on another backend than the CPU's: by default one that keeps its memory to itself as a device does (locked.h),
# which is what a GPU would trip over, without one; with PRECIS_TEST_BACKEND=cuda on a GPU.   usage: tests/golden/run.sh BUILD/precis
# Without that wish, some layouts by the fast CPU backend against the reference, too.
set -u
here=$(dirname "$0") tests=$(dirname "$1")/tests
layouts=$([ -n "${PRECIS_TEST_BACKEND:-}" ] || echo yes)
export PRECIS_TEST_BACKEND=${PRECIS_TEST_BACKEND:-locked}
failed=0
suites=(golden/test_{golden,gists,methods,incomes,adapters,window} unit/test_{pick,identities,unigist,ppl})
[ "$PRECIS_TEST_BACKEND" = locked ] || suites+=(unit/test_{spill,early}) # which take that one by themselves
for suite in "${suites[@]}"; do
    out=$("$tests/$suite" 2>&1)
    rc=$?
    [ $rc -eq 0 ] || failed=1
    grep -v ': info: ' <<<"$out" | sed -E "s/^([a-z]+): ([0-9]+ passed)/\1 on a $PRECIS_TEST_BACKEND backend: \2/"
    [ $rc -eq 0 ] || grep -q ' failed$' <<<"$out" || echo "$suite on a $PRECIS_TEST_BACKEND backend: 0 passed, 1 failed (exit $rc)"
done
[ -z "$layouts" ] || LAYOUTS="full coarse-rec unigist blockselect" "$here/layouts.sh" "$1" || failed=1
exit $failed
