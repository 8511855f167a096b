#!/usr/bin/env bash
# Makes a fresh rented GPU machine ready to train; see --help. Run it again as often as you like.
set -euo pipefail
unset CDPATH  # with it, cd may go elsewhere and prints where

usage() {
  cat <<'TEXT'
usage: bash scripts/setup_pod.sh [DATA] [options]

Makes a fresh rented GPU machine ready to train, and says what the training will cost:
GPU check, installation, optional CUDA extra, data, verify_data, cost forecast.
Nothing is trained and nothing of yours is overwritten. It can be run again at any time.

  DATA            the folder that holds FaceForensics++/ (train.json, original_sequences/ …);
                  data/ffpp becomes a link to it. Without DATA the data are prepared that
                  params.yaml names (as delivered: the built-in sample).
  --profile FILE  the parameters to take where params.yaml is still as it was delivered
                  (default with DATA: profiles/ffpp_a100.yaml; without: none)
  --no-cuda-extra do not try to install mamba-ssm (the same network runs in plain PyTorch)
  --no-forecast   skip the cost forecast
  -h, --help      this text

Exit code: 0 ready, 1 a step failed (the last line says which), 2 wrong use.
TEXT
}

say() { printf '\n== %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
# For a line to type, in any shell and locale; %q would write an accent as $'\303\263', which sh does not know.
quoted() { local quote="'\\''"; printf "'%s'" "${1//\'/$quote}"; }
die() { printf 'error: %s\n' "$1" >&2; exit "${2:-1}"; }

data='' profile='' cuda_extra=yes forecast=yes
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --profile)
      [ $# -ge 2 ] || die '--profile needs a file; see --help' 2
      profile=$2; shift ;;
    --no-cuda-extra) cuda_extra=no ;;
    --no-forecast) forecast=no ;;
    -*) die "unknown option $1; see --help" 2 ;;
    *)
      [ -z "$data" ] || die "one DATA folder, not two ($data and $1); see --help" 2
      data=$1 ;;
  esac
  shift
done

# Paths are the caller's; everything else happens in the repository.
if [ -n "$data" ]; then
  [ -d "$data" ] || die "$data is no folder; give the one that holds FaceForensics++/" 2
  data=$(cd -- "$data" && pwd -P)
  if [ "$(basename -- "$data")" = 'FaceForensics++' ]; then data=$(dirname -- "$data"); fi
  [ -d "$data/FaceForensics++" ] || die "$data holds no FaceForensics++/; give the folder above it" 2
fi
if [ -n "$profile" ]; then
  [ -f "$profile" ] || die "$profile does not exist; profiles/ holds ready ones" 2
  profile=$(cd -- "$(dirname -- "$profile")" && pwd -P)/$(basename -- "$profile")
fi
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
[ -n "$profile" ] || [ -z "$data" ] || profile=profiles/ffpp_a100.yaml

missing=() python=${PYTHON:-python3}
for tool in make gcc git; do
  command -v "$tool" > /dev/null || missing+=("$tool")
done
"$python" -c 'import ensurepip, venv' 2> /dev/null || missing+=("${python##*/}-venv")
[ ${#missing[@]} = 0 ] || die "what the installation needs is missing: apt-get install ${missing[*]}"
case $(LC_ALL=C git rev-parse --git-dir 2>&1) in
  *safe.directory*)
    die "git refuses this folder, for another user owns it; run this again after
  git config --global --add safe.directory $(quoted "$(pwd -P)")" ;;
esac

say 'GPU'
gpu=no
if command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; then
  gpu=yes
else
  warn 'no working NVIDIA GPU here (nvidia-smi); everything is set up, but training would take weeks'
fi

say 'installation'
make install || die 'make install failed; its output is above'
python=.venv/bin/python
if [ $gpu = yes ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  warn 'torch does not see the GPU: the driver may be older than the CUDA that torch was built for'
fi

say 'CUDA extra (mamba-ssm)'
if [ $cuda_extra = no ]; then
  echo 'skipped'
elif [ $gpu = no ]; then
  echo 'skipped: it needs a GPU'
elif "$python" -c 'import mamba_ssm' 2> /dev/null; then
  echo 'is there'
elif .venv/bin/uv pip install --python "$python" ninja packaging wheel setuptools &&
  .venv/bin/uv pip install --python "$python" --no-build-isolation -e '.[cuda]' &&
  "$python" -c 'import mamba_ssm'; then
  echo 'installed'
else
  warn 'mamba-ssm cannot be installed here (it is compiled with nvcc); the same network runs in plain PyTorch'
fi

say 'data'
if [ -z "$data" ]; then
  echo 'no folder given: data.root in params.yaml says which'
elif [ "$(cd -- data/ffpp 2> /dev/null && pwd -P)" = "$data" ]; then
  if [ -L data/ffpp ]; then echo "data/ffpp links to $data"; else echo 'data/ffpp is the folder given'; fi
elif [ -e data/ffpp ] && [ ! -L data/ffpp ]; then
  die 'data/ffpp exists and is no link; move it away, then run this again'
else
  mkdir -p data
  if [ -L data/ffpp ]; then echo "data/ffpp linked to $(readlink data/ffpp) so far"; fi
  ln -sfn -- "$data" data/ffpp
  echo "data/ffpp links to $data"
fi

say 'parameters'
if [ -z "$profile" ]; then
  echo 'params.yaml is kept'
elif cmp -s -- "$profile" params.yaml; then
  echo "params.yaml is $profile already"
elif git ls-files --error-unmatch params.yaml > /dev/null 2>&1 && git diff --quiet HEAD -- params.yaml; then
  cp -- "$profile" params.yaml
  echo "params.yaml is now a copy of $profile; git checkout params.yaml brings the old one back"
else
  warn "params.yaml holds changes of yours and is kept; to take the profile: cp $(quoted "$profile") params.yaml"
fi
values=$("$python" -c 'import yaml
params = yaml.safe_load(open("params.yaml"))
print((params.get("runtime") or {}).get("face_cache") or "")
print(params["data"]["root"])') || die 'params.yaml cannot be read'
cache=${values%%$'\n'*} root=${values#*$'\n'}
if [ -n "$data" ] && [ "$root" != data/ffpp ] && [ "$(cd -- "$root" 2> /dev/null && pwd -P)" != "$data" ]; then
  warn "data.root is $root in params.yaml, not data/ffpp: set it, or the data just given is not used"
else
  echo "data.root is $root in params.yaml"
fi
if [ -n "$cache" ]; then
  disk=$cache
  while [ ! -d "$disk" ]; do disk=$(dirname -- "$disk"); done
  free=$(df -k --output=avail -- "$disk" 2> /dev/null) || free=''
  there=$(du -sk -- "$cache" 2> /dev/null) || there=0
  free=${free##*[!0-9]} there=${there%%[!0-9]*}
  if [ -n "$free" ] && [ $(((free + there) * 1024)) -lt 187000000000 ]; then
    warn "$((free * 1024 / 1000000000)) GB are free for the face cache ($cache); all of FF++ takes 187 GB." \
      'What yours takes: .venv/bin/python -m pipeline.build_cache --estimate. Another place: runtime.face_cache'
  fi
fi

say 'verify_data'
PATH=$PWD/.venv/bin:$PATH dvc repro verify_data || die 'the data are not ready; the table above says why (or run make install)'

if [ $forecast = yes ]; then
  say 'cost forecast'
  "$python" -m pipeline.forecast || die 'the forecast failed'
fi

say 'ready'
echo "train and evaluate: cd $(quoted "$PWD") && make repro     compare the runs: make ui"
