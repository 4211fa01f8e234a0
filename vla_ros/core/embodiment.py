# SPDX-License-Identifier: Apache-2.0
"""What a policy has to know about a body: its robot, cameras, proprioception, action and prompt.

Simulators, demonstrations and training build on one of these; a bundle's manifest repeats it as data and is the only source at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.core import tabletop
from vla_ros.core.action import ActionDim, ActionSpec
from vla_ros.core.errors import ConfigError
from vla_ros.core.manifest import ProprioSpec
from vla_ros.core.observation import CameraSpec


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """One body and what its policies see, are told and say.

    Attributes:
        name: as in the name of an environment before the colon.
        robot: name of the robot description in ``config/robots``.
        base_frame: frame of positions in observations, actions and plans.
        cameras: in the order of a policy's inputs, in the policy's size.
        proprio: entries of the proprioception vector, in order.
        action: dimensions, horizon and time step of a chunk.
        moved_state: pairs of an action dimension and the entry of proprioception that it moves.
        prompt_template: with ``{instruction}`` once.
        text_tokens: longest prompt.
        control_period_s: period of the simulator's control loop.
        episode_limit_s: simulated time after which an episode has failed.
    """

    name: str
    robot: str
    base_frame: str
    cameras: tuple[CameraSpec, ...]
    proprio: tuple[ProprioSpec, ...]
    action: ActionSpec
    moved_state: tuple[tuple[str, str], ...]
    prompt_template: str = tabletop.PROMPT_TEMPLATE
    text_tokens: int = tabletop.TEXT_TOKENS
    control_period_s: float
    episode_limit_s: float

    @property
    def proprio_names(self) -> tuple[str, ...]:
        """Names of the entries of proprioception."""
        return tuple(entry.name for entry in self.proprio)


def _joint(name: str, unit: str) -> ProprioSpec:
    return ProprioSpec(name=name, unit=unit, source="joint")


def _tool(name: str) -> ProprioSpec:
    return ProprioSpec(name=name, unit="rad" if name == "tool_yaw" else "m", source="tool")


TABLETOP = Embodiment(
    name="tabletop",
    robot=tabletop.ROBOT,
    base_frame=tabletop.BASE_FRAME,
    cameras=tabletop.CAMERAS,
    proprio=tuple(
        _joint(name, "m" if name == "gripper_joint" else "rad") if name in tabletop.JOINT_NAMES else _tool(name)
        for name in tabletop.PROPRIO_NAMES
    ),
    action=tabletop.ACTION_SPEC,
    moved_state=(("x", "tool_x"), ("y", "tool_y"), ("z", "tool_z"), ("yaw", "tool_yaw"), ("gripper", "gripper_joint")),
    control_period_s=tabletop.CONTROL_DT_S,
    episode_limit_s=25.0,
)

METAWORLD_BASE_FRAME = "base_link"
METAWORLD_GRIPPER_OPEN_M = 0.05  # half the distance of the open fingers
METAWORLD_STEP_S = 0.0125  # five physics steps of 2.5 ms, the benchmark's control period
METAWORLD_HORIZON_STEPS = 500  # the benchmark's longest episode


def _metaworld_move(name: str) -> ActionDim:
    return ActionDim(name=name, kind="translation", unit="m", frame=METAWORLD_BASE_FRAME, relative=True, low=-0.3, high=0.3)


METAWORLD = Embodiment(
    name="metaworld",
    robot="metaworld_hand",
    base_frame=METAWORLD_BASE_FRAME,
    cameras=(CameraSpec(name="corner2", height=128, width=128),),
    proprio=(_tool("tool_x"), _tool("tool_y"), _tool("tool_z"), _joint("gripper_joint", "m")),
    action=ActionSpec(
        dims=(
            *(_metaworld_move(axis) for axis in "xyz"),
            ActionDim(name="gripper", kind="gripper", unit="m", frame="gripper_joint", relative=False, low=0.0, high=METAWORLD_GRIPPER_OPEN_M),
        ),
        horizon=16,
        dt_s=2 * METAWORLD_STEP_S,
    ),
    moved_state=(("x", "tool_x"), ("y", "tool_y"), ("z", "tool_z"), ("gripper", "gripper_joint")),
    control_period_s=METAWORLD_STEP_S,
    episode_limit_s=METAWORLD_HORIZON_STEPS * METAWORLD_STEP_S,
)

EMBODIMENTS = {embodiment.name: embodiment for embodiment in (TABLETOP, METAWORLD)}


def embodiment_of(environment: str) -> Embodiment:
    """The embodiment of an environment such as ``tabletop`` or ``metaworld:drawer-open-v3``.

    Raises:
        ConfigError: listing those there are.
    """
    name = environment.partition(":")[0]
    if name not in EMBODIMENTS:
        raise ConfigError(f"no environment '{environment}': it begins with one of {sorted(EMBODIMENTS)}, as in metaworld:drawer-open-v3")
    return EMBODIMENTS[name]


def embodiment_of_robot(robot: str) -> Embodiment:
    """The embodiment whose simulator moves the robot of this name.

    Raises:
        ConfigError: listing the robots there are.
    """
    for embodiment in EMBODIMENTS.values():
        if embodiment.robot == robot:
            return embodiment
    raise ConfigError(f"no simulator has robot '{robot}': there are {[e.robot for e in EMBODIMENTS.values()]}")
