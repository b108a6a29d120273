#!/usr/bin/env bash
# Measures the time of the first commands of a user and of a developer, in fresh clones with empty
# environments:
#
#   tools/first_hour.sh [FOLDER]        # writes logs and times.txt; default: a temporary folder
#
# Nothing else should run on the machine. The clones have the commit that is checked out.
set -euo pipefail
root=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
out=$(realpath -m "${1:-$(mktemp -d)}")
mkdir -p "$out"

measure() { # NAME LIMIT_IN_SECONDS COMMAND...
  local name=$1 limit=$2 start=$SECONDS status=0
  shift 2
  "$@" >"$out/$name.log" 2>&1 || status=$?
  printf '%-24s %5d s  (at most %4d s)  exit status %d\n' \
    "$name" $((SECONDS - start)) "$limit" "$status" | tee -a "$out/times.txt"
}

fresh() { # FOLDER
  rm -rf "$1" && git clone -q "$root" "$1" && cd "$1"
}

: >"$out/times.txt"
fresh "$out/demo" && measure demo 180 make demo
fresh "$out/test" && measure test 240 make test
cd "$out/test"
if command -v nvcc >/dev/null; then
  for architectures in 90 all; do
    rm -rf build/cmake
    MIGE_CUDA=on MIGE_CUDA_ARCHITECTURES=$architectures measure "build-$architectures" \
      "$([ $architectures = all ] && echo 120 || echo 45)" \
      .venv/bin/python setup.py --quiet build_ext --inplace
  done
fi
fresh "$out/check" && measure check 720 make check
fresh "$out/ci" && measure ci 900 .ci/run
echo "Logs: $out"
