#!/usr/bin/env bash
# All that a machine with a GPU can tell, from a checkout that is not installed:
#
#   bash bench/on_gpu.sh OUT [options of bench.run]
#
# Stages: environment (versions, devices, `fusedact doctor`), tests (the kernels), large (more than 2^31 elements, and
# CUDA graphs), bench (the full suite), ledger (instructions, compared with those kept if the Triton is the same). Each
# has its own log in OUT and its own time limit, and a failing one does not stop the next. OUT/summary.txt says how they
# ended; copy OUT/results into bench/results/<device>/ and run `python -m bench.report`. The same command continues
# the benchmarks of the same OUT.
#
# These may be set: STAGES (all), PYTHON (python3), TEST_SECONDS (180), LARGE_SECONDS (120), BENCH_SECONDS (530),
# LEDGER_SECONDS (120), and TESTS (the files and options that pytest gets in the stage tests).
#
# Without a GPU it is a rehearsal: kernels are interpreted, small tensors stand in for large ones, and the suite's plan is
# gone through on the CPU with the square roots of its sizes.
set -uo pipefail
if [ $# -lt 1 ]; then
  echo "usage: bash bench/on_gpu.sh OUT [options of bench.run]" >&2
  exit 2
fi
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
shift
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3} bench_seconds=${BENCH_SECONDS:-530}
stages=" ${STAGES:-environment tests large bench ledger} "
# Only fusedact is to be found, not `kernels` beside it.
path=$(mktemp -d)
trap 'rm -rf "$path"' EXIT
ln -s "$PWD/fusedact" "$path/fusedact"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
status=0
: >"$out/summary.txt"

# stage NAME SECONDS COMMAND...: run it if it was asked for, and put down how it ended.
stage() {
  local log=$1.txt seconds=$2 start=$SECONDS code
  [[ $stages == *" $1 "* ]] || return 0
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
stage environment 60 bash -c facts

DRY='' large=''
tests=${TESTS:-tests/kernels --deselect tests/kernels/test_large.py --deselect tests/kernels/test_cuda_graphs.py}
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  DRY=1 large='-k gelu'
  tests=${TESTS:-tests/kernels/test_layouts.py -k no_elements}
fi

# tested NAME SECONDS OPTIONS...: a stage of tests. The options of pyproject.toml name a plugin that may be missing, and
# make errors of warnings that other versions of torch give. Not `python -m pytest`, which puts the root on the path.
tested() {
  local name=$1 seconds=$2
  shift 2
  stage "$name" "$seconds" env PYTHONPATH="$path" ${DRY:+TRITON_INTERPRET=1} "$python" -c \
    'import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))' \
    "$@" -o addopts=--import-mode=importlib -W default -q -ra --maxfail=30 --durations=5 -p no:cacheprovider
}
# shellcheck disable=SC2086
tested tests "${TEST_SECONDS:-180}" $tests
# shellcheck disable=SC2086
tested large "${LARGE_SECONDS:-120}" tests/kernels/test_large.py tests/kernels/test_cuda_graphs.py $large

stage bench "$bench_seconds" "$python" -m bench.run --out "$out/results" ${DRY:+--rehearse} \
  --limit "$((bench_seconds * 10 / 11))" "$@"

counted=(--targets sm_90)
[ -z "$DRY" ] || counted+=(--kernels elu --dtypes bf16)
if "$python" -c 'import json, sys, triton
sys.exit(json.load(open("bench/results/ledger.json"))["triton"] != triton.__version__)'; then
  counted+=(--check)
fi
stage ledger "${LEDGER_SECONDS:-120}" "$python" -m bench.ledger "${counted[@]}"

for name in $stages; do
  echo "== the end of $name.txt"
  tail -n 15 "$out/$name.txt"
done
echo "== $out"
cat "$out/summary.txt"
exit $status
