#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the virtual environment that `make demo` and `make test` use, and leaves VENV/.ready-PURPOSE.
# usage: [PYTHON=python3.11] tools/bootstrap.sh demo|test VENV_DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=$1 venv=$2

say() { printf 'bootstrap: %s\n' "$*"; }
fail() { printf 'bootstrap: %s\n' "$*" >&2; exit 2; }

# --- system packages -------------------------------------------------------------------------------------------------
as_root() { # the prefix that gives root without asking for a password; fails where there is none
  if [ "$(id -u)" = 0 ]; then echo env; elif sudo -n true 2>/dev/null; then echo "sudo -n"; else return 1; fi
}

apt_install() { # what-for package...
  local why=$1 root; shift
  local by_hand="sudo apt-get install -y --no-install-recommends $*"
  command -v apt-get >/dev/null || fail "$why is missing: install what Debian calls: $*"
  root=$(as_root) || fail "$why is missing. Run: $by_hand"
  say "installing $* ($why)"
  # shellcheck disable=SC2086
  { $root apt-get -q update && $root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"; } \
    >"${TMPDIR:-/tmp}/vla_ros-apt.$$.log" 2>&1 || {
      tail -n 5 "${TMPDIR:-/tmp}/vla_ros-apt.$$.log" >&2; fail "apt-get failed. Run: $by_hand"; }
  rm -f "${TMPDIR:-/tmp}/vla_ros-apt.$$.log"
}

# --- Python ----------------------------------------------------------------------------------------------------------
usable() { "$1" -c 'import sys; sys.exit(not ((3, 10) <= sys.version_info[:2] <= (3, 12)))' 2>/dev/null; }

candidates=${PYTHON:-python3.12 python3.11 python3.10 python3}
find_python() { # PYTHON where it is set, else the first usable interpreter, one that can make environments before one that cannot
  local candidate
  for candidate in $candidates; do
    if usable "$candidate" && "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then echo "$candidate"; return; fi
  done
  for candidate in $candidates; do
    if usable "$candidate"; then echo "$candidate"; return; fi
  done
  return 1
}

make_venv() {
  local python version
  python=$(find_python) || fail "needs Python 3.10, 3.11 or 3.12 (looked for: $candidates), and finds $(python3 --version 2>&1 || echo none). Install one, e.g.: sudo apt-get install python3.12 python3.12-venv"
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install "the venv module of Python $version" "python$version-venv"
  say "making $venv with Python $version"
  "$python" -m venv --prompt vla_ros "$venv"
}

# --- rendering without a screen: EGL and a driver below it ---------------------------------------------------------------
has_library() { "$venv/bin/python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }
ensure_egl() {
  has_library libEGL.so.1 && { has_library libEGL_mesa.so.0 || has_library libEGL_nvidia.so.0; } && return
  apt_install "EGL, to render without a screen" libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri
}

# --- a browser for the tests of the operator page, which are skipped without one ------------------------------------------
ensure_chromium() {
  command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null && return
  { as_root && command -v apt-get; } >/dev/null && (apt_install "a browser for the tests of the operator page" chromium) && return
  say "no Chromium: the tests of the operator page will be skipped"
}

# --- packages --------------------------------------------------------------------------------------------------------
pip_install() { "$venv/bin/python" -m pip --disable-pip-version-check install -qq -c requirements/constraints.txt "$@"; }

install_torch() { # without CUDA's gigabytes where there is no NVIDIA card and a CPU build is at hand
  "$venv/bin/python" -c 'import torch' 2>/dev/null && return
  [ -e /proc/driver/nvidia/version ] && return # the ordinary wheel follows with the other packages
  pip_install --no-index --no-deps torch 2>/dev/null && return
  [ -n "${VLA_TORCH_INDEX:-}" ] || return 0 # e.g. the index of CPU wheels that PyTorch's own site names
  pip_install --index-url "$VLA_TORCH_INDEX" --no-deps torch || true
}

case $purpose in
  demo) extras=cpu,sim,ros ;;
  test) extras=all ;;
  *) fail "purpose '$purpose' is unknown: demo or test" ;;
esac
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || fail "the ROS 2 wheels exist for Linux on x86-64 only, this is $(uname -sm): use a ROS 2 workspace (README.md)"
"$venv/bin/python" -c '' 2>/dev/null || make_venv
usable "$venv/bin/python" || fail "$venv holds $("$venv/bin/python" --version), needs 3.10 to 3.12. Run: make distclean"
ensure_egl
if [ "$purpose" = test ]; then ensure_chromium; fi
started=$SECONDS
say "installing .[$extras] into $venv (the first time takes a minute or two)"
if [ "$purpose" = test ]; then install_torch; fi
pip_install -e ".[$extras]" || fail "pip could not install: see above; try again with: make $purpose"
say "ready after $((SECONDS - started)) s"
touch "$venv/.ready-demo" "$venv/.ready-$purpose"
