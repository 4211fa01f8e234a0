# SPDX-License-Identifier: Apache-2.0
"""Declares a parameter dataclass on a node and keeps the two in step. The only place that talks to rclpy about parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from vla_ros.core.errors import ConfigError
from vla_ros.ros.parameters import NEVER, ParameterSpec, changed, from_ros, parameter_specs

_TYPES = {
    bool: Parameter.Type.BOOL,
    int: Parameter.Type.INTEGER,
    float: Parameter.Type.DOUBLE,
    str: Parameter.Type.STRING,
}


class ParameterServer:
    """Holds the current parameters of ``node``; ``current`` is replaced as a whole when a change is accepted."""

    def __init__(self, node: Node, cls: type, is_configured: Callable[[], bool] = lambda: True) -> None:
        """Declares every parameter of the dataclass ``cls``; ``is_configured`` says whether the present values are in use.

        Raises:
            ConfigError: an override has a wrong type or value.
        """
        self._specs = {spec.name: spec for spec in parameter_specs(cls)}
        self._is_configured = is_configured
        self.current = from_ros({name: _declare(node, spec) for name, spec in self._specs.items()}, cls)
        node.add_on_set_parameters_callback(self._set)

    def _set(self, parameters: list[Parameter]) -> SetParametersResult:
        """Accepts all changes of one request or none."""
        changes = {p.name: p.value for p in parameters if p.name in self._specs}
        if not changes:
            return SetParametersResult(successful=True)
        try:
            self.current = changed(self.current, changes, configured=self._is_configured())
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def _declare(node: Node, spec: ParameterSpec) -> Any:
    # Numbers are declared with a free type so that control_rate_hz:=50 is accepted where 50.0 is meant; the dataclass checks them.
    number = isinstance(spec.default, float)
    descriptor = ParameterDescriptor(
        description=spec.full_description,
        additional_constraints=spec.constraints,
        read_only=spec.change == NEVER,
        dynamic_typing=number or isinstance(spec.default, tuple),
    )
    if spec.low is not None and not number:
        descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)]
    elif spec.low is not None:
        descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high, step=0.0)]
    try:
        value = node.declare_parameter(spec.name, _default(spec.default), descriptor).value
        if isinstance(spec.default, tuple) and not value:
            value = _declare_empty(node, spec)
    except InvalidParameterTypeException as error:
        raise ConfigError(f"parameter {spec.name} must be a {type(spec.default).__name__}: {error}") from error
    except InvalidParameterValueException as error:
        raise ConfigError(f"parameter {spec.name} ({spec.full_description}): {error}") from error
    return float(value) if number and isinstance(value, int) and not isinstance(value, bool) else value


def _declare_empty(node: Node, spec: ParameterSpec) -> list:
    """Gives an empty list its type: rclpy takes one for bytes, and reads the ``[]`` that ``ros2 param dump`` writes as no value at all."""
    kind = Parameter.Type.INTEGER_ARRAY if spec.item is int else Parameter.Type.STRING_ARRAY
    node.set_parameters([Parameter(spec.name, kind, [])])
    return []


def _default(default: Any) -> Any:
    if isinstance(default, tuple):
        return list(default)
    return default
