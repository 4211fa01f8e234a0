# SPDX-License-Identifier: Apache-2.0
"""``vla correct``: the policy drives, the expert says what it should have done (DAgger, arXiv 1011.0686).

Demonstrations show the states that an expert meets. What a policy runs into is shown by letting it: every state that it asks about is
recorded with the expert's labels, for this and for other instructions. Trained on them too, it learns to get out of its own mistakes.

Coached (``--coached``), an episode does not end with a mistake: where the policy says that it is done and is not, stands still or takes long, the
expert leads for a second or two and then lets it go on. What comes before that is what most frames would show, and is recorded less often.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
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
from vla_ros.expert_policy import ExpertPolicy
from vla_ros.sim.collect import LABELS, EpisodeRecorder, collect
from vla_ros.sim.tasks import FAMILIES

FIRST_SEED = 60_000_000
_DELAY_MS = (20.0, 320.0)
_LIMIT_S = 12.0
_COACHED_LIMIT_S = 25.0
_LEAD_S = (0.6, 2.0)  # for which the expert leads
_STILL_S, _STILL_M = 2.5, 0.015  # a tool that has gone no further in that time stands still
_LONG_S, _P_LEAD = 10.0, 0.04  # from then on the expert takes over at random, per question
_EASY_S, _P_EASY, _P_STILL = 6.0, 0.3, 0.25  # share that is kept of frames before that time without a mistake, and of those in which nothing moved


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


class _Coached(_Watched):
    """The policy with the expert at its side, who leads for a while where it makes a mistake or does not get on.

    Args:
        policy: that drives.
        recorder: of its scene.
        rng: decides what is kept and how long the expert leads.
        first_token_id: of the policy's action tokens.

    Attributes:
        mistakes: how often the expert took over.
    """

    def __init__(self, policy: Any, recorder: EpisodeRecorder, rng: np.random.Generator, first_token_id: int) -> None:
        super().__init__(policy, recorder, rng)
        self._expert = ExpertPolicy(recorder.env, first_token_id=first_token_id)
        self._start_ns: int | None = None
        self._leads_until_ns = 0
        self._been: deque[tuple[int, np.ndarray]] = deque()  # when the tool was where, as long as counts for standing still
        self.mistakes = 0

    def infer(self, observation: Observation, prefix_HD: np.ndarray | None = None) -> ActionChunk:
        """The policy's answer, or the expert's."""
        env = self._recorder.env
        now_ns = env.time_ns
        self._start_ns = now_ns if self._start_ns is None else self._start_ns
        world = env.world_state()
        moved_m = self._moved_m(now_ns, world.tool)
        if self._rng.random() < self._share(now_ns, moved_m):
            self.frames.append(self._recorder.frame(env.task, world, self._rng, [], observation.images))
        if now_ns < self._leads_until_ns:
            return self._expert.infer(observation, prefix_HD)
        chunk = self._policy.infer(observation, prefix_HD)
        long = now_ns - self._start_ns > _LONG_S * 1e9 and self._rng.random() < _P_LEAD
        if long or moved_m < _STILL_M or (chunk.terminate_H.any() and not env.success()):
            self.mistakes += 1
            self._leads_until_ns = now_ns + round(self._rng.uniform(*_LEAD_S) * 1e9)
            self._been.clear()
            return self._expert.infer(observation, prefix_HD)
        return chunk

    def _moved_m(self, now_ns: int, tool: np.ndarray) -> float:
        """How far the tool has got from where it was `_STILL_S` ago; infinite before that time."""
        self._been.append((now_ns, np.array(tool)))
        while len(self._been) > 1 and now_ns - self._been[1][0] >= _STILL_S * 1e9:
            self._been.popleft()
        if now_ns - self._been[0][0] < _STILL_S * 1e9:
            return float("inf")
        return max(float(np.linalg.norm(tool - been)) for _, been in self._been)

    def _share(self, now_ns: int, moved_m: float) -> float:
        """How likely this state is kept."""
        if moved_m < _STILL_M:
            return _P_STILL
        return _P_EASY if not self.mistakes and now_ns - self._start_ns < _EASY_S * 1e9 else 1.0


class CorrectionRecorder(EpisodeRecorder):
    """One episode of the policy a seed, at a delay of its own.

    Args:
        bundle: the policy.
        labels_per_frame: instructions that each frame is labelled for.
        coached: the expert leads where the policy makes a mistake.
        drive: families of the tasks that the policy is given; empty: all, as evaluation draws them.
    """

    def __init__(self, bundle: str, labels_per_frame: int, coached: bool = False, drive: Sequence[str] = ()) -> None:
        from vla_ros.runtime.bundle import load_bundle
        from vla_ros.runtime.policy import Policy

        super().__init__(labels_per_frame)
        loaded = load_bundle(bundle_dir(bundle))
        self._cameras = loaded.manifest.cameras
        self._first_token_id = loaded.manifest.vocabulary.first_action_token
        self._policy = Policy(loaded, self.env.robot)
        self._policy.warm_up()
        self._coached, self._drive = coached, tuple(drive)

    def episode(self, seed: int) -> Iterator[dict[str, Any]]:
        """Yields the frames that the policy asked about."""
        rng = np.random.default_rng([seed, 3])
        watched = _Coached(self._policy, self, rng, self._first_token_id) if self._coached else _Watched(self._policy, self, rng)
        limit_s = _COACHED_LIMIT_S if self._coached else _LIMIT_S
        loop = ClosedLoop(env=self.env, policy=watched, cameras=self._cameras, delay_ms=rng.uniform(*_DELAY_MS), limit_s=limit_s)
        family = str(rng.choice(self._drive)) if self._drive else None
        try:
            self.successes.append(loop.run(EpisodeSpec(seed=seed, family=family)).success)
        except VlaError:  # a scene without a task, or a policy that cannot go on: the frames until then count
            self.successes.append(False)
        yield from watched.frames


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of ``vla correct``."""
    parser = argparse.ArgumentParser(prog="vla correct", description="Record what a policy runs into, with what the expert would do there.")
    parser.add_argument("bundle", help="policy bundle that drives")
    parser.add_argument("--out", type=Path, required=True, help="dataset directory; more shards are added to what is there")
    parser.add_argument("--frames", type=int, default=10_000, help="frames to record (default: %(default)s)")
    parser.add_argument("--coached", action="store_true", help="go on after mistakes: the expert leads for a while, and easy states are kept less often")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=[], help="task families that the policy is given (default: all)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="first scene (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    options = parser.parse_args(argv)
    if options.seed < FIRST_SEED:
        parser.error(f"--seed {options.seed} belongs to evaluation or to other demonstrations: use {FIRST_SEED} or more")
    bundle_dir(options.bundle)
    make_recorder = partial(CorrectionRecorder, options.bundle, LABELS, options.coached, options.families)
    counts = collect(options.out, options.frames, make_recorder=make_recorder, name="correct", workers=options.workers, seed=options.seed)
    if options.json:
        options.json.write_text(json.dumps(counts, indent=2), encoding="utf-8")
    return 0
