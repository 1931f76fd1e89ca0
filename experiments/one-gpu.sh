#!/usr/bin/env bash
# All evidence that one GPU can give, in about 12 minutes and without network:
#
#   experiments/one-gpu.sh OUT [STAGE...]
#
# Stages, in this order where none is named (seconds are limits; a stage gets what is left of HPZ_SECONDS, 1060):
#   study      420  experiments/one-gpu.yaml: natural rate, rate against stall, the second access   OUT/one-gpu
#   sanitizer  300  torch's stream sanitizer on a short run of each variant                         OUT/sanitizer
#   profile     90  a Chrome trace of one step of each variant                                      OUT/profile
#   calibrate  180  kernels, launches, events and copies for the cost model                         OUT/one-gpu/calibration.json
#                   and as profiles that a study may name under simulate.hardware                   OUT/one-gpu/hardware.yaml
#   report      70  the reports, with the virtual device's reference results beside it              OUT/one-gpu/report.html
# and, where it is named:
#   tests      300  tests/gpu (needs pytest, pytest-timeout and hypothesis, too)
#
# A stage that runs into its limit or fails is named at the end, and what it finished is kept: the same command goes on
# from there. One seed of every question is run before any repeat. On an H100 the study takes 4.5 minutes, the sanitizer 3.
# Exit code 0: all stages ended well; 1: one did not; 2: something is missing, in one sentence.
#
# Needs Python 3.11, a CUDA build of torch, and these wheels with what they depend on (the image's torch stays):
#   deepspeed transformers tokenizers pydantic typer rich jinja2 pyyaml networkx numpy pandas pyarrow scipy matplotlib
# deepspeed==0.19.8 is published as source: `pip wheel --no-deps --no-build-isolation deepspeed==0.19.8` makes the wheel.
#
# What was measured so lies in results/reference/one-gpu and one-gpu-sanitizer, -profile. Results that are to stay:
#   python -m analysis keep OUT/one-gpu OUT/sanitizer OUT/profile    (keep-unfinished where a limit was reached)
set -uo pipefail

started=$SECONDS
budget=${HPZ_SECONDS:-1060}
python=${PYTHON:-python3}
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
failed=()

missing() {
  echo "one-gpu.sh: $1" >&2
  exit 2
}

check() {
  case $python in */*) python=$(cd "$(dirname "$python")" 2>/dev/null && pwd)/${python##*/} ;; esac
  command -v "$python" >/dev/null || missing "no $python here; set PYTHON to a Python 3.11 or newer"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || missing "$python is older than 3.11; set PYTHON"
  local absent
  absent=$("$python" - <<'PYTHON'
from importlib.util import find_spec
needed = "torch deepspeed transformers tokenizers pydantic typer rich jinja2 yaml networkx numpy pandas pyarrow scipy matplotlib"
print(" ".join(name for name in needed.split() if find_spec(name) is None))
PYTHON
  ) || missing "$python cannot look for its packages"
  [ -z "$absent" ] || missing "$python lacks $absent; install the wheels that this script names"
  local words
  words=$(PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH} "$python" - "$home/experiments/one-gpu.yaml" 2>&1 <<'PYTHON'
import sys
from harness.system.errors import HarnessError
from harness.launch.gpu import check_gpus
from harness.study import load_study
try:
    check_gpus(load_study(sys.argv[1]).runs)
except HarnessError as error:
    sys.exit(str(error))
PYTHON
  ) || missing "$(tail -n 1 <<<"$words")"
}

# bounded LIMIT NAME RESERVED COMMAND...: run it, for LIMIT seconds at most and less where no more than RESERVED are left.
bounded() {
  local limit=$1 name=$2 left=$((budget - (SECONDS - started) - $3))
  shift 3
  [ "$left" -lt "$limit" ] && limit=$left
  if [ "$limit" -lt 5 ]; then
    failed+=("$name (no time left)")
    return
  fi
  echo "== $name, at most $limit s ($((SECONDS - started)) s gone)"
  timeout --signal=TERM --kill-after=10 "$limit" "$@"
  local code=$? why
  if [ "$code" -ne 0 ]; then
    case $code in 124 | 137) why="ran into its limit" ;; *) why="exit code $code" ;; esac
    failed+=("$name ($why)")
  fi
}

reserved=70 # seconds kept for the report

study() { bounded 420 study $reserved "$python" -m harness.cli run experiments/one-gpu.yaml --results "$out/one-gpu"; }
witness() {
  bounded "$2" "$1" $reserved \
    "$python" -m harness.cli run experiments/one-gpu-witness.yaml --witness "$1" --results "$out/$1"
}
sanitizer() { witness sanitizer 300; }
profile() { witness profile 90; }
calibrate() {
  mkdir -p "$out/one-gpu"
  bounded 180 calibrate $reserved bash -c \
    '"$1" -m harness.cli calibrate --json --output "$2/hardware.yaml" >"$2/calibration.tmp" &&
     mv "$2/calibration.tmp" "$2/calibration.json"' calibrate "$python" "$out/one-gpu"
}
report() {
  mkdir -p "$out/laptop"
  cp -r results/reference/laptop/. "$out/laptop"
  bounded 20 "report of the virtual device" 0 "$python" -m harness.cli report "$out/laptop" >/dev/null
  bounded 40 report 0 "$python" -m harness.cli report "$out/one-gpu" --against "$out/laptop"
  # Where its stage reached its limit, nobody has reported what the sanitizer found so far.
  [ -e "$out/sanitizer/report.html" ] || [ ! -d "$out/sanitizer/runs" ] ||
    bounded 10 "report of the sanitizer" 0 "$python" -m harness.cli report "$out/sanitizer"
}
tests() { bounded 300 tests 0 "$python" -m pytest -q -p no:cacheprovider tests/gpu; }

[ $# -ge 1 ] || missing "say where the results go: experiments/one-gpu.sh OUT [STAGE...]"
mkdir -p "$1" || missing "$1 cannot be made; give a folder that can be written"
out=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- study sanitizer profile calibrate report
for stage; do
  case $stage in
    study | sanitizer | profile | calibrate | report | tests) ;;
    *) missing "$stage is not a stage; use study, sanitizer, profile, calibrate, report or tests" ;;
  esac
done
check
cd "$home" || exit 2
export PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH} HPZ_CACHE=${HPZ_CACHE:-$out/cache}
export GLOO_SOCKET_IFNAME=lo # all ranks are here, and a machine without network may not resolve its own name
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false MPLCONFIGDIR=${MPLCONFIGDIR:-$out/cache/matplotlib}
{
  date -u +%FT%TZ
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv
  "$python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'
} >"$out/machine.txt" 2>&1

for stage; do
  "$stage"
done

echo "Results: $out ($((SECONDS - started)) s)"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'one-gpu.sh: %s\n' "${failed[@]/%/ did not end well; what it finished is kept}" >&2
  exit 1
fi
