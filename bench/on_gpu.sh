#!/usr/bin/env bash
# The tests of the kernels and the benchmarks on a machine with a GPU, from a checkout that is not installed:
#
#   bash bench/on_gpu.sh OUT [options of bench.run]
#
# Every stage has its own log in OUT and its own time limit, and a failing one does not stop the next. OUT then holds
# environment.txt, tests.txt, bench.txt, summary.txt, results/elementwise.csv and results/environment.json; copy results/
# into bench/results/<device>/ and run `python -m bench.report`. Without a GPU it is a dry run: the kernels are
# interpreted, and a small suite is timed on the CPU.
#
# PYTHON (python3), TEST_SECONDS (180), BENCH_SECONDS (360) and TESTS (the files and options that pytest gets) may be set.
set -uo pipefail
if [ $# -lt 1 ]; then
  echo "usage: bash bench/on_gpu.sh OUT [options of bench.run]" >&2
  exit 2
fi
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
shift
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3} test_seconds=${TEST_SECONDS:-180} bench_seconds=${BENCH_SECONDS:-360}
# Only fusedact is to be found, not `kernels` beside it.
path=$(mktemp -d)
trap 'rm -rf "$path"' EXIT
ln -s "$PWD/fusedact" "$path/fusedact"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
status=0
: >"$out/summary.txt"

# stage LOG SECONDS COMMAND...: run it, and put down how it ended.
stage() {
  local log=$1 seconds=$2 start=$SECONDS code
  shift 2
  timeout --signal=INT --kill-after=20 "$seconds" "$@" >"$out/$log" 2>&1
  code=$?
  [ $code -eq 0 ] || status=1
  echo "$log: exit $code after $((SECONDS - start)) s$([ $code -eq 124 ] && echo ', stopped by its limit')" |
    tee -a "$out/summary.txt"
}

facts() {
  uname -srm
  command -v nvidia-smi >/dev/null && nvidia-smi
  "$python" - <<'EOF'
import importlib.metadata, platform, sys
print("python", platform.python_version(), sys.executable)
for name in ("torch", "triton", "numpy", "pytest", "pytest-benchmark", "matplotlib", "liger_kernel"):
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "not installed")
import torch
print("cuda", torch.version.cuda, "available" if torch.cuda.is_available() else "not available")
if torch.cuda.is_available():
    print(torch.cuda.get_device_properties(0))
EOF
  PYTHONPATH=$path "$python" -m fusedact doctor
}
export -f facts
export python path
stage environment.txt 60 bash -c facts

if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  tests=${TESTS:-tests/kernels}
else
  export DRY=1
  tests=${TESTS:-tests/kernels/test_layouts.py -k no_elements}
fi
# The options of pyproject.toml name a plugin that may be missing, and make errors of warnings that other versions of
# torch give. Not `python -m pytest`, which puts the root on the path.
# shellcheck disable=SC2086
stage tests.txt "$test_seconds" env PYTHONPATH="$path" ${DRY:+TRITON_INTERPRET=1} "$python" -c \
  'import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))' \
  $tests -o addopts=--import-mode=importlib -W default -q -ra --maxfail=30 --durations=5 -p no:cacheprovider

stage bench.txt "$bench_seconds" "$python" -m bench.run --out "$out/results" ${DRY:+--suite quick} \
  --limit "$((bench_seconds * 5 / 6))" "$@"
for log in environment.txt tests.txt bench.txt; do
  echo "== the end of $log"
  tail -n 15 "$out/$log"
done
echo "== $out"
cat "$out/summary.txt"
exit $status
