# SPDX-License-Identifier: Apache-2.0
"""``vla correct``: the policy drives, the expert says what it should have done (DAgger, arXiv 1011.0686).

Demonstrations show the states that an expert meets. What a policy runs into is shown by letting it: every state that it asks about is
recorded with the expert's labels, for this and for other instructions. Trained on them too, it learns to get out of its own mistakes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.closed_loop import ClosedLoop, EpisodeSpec
from vla_ros.core.chunk import ActionChunk, Reference
from vla_ros.core.errors import VlaError
from vla_ros.core.observation import Observation
from vla_ros.core.paths import bundle_dir
from vla_ros.sim.collect import LABELS, EpisodeRecorder, collect

FIRST_SEED = 60_000_000
_DELAY_MS = (20.0, 320.0)
_LIMIT_S = 12.0


class _Watched:
    """The policy, with a record of every state that it is asked about."""

    def __init__(self, policy: Any, recorder: EpisodeRecorder, rng: np.random.Generator) -> None:
        self._policy, self._recorder, self._rng = policy, recorder, rng
        self.frames: list[dict[str, Any]] = []

    def commit(self, observation: Observation, reference: Reference, until_ns: int) -> np.ndarray:
        """As the policy's."""
        return self._policy.commit(observation, reference, until_ns)

    def infer(self, observation: Observation, prefix_HD: np.ndarray | None = None) -> ActionChunk:
        """As the policy's; keeps the frame first, since a state in which it fails is worth the most."""
        env = self._recorder.env
        self.frames.append(self._recorder.frame(env.task, env.world_state(), self._rng, [], observation.images))
        return self._policy.infer(observation, prefix_HD)


class CorrectionRecorder(EpisodeRecorder):
    """One episode of the policy a seed, at a delay of its own."""

    def __init__(self, bundle: str, labels_per_frame: int) -> None:
        from vla_ros.runtime.bundle import load_bundle
        from vla_ros.runtime.policy import Policy

        super().__init__(labels_per_frame)
        loaded = load_bundle(bundle_dir(bundle))
        self._cameras = loaded.manifest.cameras
        self._policy = Policy(loaded, self.env.robot)
        self._policy.warm_up()

    def episode(self, seed: int) -> Iterator[dict[str, Any]]:
        """Yields the frames that the policy asked about."""
        rng = np.random.default_rng([seed, 3])
        watched = _Watched(self._policy, self, rng)
        loop = ClosedLoop(env=self.env, policy=watched, cameras=self._cameras, delay_ms=rng.uniform(*_DELAY_MS), limit_s=_LIMIT_S)
        try:
            self.successes.append(loop.run(EpisodeSpec(seed=seed)).success)
        except VlaError:  # a scene without a task, or a policy that cannot go on: the frames until then count
            self.successes.append(False)
        yield from watched.frames


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of ``vla correct``."""
    parser = argparse.ArgumentParser(prog="vla correct", description="Record what a policy runs into, with what the expert would do there.")
    parser.add_argument("bundle", help="policy bundle that drives")
    parser.add_argument("--out", type=Path, required=True, help="dataset directory; more shards are added to what is there")
    parser.add_argument("--frames", type=int, default=10_000, help="frames to record (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="first scene (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    options = parser.parse_args(argv)
    if options.seed < FIRST_SEED:
        parser.error(f"--seed {options.seed} belongs to evaluation or to other demonstrations: use {FIRST_SEED} or more")
    bundle_dir(options.bundle)
    make_recorder = partial(CorrectionRecorder, options.bundle, LABELS)
    counts = collect(options.out, options.frames, make_recorder=make_recorder, name="correct", workers=options.workers, seed=options.seed)
    if options.json:
        options.json.write_text(json.dumps(counts, indent=2), encoding="utf-8")
    return 0
