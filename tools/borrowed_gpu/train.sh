#!/usr/bin/env bash
# Train the paper's runs that results/reference lacks until SECONDS are over, and bring back all there is of them.
#
#   bash tools/borrowed_gpu/train.sh SECONDS [key=value that changes no number ...]
#
# RUNS=a,b,... names them in another order. $OUT then holds train.log and runs1.tar, runs2.tar, ... of two runs each,
# renewed every EVERY (30) seconds, so that nothing is lost if the machine goes away. The same command goes on.
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

# One process for each run: where the runs could not share one.
apart() {
  local name seed began=$SECONDS
  trap : TERM  # `timeout` has told the runs too; this waits until they have saved
  for name in ${RUNS//,/ }; do
    while [ "$(jobs -rp | wc -l)" -ge "${PROCESSES:-8}" ] && [ $((SECONDS - began)) -lt "$1" ]; do sleep 1; done
    [ $(($1 - SECONDS + began)) -gt 10 ] || break
    seed=${name##*/seed}; [ "$seed" != "$name" ] || seed=0
    OMP_NUM_THREADS=1 "$PYTHON" -m repro run experiment="${name%%/*}" seed="$seed" max_seconds=$(($1 - SECONDS + began)) \
      "${words[@]}" 2>&1 | sed -u "s|^|$name: |" &
  done
  wait || wait
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
stage pending "$(training)" "$PYTHON" -m repro pending --max-seconds "$(training)" --runs "$RUNS" "${words[@]}"; code=$?
if [[ ! $code =~ ^[023]$ ]] && [ "$(training)" -gt "${LEAST:-60}" ]; then
  say "ended early ($code): one process for each run"
  export -f apart; export RUNS PYTHON; export WORDS="${words[*]}"
  stage apart "$(training)" bash -c 'read -ra words <<< "$WORDS"; apart "$1"' apart "$(($(training) - 10))"; code=$?
  "$PYTHON" -m repro pending --dry-run
fi
kill "$LIVE" 2>/dev/null; wait "$LIVE" 2>/dev/null
bring_back
ls -l "$OUT"
say 'train.sh ends'
sleep 0.5  # for the log
exit $code
