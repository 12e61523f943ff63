# shellcheck disable=SC2034
# Sourced by suites that are scripts: how one begins, checks that are counted, how it ends.
# A pattern is an extended regular expression; - expects nothing at all, * anything.
passed=0 failed=0
tell= # checks that are good are told too

# begin SUITE PRECIS...: sets suite, root (of the project), precis (its whole path) and dir, a folder that goes when the script ends (KEEP=1: stays).
begin() {
    suite=$1 root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    [ $# -gt 1 ] || { echo "usage: $(grep -m1 -oE 'tests/[a-z/]+\.sh .*' "$0")" >&2; exit 2; }
    precis=$(realpath "$2") dir=$(mktemp -d "${TMPDIR:-/tmp}/precis-$suite.XXXXXX")
    [ "${KEEP:-0}" = 1 ] && echo "kept: $dir" || trap 'rm -rf "$dir"' EXIT
}
skip() { # WHY: the suite cannot run here
    echo "$suite: 0 passed, 0 failed, 1 skipped ($1)"
    exit 0
}

matches() { # FILE PATTERN
    case $2 in
    '*') true ;;
    -) [ ! -s "$1" ] ;;
    *) grep -qE -e "$2" "$1" ;;
    esac
}

# expect CODE STDOUT STDERR ARGUMENTS...
expect() {
    local code=$1 out=$2 err=$3 rc
    shift 3
    timeout 60 "$precis" "$@" >"$dir/out" 2>"$dir/err" </dev/null
    rc=$?
    if [ "$rc" -eq "$code" ] && matches "$dir/out" "$out" && matches "$dir/err" "$err"; then passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$suite: precis $*"
        echo "$suite:   exit $rc (wanted $code); stdout (wanted $out): $(head -c 300 "$dir/out"); stderr (wanted $err): $(head -c 300 "$dir/err")"
    fi
}
holds() { # NAME COMMAND...: a shell command that must succeed
    local name=$1
    shift
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "$suite: $name"; fi
}

check() { # NAME STATUS [WORDS]: 0 = good
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); [ -z "$tell" ] || echo "ok    $1"; else failed=$((failed + 1)); echo "FAIL  $1${3:+: $3}"; fi
}

digest() { "$precis" store digest "$1" 2>>"$dir/log" | cut -d' ' -f1; } # STORE

count_end() {
    echo "$suite: $passed passed, $failed failed${1:+, $1 skipped}"
    [ "$failed" -eq 0 ]
}
