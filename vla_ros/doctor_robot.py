# SPDX-License-Identifier: Apache-2.0
"""``vla doctor``'s second half: the parameters in use, the bundle against the robot, and both against the ROS graph. Must not import rclpy."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from vla_ros.core.errors import ConfigError
from vla_ros.doctor_environment import check_environment, ros_processes
from vla_ros.doctor_graph import judge
from vla_ros.extras import how_to_install
from vla_ros.finding import FAIL, OK, WARN, Finding, last_line
from vla_ros.robot import Kinematics, RobotDescription
from vla_ros.ros.parameters import PolicyNodeParameters, changed, from_ros, parameter_specs
from vla_ros.ros.session import Contract
from vla_ros.runtime.policy import check_robot
from vla_ros.runtime.waypoints import WaypointMaker

Child = Callable[..., tuple[int, str]]


def check_robot_and_graph(options: argparse.Namespace, child: Child) -> list[Finding]:
    """Bundle against robot, and both against what is on the graph.

    Args:
        options: node, seconds, model, robot, params_file and use_sim_time of ``vla doctor``.
        child: runs Python code with arguments in a process of its own and returns its exit code and what it said.
    """
    code, text = child(
        "import sys; from vla_ros.ros.graph_probe import main; sys.exit(main(sys.argv[1:]))", options.node, str(options.seconds)
    )
    facts = json.loads(last_line(text)) if code == 0 else None
    findings = check_environment(ros_processes(), os.environ, alone=facts is None or not facts["nodes"])
    if facts is None:
        remedy = "mend ROS first: vla doctor --only machine"
        return [*findings, Finding(name="ROS graph", state=FAIL, found=last_line(text), remedy=remedy)]
    if facts["use_sim_time"] is None:
        facts["use_sim_time"] = options.use_sim_time
    try:
        parameters = _parameters(options, facts)
    except ConfigError as error:
        remedy = "correct the parameters; config/vla_policy.yaml has all of them with their ranges"
        return [*findings, Finding(name="parameters", state=FAIL, found=str(error), remedy=remedy)]
    findings.append(check_provider(parameters.execution_provider, parameters.allow_cpu, child))
    contract, about_contract = load_contract(parameters)
    findings += about_contract
    return findings if contract is None else [*findings, *judge(facts, parameters, contract)]


def _parameters(options: argparse.Namespace, facts: dict[str, Any]) -> PolicyNodeParameters:
    """The running node's parameters; without one those of the command line and the parameter file."""
    if facts["parameters"] is not None:
        parameters = from_ros(facts["parameters"])
    else:
        known = {spec.name for spec in parameter_specs()}
        given = read_parameter_file(options.params_file) if options.params_file else {}
        parameters = from_ros({name: value for name, value in given.items() if name in known})
    given = {name: value for name in ("model", "robot") if (value := getattr(options, name))}
    return changed(parameters, given, configured=False)


def read_parameter_file(path: Path) -> dict[str, Any]:
    """Every ``ros__parameters`` of the file for a node named vla_policy, nested names joined by dots."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {error}") from error
    found: dict[str, Any] = {}

    def collect(part: Any, prefix: str, inside: bool) -> None:
        for key, value in part.items() if isinstance(part, dict) else ():
            if inside and not isinstance(value, dict):
                found[f"{prefix}{key}"] = value
            else:
                collect(value, f"{prefix}{key}." if inside else "", inside or key == "ros__parameters")

    collect(tree, "", False)
    return found


def check_provider(provider: str, allow_cpu: bool, child: Child) -> Finding:
    """Whether this installation of ONNX Runtime has the provider that the node is to use."""
    code, text = child(
        "import sys, onnxruntime as o; from vla_ros.runtime.session import PROVIDERS; there = o.get_available_providers(); "
        "print(*[n for n, chain in PROVIDERS.items() if chain[0] in there]); sys.exit(PROVIDERS[sys.argv[1]][0] not in there)",
        provider,
    )
    name = "execution provider"
    if code == 0:
        return Finding(name=name, state=OK, found=provider)
    extra = {"cuda": "gpu", "tensorrt": "gpu"}.get(provider, "cpu")
    remedy = f"pip uninstall -y onnxruntime, then {how_to_install(extra)}; or set execution_provider to one of: {last_line(text)}"
    state = WARN if allow_cpu else FAIL
    return Finding(name=name, state=state, found=f"{provider} is not in this ONNX Runtime, which has {last_line(text)}", remedy=remedy)


def load_contract(parameters: PolicyNodeParameters) -> tuple[Contract | None, list[Finding]]:
    """Loads bundle and robot as the node does, and asks whether one can drive the other."""
    try:
        contract = Contract.load(parameters)
    except ConfigError as error:
        return None, [Finding(name="bundle and robot", state=FAIL, found=str(error), remedy=_contract_remedy(str(error)))]
    try:
        check_robot(contract.bundle.manifest, contract.robot)
        WaypointMaker(contract.bundle.manifest.action, contract.robot, Kinematics(contract.robot))
    except ConfigError as error:
        remedy = f"use the robot description that the bundle was made for, or a bundle for {contract.robot.name}"
        return None, [Finding(name="bundle and robot", state=FAIL, found=str(error), remedy=remedy)]
    found = f"{contract.bundle.manifest.name} ({contract.bundle.sha256[:12]}) drives {contract.robot.name}"
    return contract, [Finding(name="bundle and robot", state=OK, found=found), *check_limits(contract.robot, contract.robot_path)]


def check_limits(robot: RobotDescription, path: Path) -> list[Finding]:
    """Velocities in the robot's YAML that its URDF does not allow: the node takes the URDF's in silence."""
    table = yaml.safe_load(path.read_text(encoding="utf-8"))["joint_limits"]
    wanted = {joint: float(table[joint]["max_velocity"]) for joint in robot.joint_names}
    faster = [f"{n} {wanted[n]:g} (URDF {v:g})" for n, v in zip(robot.joint_names, robot.limits.velocity) if wanted[n] > v]
    if not faster:
        return []
    remedy = f"lower max_velocity in {path}, or correct the URDF if the robot is really that fast; until then the URDF's holds"
    return [Finding(name="limits", state=WARN, found=f"max_velocity above the URDF's: {', '.join(faster)}", remedy=remedy)]


def _contract_remedy(text: str) -> str:
    remedies = {
        "sha256": "the bundle's files are not the measured ones: copy or download the bundle again",
        "is for the robot": "set the parameter robot to the description the bundle was made for, or model to a bundle for this robot",
        "no robot '": "write config/robots/<robot>.yaml (docs/own_robot.md), or set the parameter robot to its path",
        "no policy bundle": "set the parameter model (--model) to the bundle's folder",
        "joint_limits": "give every joint max_velocity, max_acceleration and max_jerk under joint_limits in the robot's YAML",
        "no key": "complete the robot's YAML: docs/own_robot.md lists the keys",
    }
    return next((remedy for word, remedy in remedies.items() if word in text), "mend what it names")
