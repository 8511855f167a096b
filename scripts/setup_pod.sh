#!/usr/bin/env bash
# Prepares a fresh rented GPU machine for training; see --help. It can be run again at any time.
set -euo pipefail
unset CDPATH  # with it, cd may change to another folder

usage() {
  cat <<'TEXT'
usage: bash scripts/setup_pod.sh [DATA] [options]

Prepares a fresh rented GPU machine for training and prints the projected cost:
GPU check, installation, optional CUDA extra, data, verify_data, cost forecast.
It trains nothing and overwrites none of your files. It can be run again at any time.

  DATA            the folder that holds FaceForensics++/ (train.json, original_sequences/ …);
                  data/ffpp becomes a link to it. Without DATA it prepares the data of
                  data.root in params.yaml (by default the built-in sample).
  --profile FILE  parameters to copy to params.yaml, unless you changed that
                  (default with DATA: profiles/ffpp_a100.yaml; without: none)
  --no-cuda-extra do not try to install mamba-ssm (the same network runs in plain PyTorch)
  --no-forecast   skip the cost forecast
  -h, --help      this text

Exit code: 0 ready, 1 a step failed (the last line says which), 2 wrong usage.
TEXT
}

say() { printf '\n== %s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
# Quotes a path in a command that the user is to type. %q would write an accent as $'\303\263', which sh cannot read.
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
      [ -z "$data" ] || die "give one DATA folder, not two ($data and $1); see --help" 2
      data=$1 ;;
  esac
  shift
done

# Paths are relative to the caller's folder; everything else happens in the repository.
if [ -n "$data" ]; then
  [ -d "$data" ] || die "$data is not a folder; give the one that holds FaceForensics++/" 2
  data=$(cd -- "$data" && pwd -P)
  if [ "$(basename -- "$data")" = 'FaceForensics++' ]; then data=$(dirname -- "$data"); fi
  [ -d "$data/FaceForensics++" ] || die "there is no FaceForensics++/ in $data; give the folder that holds it" 2
fi
if [ -n "$profile" ]; then
  [ -f "$profile" ] || die "$profile does not exist; take one of profiles/" 2
  profile=$(cd -- "$(dirname -- "$profile")" && pwd -P)/$(basename -- "$profile")
fi
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
[ -n "$profile" ] || [ -z "$data" ] || profile=profiles/ffpp_a100.yaml

missing=() python=${PYTHON:-python3}
for tool in make gcc git; do
  command -v "$tool" > /dev/null || missing+=("$tool")
done
"$python" -c 'import ensurepip, venv' 2> /dev/null || missing+=("${python##*/}-venv")
[ ${#missing[@]} = 0 ] || die "the installation needs packages that are missing: apt-get install ${missing[*]}"
case $(LC_ALL=C git rev-parse --git-dir 2>&1) in
  *safe.directory*)
    die "git refuses this folder, because another user owns it. Type this, then run the script again:
  git config --global --add safe.directory $(quoted "$(pwd -P)")" ;;
esac

say 'GPU'
gpu=no
if command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader; then
  gpu=yes
else
  warn 'nvidia-smi finds no working NVIDIA GPU. The setup continues, but training would take weeks'
fi

say 'installation'
make install || die 'make install failed; its output is above'
python=.venv/bin/python
if [ $gpu = yes ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  warn 'torch does not see the GPU; the driver may be too old for the CUDA version of torch'
fi

say 'CUDA extra (mamba-ssm)'
if [ $cuda_extra = no ]; then
  echo 'skipped'
elif [ $gpu = no ]; then
  echo 'skipped: it needs a GPU'
elif "$python" -c 'import mamba_ssm' 2> /dev/null; then
  echo 'already installed'
elif .venv/bin/uv pip install --python "$python" ninja packaging wheel setuptools &&
  .venv/bin/uv pip install --python "$python" --no-build-isolation -e '.[cuda]' &&
  "$python" -c 'import mamba_ssm'; then
  echo 'installed'
else
  warn 'mamba-ssm cannot be installed here (it needs nvcc); the same network runs in plain PyTorch'
fi

say 'data'
if [ -z "$data" ]; then
  echo 'no folder given: data.root of params.yaml is used'
elif [ "$(cd -- data/ffpp 2> /dev/null && pwd -P)" = "$data" ]; then
  if [ -L data/ffpp ]; then echo "data/ffpp links to $data"; else echo 'data/ffpp is the given folder'; fi
elif [ -e data/ffpp ] && [ ! -L data/ffpp ]; then
  die 'data/ffpp exists and is not a link; move it away, then run this again'
else
  mkdir -p data
  if [ -L data/ffpp ]; then echo "data/ffpp linked to $(readlink data/ffpp) before"; fi
  ln -sfn -- "$data" data/ffpp
  echo "data/ffpp links to $data"
fi

say 'parameters'
if [ -z "$profile" ]; then
  echo 'params.yaml stays as it is'
elif cmp -s -- "$profile" params.yaml; then
  echo "params.yaml already equals $profile"
elif git ls-files --error-unmatch params.yaml > /dev/null 2>&1 && git diff --quiet HEAD -- params.yaml; then
  cp -- "$profile" params.yaml
  echo "params.yaml is now a copy of $profile; git checkout params.yaml restores the old one"
else
  warn "params.yaml has changes of yours and stays as it is; to use the profile: cp $(quoted "$profile") params.yaml"
fi
values=$("$python" -c 'import yaml
params = yaml.safe_load(open("params.yaml"))
print((params.get("runtime") or {}).get("face_cache") or "")
print(params["data"]["root"])') || die 'params.yaml cannot be read'
cache=${values%%$'\n'*} root=${values#*$'\n'}
if [ -n "$data" ] && [ "$root" != data/ffpp ] && [ "$(cd -- "$root" 2> /dev/null && pwd -P)" != "$data" ]; then
  warn "data.root is $root in params.yaml, not data/ffpp: the given data is not used unless you change it"
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
    warn "$((free * 1024 / 1000000000)) GB are free for the face cache ($cache); all of FF++ needs 187 GB." \
      'For your data: .venv/bin/python -m pipeline.build_cache --estimate. Another folder: runtime.face_cache'
  fi
fi

say 'verify_data'
PATH=$PWD/.venv/bin:$PATH dvc repro verify_data || die 'the data is not ready for training; see the table above'

if [ $forecast = yes ]; then
  say 'cost forecast'
  "$python" -m pipeline.forecast || die 'the forecast failed'
fi

say 'ready'
echo "train and evaluate: cd $(quoted "$PWD") && make repro     compare the runs: make ui"
