# SPDX-License-Identifier: Apache-2.0
"""The scripted expert of each embodiment's environment as a function of committed actions. Imports each only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from vla_ros.core.embodiment import METAWORLD, TABLETOP, Embodiment
from vla_ros.core.errors import ConfigError

#: Committed actions [P, D] to the whole chunk [H, D] and a word for what is being done.
ContinueChunk = Callable[[np.ndarray], tuple[np.ndarray, str]]


def make_expert(env: Any, embodiment: Embodiment) -> ContinueChunk:
    """What the expert does for ``env``'s present task from its present state, read from the simulator's ground truth.

    Raises:
        ConfigError: there is no expert for this body.
    """
    if embodiment is METAWORLD:
        from vla_ros.sim.metaworld.expert import ScriptedExpert

        return ScriptedExpert(env).continue_chunk
    if embodiment is TABLETOP:
        return lambda committed_PD: _continue_tabletop(env, embodiment, committed_PD)
    raise ConfigError(f"there is no scripted expert for '{embodiment.name}'")


def _continue_tabletop(env: Any, embodiment: Embodiment, committed_PD: np.ndarray) -> tuple[np.ndarray, str]:
    from vla_ros.sim.foresight import continued_chunk

    spec = embodiment.action
    chunk_HD, plan = continued_chunk(env.task, env.world_state(), committed_PD, spec.horizon, spec.dt_s)
    return chunk_HD, plan.phase
