#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Gazebo Classic 11 without a Gazebo installation: Debian 11 (bullseye), the last suite that has it, in a folder of its own.
# usage: [VLA_GAZEBO_ROOT=/var/cache/vla_ros/gazebo] tools/gazebo_classic.sh setup|run COMMAND...|where
# `setup` needs root; it downloads about 0.5 GB the first time, takes 2 to 5 minutes, needs 1.3 GB, and mounts nothing.
# Exit status of setup: 0 ready, 77 not possible here (and a line that says why), 1 failed.
set -euo pipefail
root=${VLA_GAZEBO_ROOT:-/var/cache/vla_ros/gazebo}
suite=bullseye
packages="gazebo xvfb libgl1-mesa-dri"
ready=$root/.vla-ready
fortress=$root/opt/fortress # unpacked, not installed: the SDF checker and the topic tool of Gazebo Fortress, from this machine's own suite

say() { printf 'gazebo: %s\n' "$*"; }
skip() { printf 'gazebo: skipped: %s\n' "$*" >&2; exit 77; }

mirror() { # the one that apt is set up for
  local found
  found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -E '/debian/?$' | head -n 1) || true
  echo "${VLA_DEBIAN_MIRROR:-${found:-http://deb.debian.org/debian/}}"
}

reachable() { # URL
  if command -v curl >/dev/null; then curl -fsIL --max-time 20 -o /dev/null "$1"; else /usr/lib/apt/apt-helper -q download-file "$1" /dev/null >/dev/null 2>&1; fi
}

setup() {
  [ -e "$ready" ] && { say "ready in $root"; return; }
  [ "$(id -u)" = 0 ] || skip "needs root, for debootstrap and chroot. Run: sudo make gazebo-test"
  command -v apt-get >/dev/null || skip "needs apt-get (a Debian or Ubuntu system)"
  local from; from=$(mirror); from=${from%/}
  reachable "$from/dists/$suite/InRelease" || skip "$from has no suite $suite (any more)"
  mkdir -p "$root"
  local log=$root.log
  say "installing Gazebo Classic 11 from $from $suite into $root (2 to 5 minutes; log: $log)"
  { install_debootstrap && bootstrap "$from" && install_gazebo && unpack_fortress; } >"$log" 2>&1 || { tail -n 8 "$log" >&2; say "failed, see $log" >&2; return 1; }
  touch "$ready"
  say "ready in $root"
}

install_debootstrap() {
  command -v debootstrap >/dev/null || { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends debootstrap; }
}

bootstrap() { # MIRROR
  [ -x "$root/usr/bin/apt-get" ] && [ ! -d "$root/debootstrap" ] && return
  rm -rf "${root:?}"/*
  debootstrap --variant=minbase "$suite" "$root" "$1"
}

install_gazebo() {
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # no services inside
  chmod 755 "$root/usr/sbin/policy-rc.d"
  cp -L /etc/resolv.conf "$root/etc/resolv.conf"
  local file
  for file in /etc/apt/apt.conf.d/*; do # a proxy or credentials helper that apt needs here
    if grep -qiE 'proxy|AllowUnauthenticated|Verify-Peer' "$file" 2>/dev/null; then cp "$file" "$root/etc/apt/apt.conf.d/"; fi
  done
  chroot "$root" apt-get -q update
  # shellcheck disable=SC2086
  chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $packages
  chroot "$root" apt-get clean
}

unpack_fortress() { # not everywhere to be had (Debian 12 has it): without it the tests that use it are skipped
  local wanted="libsdformat12-12 sdformat-sdf ignition-transport-cli" packages
  mkdir -p "$fortress/deb"
  # shellcheck disable=SC2086
  packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances $wanted |
    grep -E '^(libignition|libsdformat|libprotobuf|libzmq|libnorm|libpgm|libsodium|libtinyxml2|liburdfdom|libconsole-bridge|libsqlite3|libbsd0|libgssapi|libkrb5|ignition-|sdformat)' | sort -u)
  # shellcheck disable=SC2086
  (cd "$fortress/deb" && apt-get -q download $packages) || { rm -rf "$fortress"; return 0; }
  local package
  for package in "$fortress"/deb/*.deb; do dpkg -x "$package" "$fortress"; done
  rm -rf "$fortress/deb"
}

run() {
  [ -e "$ready" ] || { say "not set up. Run: sudo tools/gazebo_classic.sh setup" >&2; return 1; }
  exec chroot "$root" "$@"
}

case ${1:-} in
  setup) setup ;;
  run) shift; run "$@" ;;
  where) echo "$root" ;;
  *) sed -n '3,7p' "$0" >&2; exit 2 ;;
esac
