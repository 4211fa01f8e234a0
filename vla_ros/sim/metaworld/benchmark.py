# SPDX-License-Identifier: Apache-2.0
"""The package ``metaworld`` on the MuJoCo that this project pins: one task's environment and its scripted expert.

The package's last version that is not tied to one MuJoCo (3.0.0) writes eleven numbers into a weld's row of ``eq_data``, which has twelve
since MuJoCo 4: everything else of it runs unchanged. Observations here are the benchmark's own 39 numbers with the goal visible; they are
for the expert and the success check, never for a policy. The package is imported when a benchmark is made (extra ``metaworld``).
"""

from __future__ import annotations

import warnings
from typing import Any

import mujoco
import numpy as np

from vla_ros.sim.metaworld.tasks import TASKS

ACTION_SCALE_M = 0.01  # how far an action of 1 moves the hand's target
_WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)  # the benchmark's: no offset, a stiffness of the turn
_EXPERT_NAMES = {"peg-insert-side-v3": "SawyerPegInsertionSideV3Policy"}


class _FitsMujoco:
    """Comes before the benchmark's class: its weld in the rows of whatever width this MuJoCo has."""

    def reset_mocap_welds(self) -> None:
        """Welds the hand to its target as the benchmark does."""
        welds = self.model.eq_type == mujoco.mjtEq.mjEQ_WELD
        self.model.eq_data[welds, : len(_WELD)] = _WELD


def make_benchmark(task: str) -> Any:
    """The benchmark's environment of ``task``, that draws a new scene at every reset and shows its expert the goal."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    benchmark = type(f"{ALL_V3_ENVIRONMENTS[task].__name__}", (_FitsMujoco, ALL_V3_ENVIRONMENTS[task]), {})()
    benchmark._partially_observable = False
    benchmark.__dict__.pop("sawyer_observation_space", None)  # cached with the goal hidden
    benchmark._set_task_called = True  # what set_task would fix, the scene, is drawn instead
    benchmark._freeze_rand_vec, benchmark.seeded_rand_vec = False, True
    return benchmark


def scene_seed(task: str, seed: int) -> int:
    """A seed for the benchmark's generator that is another one for every task."""
    return int(np.random.SeedSequence([seed, TASKS.index(task)]).generate_state(1)[0])


def make_expert(task: str) -> Any:
    """The benchmark's scripted expert of ``task``."""
    import metaworld.policies

    name = _EXPERT_NAMES.get(task) or f"Sawyer{''.join(word.capitalize() for word in task[: -len('-v3')].split('-'))}V3Policy"
    return getattr(metaworld.policies, name)()


def expert_action(expert: Any, observation: np.ndarray) -> np.ndarray:
    """The expert's action, [4] in [-1, 1]: steps x, y, z in parts of ``ACTION_SCALE_M`` and the effort that closes the fingers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own large gains, which the benchmark clips
        return np.clip(np.asarray(expert.get_action(observation), dtype=np.float64), -1.0, 1.0)


def advance(benchmark: Any, action: np.ndarray) -> np.ndarray:
    """One step of physics and the observation after it, [39]; as the benchmark's ``step`` without reward, success and count."""
    benchmark.set_xyz_action(action[:3])
    benchmark.do_simulation([action[3], -action[3]], n_frames=benchmark.frame_skip)
    for site in benchmark._target_site_config:
        benchmark._set_pos_site(*site)
    mujoco.mj_forward(benchmark.model, benchmark.data)
    space = benchmark.sawyer_observation_space
    return np.clip(benchmark._get_obs(), space.low, space.high)
