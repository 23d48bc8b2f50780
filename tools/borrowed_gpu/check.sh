#!/usr/bin/env bash
# Does this GPU work, is what it computes right, how fast is it? No data set and no network needed.
#
#   bash tools/borrowed_gpu/check.sh SECONDS [key=value of the bench ...]
#
# `make gpu-check` is this with 240 s. What is measured lies in $OUT: check.log and the bench's record.
NAME=check; source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
shift
nvidia-smi 2>&1 | head -20
stage check $(($(left) / 2)) "$PYTHON" -m repro check
# Plugins that others installed stay out; what CUDA's libraries warn of differs from GPU to GPU, and is no failure.
mapfile -t files < <(grep -rlE 'mark\.gpu\b' tests --include='test_*.py')
workers=$("$PYTHON" -c 'import xdist' 2>/dev/null && echo "-p xdist -n ${WORKERS:-4}")
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 stage tests $(($(left) / 2)) "$PYTHON" -m pytest -m gpu -W default -vv --tb=short \
  -p no:cacheprovider $workers "${files[@]}"
stage bench 600 "$PYTHON" -m repro bench --max-seconds $(($(left) - 15)) --nets 20,56,110 "$@"
cp "$REPRO_RESULTS"/bench/bench_*.{json,md} "$OUT/" 2>/dev/null
[ -z "${UNPACK:-}" ] || wait "$UNPACK"
say 'check.sh ends'
sleep 0.5  # for the log
exit $FAILED
