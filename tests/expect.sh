# shellcheck disable=SC2154
# Sourced: checks that are counted. The caller has set suite (its name), and for expect also precis and work (a folder); count_end prints the last line.
# A pattern is an extended regular expression; - expects nothing at all, * anything.
passed=0 failed=0

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
    timeout 60 "$precis" "$@" >"$work/out" 2>"$work/err" </dev/null
    rc=$?
    if [ "$rc" -eq "$code" ] && matches "$work/out" "$out" && matches "$work/err" "$err"; then passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "$suite: precis $*"
        echo "$suite:   exit $rc (wanted $code); stdout (wanted $out): $(head -c 300 "$work/out"); stderr (wanted $err): $(head -c 300 "$work/err")"
    fi
}
holds() { # NAME COMMAND...: a shell command that must succeed
    local name=$1
    shift
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "$suite: $name"; fi
}

check() { # NAME STATUS [WORDS]: 0 = good
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "FAIL  $1${3:+: $3}"; fi
}

count_end() {
    echo "$suite: $passed passed, $failed failed${1:+, $1 skipped}"
    [ "$failed" -eq 0 ]
}
