# SPDX-License-Identifier: Apache-2.0
"""What ROS tools read from the declared parameters, and what they write for the next start."""

from __future__ import annotations

import pytest
import yaml

from vla_ros.ros.parameters import PolicyNodeParameters, parameter_specs, to_ros
from vla_ros.ros.sim_parameters import SimParameters

pytestmark = pytest.mark.ros
CLASSES = pytest.mark.parametrize("cls", [PolicyNodeParameters, SimParameters])


def serve(cls, *arguments):
    from rclpy.node import Node

    from vla_ros.ros.parameter_server import ParameterServer

    node = Node("served", cli_args=["--ros-args", *arguments])
    return node, ParameterServer(node, cls)


def dumped(node, cls):
    """What ``ros2 param dump`` writes."""
    nested = {}
    for spec in parameter_specs(cls):
        *groups, name = spec.name.split(".")
        group = nested
        for key in groups:
            group = group.setdefault(key, {})
        group[name] = value.tolist() if hasattr(value := node.get_parameter(spec.name).value, "tolist") else value
    return yaml.safe_dump({node.get_fully_qualified_name(): {"ros__parameters": nested}})


@CLASSES
def test_what_param_dump_writes_can_be_loaded(context, tmp_path, cls):
    node, server = serve(cls)
    file = tmp_path / "dumped.yaml"
    file.write_text(dumped(node, cls), encoding="utf-8")
    node.destroy_node()
    again, loaded = serve(cls, "--params-file", str(file))
    assert loaded.current == server.current and dumped(again, cls) == file.read_text(encoding="utf-8")
    again.destroy_node()


@CLASSES
def test_param_describe_says_the_type_that_is_meant(context, cls):
    from rclpy.parameter import Parameter

    node, server = serve(cls)
    lists = {str: Parameter.Type.STRING_ARRAY, int: Parameter.Type.INTEGER_ARRAY}
    one = {bool: Parameter.Type.BOOL, int: Parameter.Type.INTEGER, float: Parameter.Type.DOUBLE, str: Parameter.Type.STRING}
    for spec in parameter_specs(cls):
        meant = lists[spec.item] if isinstance(spec.default, tuple) else one[type(spec.default)]
        assert Parameter.Type(node.describe_parameter(spec.name).type) is meant, spec.name
    assert to_ros(server.current) == {spec.name: list(d) if isinstance(d := spec.default, tuple) else d for spec in parameter_specs(cls)}
    node.destroy_node()
