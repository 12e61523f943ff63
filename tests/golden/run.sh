#!/bin/bash
# The golden suites, and others that run a model, on a backend that keeps its memory to itself as a device does (locked.h): what a GPU would trip
# over, without one.   usage: tests/golden/run.sh BUILD/precis
set -u
tests=$(dirname "$1")/tests
export PRECIS_TEST_BACKEND=locked
for suite in golden/test_{golden,gists,methods,incomes,adapters,window} unit/test_{pick,identities,unigist,ppl}; do
    out=$("$tests/$suite" 2>&1)
    rc=$?
    grep -v ': info: ' <<<"$out" | sed -E 's/^([a-z]+): ([0-9]+ passed)/\1 on a locked backend: \2/'
    [ $rc -eq 0 ] || grep -q ' failed$' <<<"$out" || echo "$suite on a locked backend: 0 passed, 1 failed (exit $rc)"
done
