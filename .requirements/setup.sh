#!/usr/bin/env bash
# Sets up .venv with the pinned packages: the CUDA ones where there is an NVIDIA GPU, else the CPU ones.
# Running it again does nothing unless a lock or pyproject.toml changed.
set -euo pipefail
cd "$(dirname "$0")/.."

gpu=cpu
if [ -z "${CHARFORGE_CPU:-}" ] && { [ -e /proc/driver/nvidia/version ] || [ -e /dev/nvidiactl ]; }; then gpu=cuda; fi
stamp=.venv/.installed
want=$(cat .requirements/$gpu.lock .requirements/setup.sh pyproject.toml | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then exit 0; fi

python=""
for candidate in python3.11 python3.12 python3; do
  if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then echo "Python 3.11 or newer is needed." >&2; exit 1; fi

# System packages: venv for Debian's Python; tcmalloc spares training on CPU many page faults; DeepSpeed builds a small
# extension with g++ and Python.h. Without root they are named, and only venv is a must.
missing=()
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
command -v g++ >/dev/null || missing+=(g++)
# Debian's own Python keeps Python.h in a package of its own.
"$python" -c 'import sysconfig, os, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || missing+=(python3-dev)
ldconfig -p 2>/dev/null | grep -q libtcmalloc_minimal.so.4 || missing+=(libtcmalloc-minimal4)
ldconfig -p 2>/dev/null | grep -q libnuma.so.1 || missing+=(libnuma1)
can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }
install_packages() {
  echo "installing system packages: $*"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 \
    || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
}
if [ ${#missing[@]} -gt 0 ]; then
  if can_install; then
    install_packages "${missing[@]}"
  else
    echo "note: not installed, for want of root: ${missing[*]}" >&2
  fi
fi
# Only tests and pictures of the pages need a browser: nothing fails for want of it.
if ! command -v chromium >/dev/null && ! command -v chromium-browser >/dev/null && ! command -v google-chrome >/dev/null; then
  if ! can_install || ! install_packages chromium; then
    echo "note: not installed, and optional: chromium (tests of the pages use it)" >&2
  fi
fi

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  rm -rf .venv
  "$python" -m venv .venv
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
echo "installing the pinned packages ($gpu); this takes a few minutes and about 4 GB"
pip install --quiet "setuptools==78.1.1" wheel
if [ "$gpu" = cpu ]; then
  # First wherever pip is configured to look, then PyTorch's own index of CPU builds.
  pip install --quiet --no-deps "torch==2.13.0+cpu" 2>/dev/null \
    || pip install --quiet --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==2.13.0+cpu"
fi
# DeepSpeed is built from source and looks at the torch that is there, so torch's own needs and the build tools come first.
grep -v -E '^(#|deepspeed==)' .requirements/$gpu.lock > .venv/first.txt
deepspeed=$(grep '^deepspeed==' .requirements/$gpu.lock)
if [ "$gpu" = cpu ]; then
  pip install --quiet --no-deps -r .venv/first.txt
  DS_BUILD_OPS=0 pip install --quiet --no-deps --no-build-isolation "$deepspeed"
  pip install --quiet --no-deps --no-build-isolation -e .
else
  # The CUDA builds bring libraries of their own, so here pip resolves what the pins leave open.
  pip install --quiet -r .venv/first.txt hatchling
  DS_BUILD_OPS=0 pip install --quiet --no-build-isolation -r .venv/first.txt "$deepspeed"
  pip install --quiet --no-build-isolation -r .venv/first.txt -e '.[train,chat,dev]'
fi
echo "$want" > "$stamp"
echo "ready: $(.venv/bin/charforge --version)"
