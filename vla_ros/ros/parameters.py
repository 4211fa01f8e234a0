# SPDX-License-Identifier: Apache-2.0
"""The node's parameters: one frozen dataclass from which the ROS parameters are declared. Each default exists here and nowhere else.

A field's metadata carries description, unit, range or choices, and whether it may change at run time. ``config/vla_policy.yaml`` repeats
the table for people; a test keeps the two equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any

from vla_ros.core.errors import ConfigError
from vla_ros.core.takeover import Takeover

COMMAND_INTERFACES = ("JointTrajectory", "TwistStamped", "Float64MultiArray", "JointJog")
EXECUTION_PROVIDERS = ("cpu", "cuda", "tensorrt", "openvino")
IMAGE_TRANSPORTS = ("raw", "compressed")

NEVER, WHILE_UNCONFIGURED, ALWAYS = "never", "while unconfigured", "always"
"""When a parameter may change: only before the start, also between cleanup and configure, or at any time."""


def parameter(
    default: Any,
    description: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    change: str = WHILE_UNCONFIGURED,
    name: str = "",
) -> Any:
    """Declares one field: its default, description, unit, closed range or choices, when it may change, and its ROS name."""
    metadata = {
        "description": description,
        "unit": unit,
        "low": low,
        "high": high,
        "choices": tuple(choices),
        "change": change,
        "name": name,
    }
    return field(default=default, metadata=metadata)


class Parameterized:
    """Base of parameter dataclasses: checks every field when one is made.

    Raises:
        ConfigError: a value of the wrong type, out of its range or not among its choices; all of them are listed.
    """

    def __post_init__(self) -> None:
        problems = [problem for f in fields(self) if (problem := _problem(f, getattr(self, f.name)))]
        if problems:
            raise ConfigError("; ".join(problems))


@dataclass(frozen=True, kw_only=True)
class PolicyNodeParameters(Parameterized):
    """Parameters of ``vla_policy``. Ages and timeouts are in seconds, rates in hertz."""

    model: str = parameter("tabletop", "policy bundle: a folder with manifest.yaml, or the name of a folder in share/vla_ros/models")
    robot: str = parameter("", "robot description (YAML); empty takes config/robots/<robot of the manifest>.yaml")
    control_rate_hz: float = parameter(50.0, "rate of the control loop and of the command", unit="Hz", low=1.0, high=1000.0)
    execution_provider: str = parameter("cpu", "where the policy runs", choices=EXECUTION_PROVIDERS)
    allow_cpu: bool = parameter(False, "fall back to the CPU where execution_provider is not available, instead of refusing")
    inference_threads: int = parameter(
        1, "threads of one inference on the CPU; leave one core for the control loop", low=1, high=256, name="inference.threads"
    )
    inference_nice: int = parameter(10, "niceness of the inference process", low=0, high=19, name="inference.nice")
    inference_max_rate_hz: float = parameter(
        5.0, "upper bound of inferences a second", unit="Hz", low=0.1, high=1000.0, name="inference.max_rate_hz"
    )
    worker_start_timeout_s: float = parameter(
        60.0,
        "how long configuring waits for the inference process to load and warm up",
        unit="s",
        low=1.0,
        high=3600.0,
        name="inference.start_timeout_s",
    )
    worker_timeout_s: float = parameter(
        2.0,
        "an inference that takes longer is stalled: HOLD, and the process is replaced",
        unit="s",
        low=0.05,
        high=600.0,
        name="inference.timeout_s",
    )
    image_transport: str = parameter("raw", "type of the camera topics", choices=IMAGE_TRANSPORTS, name="cameras.transport")
    camera_topics: tuple[str, ...] = parameter(
        (),
        "camera topics in the manifest's order; empty takes <camera>/image_raw, with /compressed appended for that transport",
        name="cameras.topics",
    )
    max_image_pixels: int = parameter(
        16777216, "larger pictures are refused before they are decoded", unit="pixels", low=1, high=1e9, name="cameras.max_pixels"
    )
    frozen_image_timeout_s: float = parameter(
        2.0,
        "a camera whose picture stays identical or black for longer is reported as frozen",
        unit="s",
        low=0.1,
        high=3600.0,
        name="cameras.frozen_timeout_s",
    )
    max_image_age_s: float = parameter(0.5, "older pictures are not used; HOLD without a fresh one", unit="s", low=0.01, high=60.0)
    max_joint_age_s: float = parameter(0.1, "HOLD without a joint state younger than this", unit="s", low=0.005, high=10.0)
    max_future_s: float = parameter(0.1, "messages stamped further ahead of the clock are dropped", unit="s", low=0.0, high=10.0)
    max_skew_s: float = parameter(
        0.2, "pictures and joint state further apart in time are not used together", unit="s", low=0.001, high=10.0
    )
    max_rejected_chunks: int = parameter(3, "LATCH after so many rejected action chunks in a row", low=1, high=1000)
    min_confidence: float = parameter(
        0.0, "least probability of a chunk's next action (bin and neighbours) with which it is followed; 0 follows all", low=0.0, high=0.999
    )
    takeover: str = parameter(
        "prefix",
        "how a new chunk takes over: it goes on from what the robot does (prefix), is averaged with the older ones (ensemble), or as it is",
        choices=tuple(t.value for t in Takeover),
    )
    command_interface: str = parameter("JointTrajectory", "type of the command topic", choices=COMMAND_INTERFACES, name="command.interface")
    command_points: int = parameter(
        3, "points of a JointTrajectory; the last is at rest", low=3, high=100, name="command.points"
    )
    require_subscriber: bool = parameter(
        False, "refuse activation while nobody subscribes to the command; otherwise warn", name="command.require_subscriber"
    )
    sched_fifo_priority: int = parameter(
        50,
        "SCHED_FIFO priority of the control thread, with which the thread of topics and services gets niceness -20; 0 leaves both",
        low=0,
        high=98,
        name="realtime.sched_fifo_priority",
    )
    cpu_affinity: tuple[int, ...] = parameter(
        (), "cores on which the control thread may run; empty means all", name="realtime.cpu_affinity"
    )
    lock_memory: bool = parameter(False, "keep the memory of the control process from being swapped out", name="realtime.lock_memory")

    @property
    def period_ns(self) -> int:
        """Control period in ns; rounded to whole nanoseconds, not to milliseconds."""
        return round(1e9 / self.control_rate_hz)


@dataclass(frozen=True, kw_only=True)
class ParameterSpec:
    """One ROS parameter as declared."""

    field_name: str
    name: str
    default: Any
    description: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    change: str

    @property
    def item(self) -> type:
        """What a list holds."""
        return int if self.name.endswith("cpu_affinity") else str

    @property
    def full_description(self) -> str:
        """Description with the unit, for ``ros2 param describe``."""
        return f"{self.description} [{self.unit}]" if self.unit else self.description

    @property
    def constraints(self) -> str:
        """The choices in words, for ``additional_constraints``."""
        return f"one of {', '.join(self.choices)}" if self.choices else ""


def parameter_specs(cls: type = PolicyNodeParameters) -> tuple[ParameterSpec, ...]:
    """Returns every parameter of ``cls`` in order."""
    return tuple(_spec(f) for f in fields(cls))


def from_ros(values: Mapping[str, Any], cls: type = PolicyNodeParameters) -> Any:
    """Builds the dataclass from ROS parameter names and values.

    Raises:
        ConfigError: as the dataclass does, or a name that is none of its parameters.
    """
    by_name = {spec.name: spec.field_name for spec in parameter_specs(cls)}
    unknown = sorted(set(values) - set(by_name))
    if unknown:
        raise ConfigError(f"no parameter {', '.join(unknown)}: there are {', '.join(by_name)}")
    return cls(**{by_name[name]: tuple(v) if isinstance(v, (list, tuple)) or hasattr(v, "typecode") else v for name, v in values.items()})


def to_ros(parameters: Any) -> dict[str, Any]:
    """Returns ROS parameter names and values, the inverse of :func:`from_ros`."""
    values = asdict(parameters)
    return {spec.name: list(v) if isinstance(v := values[spec.field_name], tuple) else v for spec in parameter_specs(type(parameters))}


def changed(parameters: Any, changes: Mapping[str, Any], *, configured: bool) -> Any:
    """Returns ``parameters`` with ``changes`` (by ROS name) applied together.

    Args:
        configured: the node holds what it made from the present values.

    Raises:
        ConfigError: any change is bad or not allowed now; then none is applied.
    """
    specs = {spec.name: spec for spec in parameter_specs(type(parameters))}
    never = [n for n in changes if n in specs and specs[n].change == NEVER]
    if never:
        raise ConfigError(f"{', '.join(never)} cannot change while the node runs: set it before the start")
    later = [n for n in changes if n in specs and specs[n].change == WHILE_UNCONFIGURED]
    if later and configured:
        raise ConfigError(f"{', '.join(later)} cannot change while the node is configured: clean it up first")
    return from_ros({**to_ros(parameters), **changes}, type(parameters))


def _spec(f: Field) -> ParameterSpec:
    metadata = dict(f.metadata)
    name = metadata.pop("name") or f.name
    return ParameterSpec(field_name=f.name, name=name, default=f.default, **metadata)


def _problem(f: Field, value: Any) -> str:
    """Says what is wrong with ``value``, or nothing."""
    spec = _spec(f)
    if not _is_type(value, spec):
        kind = (
            "list of integers"
            if spec.item is int and isinstance(spec.default, tuple)
            else "list of strings"
            if isinstance(spec.default, tuple)
            else type(spec.default).__name__
        )
        return f"{spec.name} must be a {kind}, found {value!r}"
    if spec.choices and value not in spec.choices:
        return f"{spec.name} must be one of {', '.join(spec.choices)}, found {value!r}"
    if spec.low is not None and not spec.low <= value <= spec.high:
        return f"{spec.name} must be in [{spec.low}, {spec.high}] {spec.unit}".rstrip() + f", found {value!r}"
    return ""


def _is_type(value: Any, spec: ParameterSpec) -> bool:
    default = spec.default
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(isinstance(v, spec.item) and not isinstance(v, bool) for v in value)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, type(default))
