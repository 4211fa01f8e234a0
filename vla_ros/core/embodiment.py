# SPDX-License-Identifier: Apache-2.0
"""What a policy has to know about a body: its robot, cameras, proprioception, action and prompt.

Simulators, demonstrations and training build on one of these; a bundle's manifest repeats it as data and is the only source at run time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vla_ros.core import tabletop
from vla_ros.core.action import ActionDim, ActionSpec
from vla_ros.core.errors import ConfigError
from vla_ros.core.manifest import ProprioSpec
from vla_ros.core.observation import CameraSpec
from vla_ros.core.schema import Fields


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

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "embodiment") -> Embodiment:
        """A body that is none of ``EMBODIMENTS``, from a plain mapping: its data train and export like theirs, without a simulator.

        Raises:
            ConfigError: naming the key, what was expected and what came.
        """
        fields = Fields(data, where)
        body = cls(
            name=fields.text("name"), robot=fields.text("robot"), base_frame=fields.text("base_frame"),
            cameras=tuple(CameraSpec.from_dict(entry, f"{where}: cameras") for entry in fields.items("cameras")),
            proprio=tuple(ProprioSpec.from_dict(entry, f"{where}: proprio") for entry in fields.items("proprio")),
            action=ActionSpec.from_dict(fields.raw("action"), f"{where}: action"),
            moved_state=tuple((dim, str(entry)) for dim, entry in fields.mapping("moved_state").items()),
            control_period_s=fields.number("control_period_s", tabletop.CONTROL_DT_S), episode_limit_s=fields.number("episode_limit_s", 25.0),
        )  # fmt: skip
        fields.finish()
        if body.name in EMBODIMENTS:
            raise fields.refuse(f"'{body.name}' is the name of an embodiment that ships with the package: choose another name")
        for dim, entry in body.moved_state:
            if dim not in body.action.names or entry not in body.proprio_names:
                raise fields.refuse(f"moved_state: {dim}: {entry} must lead from one of {list(body.action.names)} to one of {list(body.proprio_names)}")
        return body

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        return {
            "name": self.name, "robot": self.robot, "base_frame": self.base_frame, "cameras": [camera.to_dict() for camera in self.cameras],
            "proprio": [asdict(entry) for entry in self.proprio], "action": self.action.to_dict(), "moved_state": dict(self.moved_state),
            "control_period_s": self.control_period_s, "episode_limit_s": self.episode_limit_s,
        }  # fmt: skip


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


def embodiment_of(environment: str | Mapping[str, Any]) -> Embodiment:
    """The embodiment of an environment such as ``tabletop`` or ``metaworld:drawer-open-v3``, or the one that a mapping describes.

    Raises:
        ConfigError: listing those there are.
    """
    if isinstance(environment, Mapping):
        return Embodiment.from_dict(environment)
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
