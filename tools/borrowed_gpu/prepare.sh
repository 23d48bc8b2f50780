#!/usr/bin/env bash
# At home: pack what a machine without a network needs into .gpu/ of this checkout (git ignores it).
#
#   bash tools/borrowed_gpu/prepare.sh IMAGES [RESULTS]
#
# IMAGES   a folder with cifar-10-batches-py/, of which nothing else is taken, or a folder of packed images with
#          an unpack.py that writes cifar-10-batches-py/ into the folder it is given
# RESULTS  a results folder (as results/) whose unfinished runs go on there
#
# .gpu/code goes along in every call; the images are in .gpu/images1, .gpu/images2, ... of at most PART_MIB (50) each,
# for machines that take only so much in one call; .gpu/runs are the unfinished runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ $# -ge 1 ] || { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2; }
images=$(cd "$1" && pwd) results=${2:+$(cd "$2" && pwd)}
part_bytes=$((${PART_MIB:-50} * 1048576)) python=${PYTHON:-python3}

wanted=()
if [ -f "$images/unpack.py" ]; then wanted=(.)
elif [ -e "$images/cifar-10-batches-py" ]; then wanted=(cifar-10-batches-py); fi
[ ${#wanted[@]} -gt 0 ] || { echo "no CIFAR-10 in $images: no cifar-10-batches-py/ or unpack.py" >&2; exit 3; }

[ -z "$(git status --porcelain)" ] || echo 'WARNING: there are uncommitted changes, and the records will say so'
rm -rf .gpu && mkdir -p .gpu/code/wheels
# .git does not travel: with this file the records still name the commit, and whether a file differs from it.
{ git rev-parse HEAD; git ls-files -z | xargs -0 sha256sum; } > .gpu/code/COMMIT
# What a machine with torch usually lacks; msgspec alone is compiled, for the Python there.
if [ -z "${NO_WHEELS:-}" ]; then
  "$python" -m pip wheel --quiet --no-deps --wheel-dir .gpu/code/wheels \
    ${WHEELS:-'hydra-core>=1.3.8' 'omegaconf>=2.3,<2.4' 'antlr4-python3-runtime==4.9.*' 'filelock>=4.2'}
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux2014_x86_64 \
    --python-version "${PYTHON_THERE:-3.12}" --dest .gpu/code/wheels 'msgspec>=0.19'
fi

part=1 filled=0  # small files first, so that unpack.py is in the first part
while IFS= read -r file; do
  size=$(stat -c %s "$images/$file")
  if [ "$filled" -gt 0 ] && [ $((filled + size)) -gt "$part_bytes" ]; then part=$((part + 1)) filled=0; fi
  filled=$((filled + size))
  mkdir -p ".gpu/images$part" && (cd "$images" && cp --parents "$file" "$OLDPWD/.gpu/images$part/")
done < <(cd "$images" && { find "${wanted[@]}" -type f -size -1024k | sort; find "${wanted[@]}" -type f ! -size -1024k | sort; })

if [ -n "$results" ]; then
  mkdir .gpu/runs
  # -L lists the others; without a finished one grep exits with 1
  { grep -L '"status": "finished"' "$results"/runs/*/*/run.json || true; } | xargs -rn1 dirname |
    while IFS= read -r run; do (cd "$results" && cp -r --parents "${run#"$results"/}" "$OLDPWD/.gpu/runs/"); done
fi
chmod -R u+w .gpu
du -sm .gpu/* | sort -k2 | sed 's/\t/ MiB  /'
echo "and the checkout itself: $(git ls-files -z | du --files0-from=- -cm | tail -1 | cut -f1) MiB"
