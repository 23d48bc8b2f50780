#!/usr/bin/env bash
# Train the paper's runs that results/reference lacks until SECONDS are over, and bring back all there is of them.
#
#   bash tools/borrowed_gpu/train.sh SECONDS [key=value that changes no number ...]
#
# RUNS=a,b,... names them in another order, PROCESSES=4 says how many are done at once. $OUT then holds train.log and
# runs1.tar, runs2.tar, ... of two runs each, renewed every EVERY (30) seconds, so that nothing is lost if the machine
# goes away. The same command goes on.
NAME=train; source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
shift
words=(machine.tensorboard=false machine.checkpoint_seconds="${CHECKPOINT_SECONDS:-40}" "$@")
RUNS=${RUNS:-cifar_resnet20,cifar_plain20,cifar_resnet56,cifar_plain56,cifar_resnet32,cifar_plain32,cifar_resnet44,cifar_plain44,cifar_resnet110}
RESERVE=15  # seconds to bring everything back

# Two runs in a file, each with its newest checkpoint. A file is replaced as a whole: a cut leaves what can be read.
bring_back() (
  cd "$REPRO_RESULTS" 2>/dev/null || exit 0
  IFS=, read -ra names <<< "$RUNS"
  for ((begin = 0; begin < ${#names[@]}; begin += 2)); do
    files=() number=$((begin / 2 + 1))
    for name in "${names[@]:begin:2}"; do
      for run in runs/"$name" runs/"$name"/seed*; do
        newest=$(ls "$run"/checkpoint-*.json 2>/dev/null | tail -1)
        for file in "$run"/{run.json,config.yaml,weights.pt} "$run"/*.csv ${newest:+"${newest%.json}".*}; do
          [ ! -f "$file" ] || files+=("$file")
        done
      done
    done
    [ ${#files[@]} -gt 0 ] || continue
    tar cf "$KEEP/new.tar" "${files[@]}" 2>/dev/null
    cp "$KEEP/new.tar" "$OUT/new.part" && mv "$OUT/new.part" "$OUT/runs$number.tar"
  done
)

# PROCESSES that share the GPU: each does the runs that no other one does. 75 when time was up, 0 when nothing is left.
together() {
  local number pid pids=() code=0 status
  trap : TERM  # `timeout` has told the runs too; these shells wait until they have saved
  set -o pipefail
  for ((number = 1; number <= ${PROCESSES:-4}; number++)); do
    (trap : TERM; "$PYTHON" -m repro suite pending --max-seconds "$1" --runs "$RUNS" "${@:2}" 2>&1 |
      sed -u "s|^|$number: |") & pids+=($!)
  done
  for pid in "${pids[@]}"; do
    wait "$pid"; status=$?
    while kill -0 "$pid" 2>/dev/null; do wait "$pid"; status=$?; done  # a signal ends the first wait
    case $status in
      0 | 7) ;;  # 7: some were in progress elsewhere
      75) [ $code != 0 ] || code=75 ;;
      *) code=$status ;;
    esac
  done
  return $code
}

if [ -n "${UNPACK:-}" ] && ! wait "$UNPACK"; then
  tail -2 "$KEEP/unpack.log"
  say 'IMAGES MISSING: a part of them has not come yet'
  exit 9
fi
live() {
  trap 'kill $! 2>/dev/null; exit' TERM  # not in the middle of bring_back, which would go on beside the last one
  while :; do
    sleep "${EVERY:-30}" & wait $!
    bring_back
    nvidia-smi --query-gpu=utilization.gpu,memory.used,power.draw --format=csv,noheader 2>/dev/null
  done
}
live & LIVE=$!
training() { echo $(($(left) - RESERVE)); }
export -f together; export RUNS PYTHON
train() { stage training "$(training)" bash -c 'together "$@"' train "$(($(training) - 10))" "${words[@]}"; code=$?; }
train
if [[ ! $code =~ ^(0|2|3|75)$ ]] && [ "$(training)" -gt "${LEAST:-60}" ]; then
  say "ended early ($code): what is left goes on"
  train
fi
"$PYTHON" -m repro suite pending --dry-run
kill "$LIVE" 2>/dev/null; wait "$LIVE" 2>/dev/null
bring_back
ls -l "$OUT"
say 'train.sh ends'
sleep 0.5  # for the log
exit $code
