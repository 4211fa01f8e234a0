#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Films one episode of ``vla evaluate`` in simulated time, so that the film shows the same on any machine, however slow.

For example the picture in the README: ``.venv/bin/python tools/film_episode.py --sim gazebo --seed 1000018 --gif docs/gazebo.gif``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vla_ros import video
from vla_ros.closed_loop import EXPERT, GAZEBO, MUJOCO, SIMULATORS, ClosedLoop, EpisodeSpec, load_closed_loop
from vla_ros.evaluate import FAMILIES, SEEDS_PER_RUN

CAMERAS = ("front", "wrist")
TITLES = {MUJOCO: "MuJoCo", GAZEBO: "Gazebo Classic 11"}
RATE_HZ = 12.5  # every fourth control period
EVERY = 4
AFTER = 12  # frames that show the end


class FilmedEnv:
    """An environment that keeps a frame of every fourth control period; everything else is the environment's own."""

    def __init__(self, env, status: str) -> None:
        self._env, self._status = env, status
        self.frames, self.plan, self._steps = [], "", 0

    def __getattr__(self, name: str):
        return getattr(self._env, name)

    def step(self, joint_targets_J) -> None:
        self._env.step(joint_targets_J)
        self._steps += 1
        if self._steps % EVERY == 0 or self._env.success():
            self.keep()

    def keep(self) -> None:
        """Adds a frame of the present moment."""
        pictures = self._env.observe().images
        self.frames.append(
            video.Frame(
                time_s=self._steps * 0.02,
                images={camera: pictures[camera] for camera in CAMERAS},
                instruction=self._env.instruction,
                plan=self.plan,
                status=self._status,
                success=self._env.success(),
            )
        )


class FilmedPolicy:
    """A policy whose words are written into the film."""

    def __init__(self, policy, film: FilmedEnv) -> None:
        self._policy, self._film = policy, film

    def commit(self, *arguments):
        return self._policy.commit(*arguments)

    def infer(self, *arguments):
        chunk = self._policy.infer(*arguments)
        self._film.plan = chunk.plan
        return chunk


def main() -> int:
    """Returns 0 if the robot succeeded."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--model", default="tabletop", help=f"policy bundle, or {EXPERT}")
    parser.add_argument("--sim", choices=SIMULATORS, default=GAZEBO)
    parser.add_argument("--seed", type=int, default=1_000_018, help="scene; the task family is that of vla evaluate")
    parser.add_argument("--gif", type=Path, required=True, help="where to write the film")
    options = parser.parse_args()

    def make_loop(*, env, policy, cameras, **settings):
        film = FilmedEnv(env, f"{TITLES[options.sim]}, simulated time")
        return film, ClosedLoop(env=film, policy=FilmedPolicy(policy, film), cameras=cameras, **settings)

    film, loop = load_closed_loop(options.model, simulator=options.sim, make_loop=make_loop)
    result = loop.run(EpisodeSpec(seed=options.seed, family=FAMILIES[options.seed % SEEDS_PER_RUN % len(FAMILIES)]))
    frames = film.frames + [film.frames[-1]] * AFTER
    video.write_gif(options.gif, [video.draw(frame) for frame in frames], RATE_HZ)
    film.close()
    sys.stdout.write(f"{result.instruction}: {result.reason} after {result.seconds:.1f} s; {len(frames)} frames in {options.gif}\n")
    return int(not result.success)


if __name__ == "__main__":
    sys.exit(main())
