#!/bin/bash
# Installs what building, testing and the demo need, and is missing. Run it as often as you like: with all in place it does nothing.
# As root on Debian or Ubuntu it uses apt; otherwise it prints the packages or modules to ask for. Exit 1 when the program cannot be built as things are.
#
#     configs/deps.sh            everything
#     configs/deps.sh --list     what is needed and whether it is here; installs nothing
set -u

# kind: need (cannot build without), fast (used when found), test, demo | how to see that it is here | Debian and Ubuntu package | names elsewhere
table() {
    cat <<'LIST'
need|cmd:cc|gcc libc6-dev|gcc
need|cmd:make|make|make
need|cmd:pkg-config|pkg-config|pkgconf
need|pkg:libcjson|libcjson-dev|cJSON (Fedora cjson-devel, Spack cjson)
need|pkg:libpcre2-8|libpcre2-dev|PCRE2 (Fedora pcre2-devel, Spack pcre2+jit)
need|pkg:libutf8proc|libutf8proc-dev|utf8proc (Fedora utf8proc-devel, Spack utf8proc)
need|pkg:libzstd|libzstd-dev|zstd (Fedora libzstd-devel)
need|pkg:zlib|zlib1g-dev|zlib (Fedora zlib-devel)
need|pkg:libxxhash|libxxhash-dev|xxHash (Fedora xxhash-devel, Spack xxhash)
fast|inc:oneapi/dnnl/dnnl.h|libdnnl-dev|oneDNN 2.6 or later (module oneDNN, Spack onednn)
fast|cmd:mpicc|libopenmpi-dev openmpi-bin|an MPI (module openmpi or similar)
fast|cmd:mpirun|openmpi-bin|an MPI (module openmpi or similar)
fast|inc:hwloc.h|libhwloc-dev|hwloc
test|inc:CUnit/CUnit.h|libcunit1-dev|CUnit (Fedora CUnit-devel, Spack cunit)
test|cmd:zstd|zstd|zstd's command
test|cmd:clang-format|clang-format|clang-format (for make lint)
test|cmd:slurmctld|slurmctld slurmd slurm-client munge|Slurm and munge (the slurm suite is skipped without)
demo|cmd:python3|python3|Python 3
demo|py:pip|python3-pip|pip (to fetch the demo model; MODEL=path needs none)
LIST
}

include_found() { printf '#include <%s>\n' "$1" | ${CC:-cc} -x c -E - >/dev/null 2>&1; }
here() { # cmd:NAME pkg:NAME inc:HEADER py:MODULE
    case $1 in
    cmd:*) command -v "${1#cmd:}" >/dev/null 2>&1 || [ -x "/usr/sbin/${1#cmd:}" ] ;;
    pkg:*) pkg-config --exists "${1#pkg:}" 2>/dev/null ;;
    inc:*) include_found "${1#inc:}" ;;
    py:*) python3 -c "import ${1#py:}" >/dev/null 2>&1 ;;
    esac
}

missing() { # lines of the table whose thing is not here
    local kind how packages other
    while IFS='|' read -r kind how packages other; do here "$how" || echo "$kind|$how|$packages|$other"; done < <(table)
}

apt_install() {
    echo "deps: apt-get install $*" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2
}

if [ "${1:-}" = --list ]; then
    while IFS='|' read -r kind how packages other; do
        if here "$how"; then state=found; else state=MISSING; fi
        printf '%-8s %-5s %-24s %-40s %s\n' "$state" "$kind" "$how" "$packages" "$other"
    done < <(table)
    exit 0
fi
[ $# -eq 0 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }

lack=$(missing)
[ -n "$lack" ] || exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "deps: missing: $(cut -d'|' -f3 <<<"$lack" | tr '\n' ' ')" >&2
    # shellcheck disable=SC2046 # one word a package
    set -- $(cut -d'|' -f3 <<<"$lack" | tr ' ' '\n' | sort -u)
    echo "deps: apt-get update" >&2
    apt-get update -qq >&2 || echo "deps: apt-get update failed; going on with the lists there are" >&2
    apt_install "$@" || for package in "$@"; do apt_install "$package"; done # one that cannot be had must not keep the others away
    lack=$(missing)
fi

status=0
while IFS='|' read -r kind how _ other; do
    [ -n "$kind" ] || continue
    case $kind in
    need) echo "deps: needed and not here: $other" >&2; status=1 ;;
    fast) echo "deps: going on without: $other" >&2 ;;
    *) echo "deps: not here, so a part of '$kind' is left out: $other" >&2 ;;
    esac
done <<<"$lack"
if [ $status -ne 0 ]; then
    echo "deps: on Debian or Ubuntu, as root: apt-get install $(cut -d'|' -f3 <<<"$lack" | tr '\n' ' ')" >&2
    echo "deps: elsewhere install the packages named above, or load their modules (module avail), and run make again" >&2
fi
exit $status
