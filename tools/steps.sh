# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What scripts of several `vla` commands share. Source it after setting `directory`, which takes the results, and `vla`.
tool=$(basename "$0" .sh)

step() { # result command...
  local result=$directory/$1; shift
  [ -e "$result" ] && return
  printf '\n== vla %s\n' "$*"
  "$vla" "$@"
  [ -e "$result" ] || { echo "$tool: $result is missing after: vla $*" >&2; exit 1; }
}

finished() { # result: whether the training that wrote it was not interrupted; else it is taken away and the script ends
  grep -q '"finished": true' "$directory/$1" && return
  rm "$directory/$1"
  echo "$tool: training was interrupted; call it again to go on" >&2
  exit 130
}
