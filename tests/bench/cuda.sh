#!/bin/sh
# Checks and times the CUDA backend, and measures PyTorch's kernels on the same card for comparison.
# Needs nvcc; for the baselines python3 with torch. From the project's root:
#
#     tests/bench/cuda.sh            BUILD=build  CUDA_ARCH="80 90a"
set -e
BUILD=${BUILD:-build}/cuda
mkdir -p "$BUILD/main"
GEN=
for a in ${CUDA_ARCH:-80 90a}; do GEN="$GEN -gencode=arch=compute_$a,code=sm_$a"; done
for f in status mem dtype log; do
    ${CC:-cc} -O2 -std=c11 -D_GNU_SOURCE -Isrc -c src/base/$f.c -o "$BUILD/$f.o"
done
for f in cuda/*.cu tests/bench/cuda_*.cu; do # the latter with a main each
    case $f in tests/*) o=$BUILD/main/$(basename "$f" .cu).o ;; *) o=$BUILD/$(basename "$f" .cu).o ;; esac
    [ "$o" -nt "$f" ] && [ -z "$(find cuda src/backend src/layout tests/bench -name '*.*h' -newer "$o")" ] && continue
    # shellcheck disable=SC2086
    nvcc -O3 -std=c++17 -lineinfo $GEN -Isrc -I. -c "$f" -o "$o"
done
for p in attention products; do nvcc "$BUILD"/*.o "$BUILD/main/cuda_$p.o" -lcublasLt -o "$BUILD/cuda_$p"; done
git log -1 --format='commit %h, %cd' 2>/dev/null || true
nvidia-smi --query-gpu=name,clocks.sm,power.limit --format=csv,noheader
"$BUILD/cuda_attention" check
"$BUILD/cuda_attention" time
for mode in check products held; do "$BUILD/cuda_products" $mode; done
python3 tests/bench/cuda_baseline.py || echo "no PyTorch here: no baselines"
