# SPDX-License-Identifier: Apache-2.0
"""Single frames of many scenes: ``vla collect --snapshots``.

An episode shows one scene sixty times, and a picture network learns the few hundred scenes by heart. The expert needs no history, so a
state can be made up instead of reached: the arm anywhere, near a block, holding one, or having just put one down. Every frame is
another scene, at the price of one rendering.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vla_ros.robot.kinematics import KinematicsError
from vla_ros.sim.collect import PLACING_FAMILIES, EpisodeRecorder
from vla_ros.sim.expert import OPEN_M, PUSH_STANDOFF_M, grasp_yaw
from vla_ros.sim.scene import BLOCK_HALF_SIZE, SIDE_LINE_Y_M
from vla_ros.sim.tasks import ObjectRef, Task, draw_evenly, is_held_out
from vla_ros.sim.world import direction_sign, goal_surface, half_height

_KINDS_OF_STATE = ("anywhere", "near", "behind", "held", "placed")
_SHARES = (0.20, 0.22, 0.15, 0.30, 0.13)
_PUSHED_PAST_M = 0.05
_SQUEEZE_M = 0.0005  # fingers closed this far into a block count as touching it


class SnapshotRecorder(EpisodeRecorder):
    """Yields one frame a seed."""

    def episode(self, seed: int) -> Iterator[dict[str, Any]]:
        """Yields the frame of ``seed``, or none where its draw cannot be posed."""
        rng = np.random.default_rng([seed, 2])
        self.env.reset(seed, settle=False)
        family_tasks = [t for t in self.env.feasible_tasks(self._families) if not is_held_out(t)]
        poser = getattr(self, "_pose_" + rng.choice(_KINDS_OF_STATE, p=_SHARES))
        try:
            task = poser(family_tasks, rng)
        except KinematicsError:
            return
        if task is not None:
            yield self.frame(task, self.env.world_state(), rng, [])

    # ---- kinds of state; each returns the first label's task ----

    def _pose_anywhere(self, tasks: list[Task], rng: np.random.Generator) -> Task | None:
        self.env.place_arm(self.random_arm(rng))
        return draw_evenly(rng, tasks)

    def _pose_near(self, tasks: list[Task], rng: np.random.Generator) -> Task | None:
        """Over a block, or with open fingers around it."""
        task = draw_evenly(rng, [t for t in tasks if t.family != "push"])
        if task is None:
            return None
        block = self.env.world_state().objects[task.obj]
        spread = rng.choice([0.004, 0.02])
        xyz = block.position + rng.normal(0.0, [spread, spread, 0.0])
        top = block.position[2] + half_height(task.obj)
        around = np.hypot(*(xyz - block.position)[:2]) < 0.012 and rng.random() < 0.6
        xyz[2] = rng.uniform(max(block.position[2] - 0.003, 0.015), top + 0.03) if around else rng.uniform(top + 0.02, 0.16)
        grip = rng.uniform(0.036, OPEN_M) if around or rng.random() < 0.7 else rng.uniform(0.0, OPEN_M)
        if around and rng.random() < 0.25:  # closing on it
            grip = rng.uniform(_half_width(task.obj) + 0.001, 0.036)
        self._place(xyz, grasp_yaw(task.obj, block.yaw, 0.0) + rng.normal(0.0, 0.12), grip)
        return task

    def _pose_behind(self, tasks: list[Task], rng: np.random.Generator) -> Task | None:
        """Where a push begins, goes on, or is over: the block anywhere on its way to the side."""
        task = draw_evenly(rng, [t for t in tasks if t.family == "push"])
        if task is None:
            return None
        block, sign = self.env.world_state().objects[task.obj], direction_sign(task.direction)
        x, y, z = block.position
        if rng.random() < 0.6:
            y = sign * rng.uniform(sign * y, SIDE_LINE_Y_M + _PUSHED_PAST_M)
            self.env.place_object(task.obj, [x, y, z], block.yaw)
        touching = BLOCK_HALF_SIZE[task.obj.kind][0] + 0.013
        away = touching + rng.choice([rng.uniform(0.0, 0.006), rng.uniform(0.0, PUSH_STANDOFF_M)])
        height = rng.choice([rng.uniform(0.018, 0.03), rng.uniform(0.03, 0.12)], p=[0.7, 0.3])
        self._place([x + rng.normal(0.0, 0.008), y - sign * away, height], rng.normal(0.0, 0.05), rng.uniform(0.0, 0.008))
        return task

    def _pose_held(self, tasks: list[Task], rng: np.random.Generator) -> Task | None:
        """A block between the fingers: just grasped, lifted, on the way, or over where it goes."""
        task = draw_evenly(rng, [t for t in tasks if t.family in ("pick", *PLACING_FAMILIES)])
        if task is None:
            return None
        world = self.env.world_state()
        block = world.objects[task.obj]
        yaw = grasp_yaw(task.obj, block.yaw, 0.0)
        goal = goal_surface(task, world) if task.family in PLACING_FAMILIES else None
        if goal is not None and rng.random() < 0.65:
            lowest = goal[2] + half_height(task.obj) + 0.002
            spread = rng.choice([0.004, 0.02, 0.06])
            xyz = np.array([*(goal[:2] + rng.normal(0.0, spread, 2)), rng.uniform(lowest, 0.19) if spread < 0.05 else rng.uniform(0.13, 0.2)])
            yaw = rng.normal(0.0, 0.1)
        elif rng.random() < 0.6:
            xyz = np.array([*block.position[:2], block.position[2] + max(0.0, rng.uniform(-0.03, 0.17))])
        else:
            xyz = rng.uniform([0.22, -0.24, 0.12], [0.46, 0.24, 0.2])
        self._hold(task.obj, xyz, yaw, rng)
        return task

    def _pose_placed(self, tasks: list[Task], rng: np.random.Generator) -> Task | None:
        """A block where it should be, with the hand still around it or already above."""
        task = draw_evenly(rng, [t for t in tasks if t.family in PLACING_FAMILIES])
        if task is None:
            return None
        goal = goal_surface(task, self.env.world_state())
        spread = 0.006 if task.family == "stack" else 0.014
        place = goal + np.array([*rng.normal(0.0, spread, 2), half_height(task.obj)])
        yaw = rng.normal(0.0, 0.1)
        self.env.place_object(task.obj, place, yaw)
        above = rng.choice([0.0, rng.uniform(0.0, 0.16)])
        grip = rng.uniform(_half_width(task.obj) + 0.001, OPEN_M) if above < 0.01 else rng.uniform(0.036, OPEN_M)
        self._place(place + np.array([*rng.normal(0.0, 0.003, 2), above]), yaw, grip)
        return task

    # ---- parts ----

    def _hold(self, ref: ObjectRef, xyz: np.ndarray, yaw: float, rng: np.random.Generator) -> None:
        slip = rng.normal(0.0, [0.004, 0.0, 0.003])
        turned = np.array([slip[0] * np.cos(yaw), slip[0] * np.sin(yaw), slip[2]])
        self.env.place_object(ref, xyz, yaw)
        self._place(np.maximum(xyz - turned, [-1.0, -1.0, 0.013]), yaw, _half_width(ref) - _SQUEEZE_M)

    def _place(self, xyz: np.ndarray, yaw: float, grip: float) -> None:
        joints = self.kinematics.ik(np.asarray(xyz), yaw, self.env.robot.home)
        joints[-1] = grip
        self.env.place_arm(joints)


def _half_width(ref: ObjectRef) -> float:
    """Half of what the fingers close on, m."""
    return BLOCK_HALF_SIZE[ref.kind][1]
