#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Teaches a trained policy a task family that it does not know, and measures what it forgot.
# usage: tools/learn_family.sh DIRECTORY CHECKPOINT|BUNDLE OLD_DATA...     e.g. runs/front models/tabletop runs/tabletop/snapshots runs/tabletop/corrections
# A bundle lacks what only training needs, so nothing is asked of the layers that would be new: no vision loss, no state withheld.
# STEPS of training (default 1500), FRAMES of new demonstrations (default 12000), EPISODES of each evaluation (default 200), METHOD (default both:
# EWC and rehearsal), SHARE of old frames in a batch (default 0.5), STRENGTH of EWC (default 100) and SAMPLES for its Fisher information (default 500),
# RATE of learning (default 3e-4), PRECISION (float32 or bfloat16, default as the settings say; bfloat16 is twice as fast on processors with AMX), WORKERS (default 2).
# A step that has left its result is not repeated: call it again after an interruption.
set -euo pipefail
cd "$(dirname "$0")/.."
directory=${1:?usage: tools/learn_family.sh DIRECTORY CHECKPOINT|BUNDLE OLD_DATA...} begin=${2:?which checkpoint or bundle} ; shift 2
[ $# -gt 0 ] || { echo "learn_family: name the old data, for rehearsal" >&2; exit 2; }
vla=${VLA:-.venv/bin/vla} family=${FAMILY:-front} episodes=${EPISODES:-200} frames=${FRAMES:-12000} workers=${WORKERS:-2}
mkdir -p "$directory"
. tools/steps.sh

measure() { # before|after bundle
  step "$1_old.json" evaluate "$2" --episodes "$episodes" --seed 1000 --workers "$workers" --json "$directory/$1_old.json"
  step "$1_new.json" evaluate "$2" --episodes "$episodes" --seed 1000 --workers "$workers" --families "$family" --json "$directory/$1_new.json"
}

new=$directory/data
step snapshots.json collect --families "$family" --snapshots --labels 3 --seed 40000000 --frames $((frames * 3 / 4)) --workers "$workers" --out "$new" --json "$directory/snapshots.json"
step episodes.json collect --families "$family" --labels 3 --seed 45000000 --frames $((frames / 4)) --workers "$workers" --out "$new" --json "$directory/episodes.json"
settings=()
if [ -d "$begin" ]; then
  before=$begin checkpoint=$directory/begin.pt
  settings=(--config "${CONFIG:-config/train/tabletop.yaml}" --set loss.vision=0 --set data.proprio_dropout=0)
  step begin.pt checkpoint "$begin" --out "$checkpoint"
else
  before=$directory/bundle_before checkpoint=$begin
  step bundle_before export --checkpoint "$checkpoint" --data "$1" --out "$before"
fi
measure before "$before"
resume=(); [ -e "$directory/run/last.pt" ] && resume=(--resume)
step run/continual.json continual --checkpoint "$checkpoint" --old "$@" --new "$new" --out "$directory/run" --method "${METHOD:-both}" "${settings[@]}" \
  --share "${SHARE:-0.5}" --strength "${STRENGTH:-100}" --samples "${SAMPLES:-500}" --set run.max_minutes=0 --set "run.max_steps=${STEPS:-1500}" --set "optim.learning_rate=${RATE:-3e-4}" \
  ${PRECISION:+--set "run.precision=$PRECISION"} "${resume[@]}"
finished run/continual.json
step bundle_after export --checkpoint "$directory/run/best.pt" --data "$1" --out "$directory/bundle_after"
measure after "$directory/bundle_after"
"$vla" forgetting --old "$directory"/{before,after}_old.json --new "$directory"/{before,after}_new.json --json "$directory/forgetting.json"
