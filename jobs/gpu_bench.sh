#!/usr/bin/env bash
# Checks and times the GPU kernels from a bare checkout:  bash jobs/gpu_bench.sh OUT_DIR [options of jobs.measure.gpu]
# PYTHON=... names the interpreter (default python3), which needs torch, CuPy, numba, NumPy and psutil.
set -euo pipefail
: "${1:?usage: bash jobs/gpu_bench.sh OUT_DIR [options]}"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# torch and numba have a pool of threads each: workers that spin after their work would slow the other pool down
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-10000}"
exec "${PYTHON:-python3}" -u -m jobs.measure.gpu "$@"
