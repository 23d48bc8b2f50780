# Sourced by check.sh and train.sh, which set NAME and give the seconds they may take. Paths, wheels, the commit, images.
TOOLS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$TOOLS/../.." || exit 1
ENDS=$((SECONDS + ${1:?usage: $0 SECONDS [key=value ...]}))
KEEP=${KEEP:-${TMPDIR:-/tmp}/borrowed_gpu-$(id -u)}  # stays on the machine from call to call
OUT=${OUT:-$KEEP/out}                                # comes back
PYTHON=${PYTHON:-python3}
mkdir -p "$KEEP" "$OUT"
exec > >(tee -a "$OUT/$NAME.log") 2>&1
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} CUBLAS_WORKSPACE_CONFIG=:4096:8
export REPRO_RESULTS=${REPRO_RESULTS:-$KEEP/results} REPRO_DATA=${REPRO_DATA:-$KEEP/data}

FAILED=0 CHILD=
trap 'ENDS=$SECONDS; [ -z "$CHILD" ] || kill "$CHILD"' INT TERM  # the stage ends as at its limit, no other begins

left() { echo $((ENDS - SECONDS)); }
say() { echo "[$(left) s left] $*"; }

# stage NAME SECONDS COMMAND...: the command with a limit of its own, and never beyond the end. Returns its exit code;
# FAILED is 1 once one was not 0, or there was no time for one.
stage() {
  local name=$1 limit=$2 began=$SECONDS code; shift 2
  [ "$limit" -lt $(($(left) - 5)) ] || limit=$(($(left) - 5))
  [ "$limit" -ge 3 ] || { say "SKIPPED $name"; FAILED=1; return 98; }
  say "BEGIN $name, at most $limit s"
  timeout -k 8 "$limit" "$@" & CHILD=$!  # a group of its own: whatever it has started ends with it
  wait "$CHILD"; code=$?
  while kill -0 "$CHILD" 2>/dev/null; do wait "$CHILD"; code=$?; done  # a signal ends the first wait
  CHILD=
  say "END $name: exit $code after $((SECONDS - began)) s"
  [ $code = 0 ] || FAILED=1
  return $code
}

if [ -d .gpu/code ]; then  # what prepare.sh packed
  [ -e .git ] || cp .gpu/code/COMMIT .
  export PYTHONPATH="$KEEP/site${PYTHONPATH:+:$PYTHONPATH}"
  if [ -n "$(ls .gpu/code/wheels)" ] && ! "$PYTHON" -c 'import hydra, msgspec' 2>/dev/null; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$KEEP/site" .gpu/code/wheels/*.whl
  fi
fi
for part in .gpu/images*; do
  [ -d "$part" ] && mkdir -p "$KEEP/images" && cp -rn "$part/." "$KEEP/images/"
done
if [ -f "$KEEP/images/unpack.py" ]; then  # beside what else runs; it goes on where a part is still to come
  mkdir -p "$REPRO_DATA"
  "$PYTHON" "$KEEP/images/unpack.py" "$REPRO_DATA" > "$KEEP/unpack.log" 2>&1 & UNPACK=$!
elif [ -d "$KEEP/images" ]; then
  export REPRO_DATA=$KEEP/images
fi
if [ -d .gpu/runs ]; then mkdir -p "$REPRO_RESULTS" && cp -rn .gpu/runs/. "$REPRO_RESULTS/"; fi
