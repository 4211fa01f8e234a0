#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes a tabletop policy from nothing: demonstrations, training, corrections, more training, bundle, evaluation.
# usage: tools/make_policy.sh DIRECTORY [MINUTES]     MINUTES of training, both rounds together (default 240)
# SCALE=1 (per cent, default 100) records less, to try the way through.
# A step that has left its result is not repeated: call it again after an interruption.
set -euo pipefail
cd "$(dirname "$0")/.."
directory=${1:?usage: tools/make_policy.sh DIRECTORY [MINUTES]} minutes=${2:-240}
vla=${VLA:-.venv/bin/vla} config=config/train/tabletop.yaml
scale=${SCALE:-100}
mkdir -p "$directory"
. tools/steps.sh
frames() { echo $(($1 * scale / 100)); }

train() { # run minutes options...
  local run=$1 budget=$2 resume=(); shift 2
  [ -e "$directory/$run/last.pt" ] && resume=(--resume)
  step "$run.json" train --config "$config" --out "$directory/$run" --set "run.max_minutes=$budget" --json "$directory/$run.json" "$@" "${resume[@]}"
  finished "$run.json"
}

snapshots=$directory/snapshots episodes=$directory/episodes corrections=$directory/corrections
step snapshots.json collect --snapshots --seed 20000000 --frames "$(frames 120000)" --out "$snapshots" --json "$directory/snapshots.json"
step episodes.json collect --seed 10000000 --frames "$(frames 30000)" --out "$episodes" --json "$directory/episodes.json"
train first $((minutes / 2)) --data "$snapshots" "$episodes" --weights 0.8 0.2
step bundle_first export --checkpoint "$directory/first/best.pt" --data "$snapshots" --out "$directory/bundle_first"
step corrections.json correct "$directory/bundle_first" --frames "$(frames 30000)" --out "$corrections" --json "$directory/corrections.json"
train second $((minutes - minutes / 2)) --init "$directory/first/best.pt" --data "$snapshots" "$episodes" "$corrections" --weights 0.45 0.15 0.4
step bundle export --checkpoint "$directory/second/best.pt" --data "$snapshots" --out "$directory/bundle"
step bundle/evaluation.json evaluate "$directory/bundle" --episodes 200 --seed 1000 --json "$directory/bundle/evaluation.json"
echo "make_policy: the bundle is $directory/bundle"
