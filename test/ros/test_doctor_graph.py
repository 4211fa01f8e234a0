# SPDX-License-Identifier: Apache-2.0
"""``vla doctor`` finds each planted misconfiguration on a real graph, in real files and real processes, and names the remedy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml

from vla_ros.core import tabletop
from vla_ros.core.paths import robot_config_path
from vla_ros.doctor import _child
from vla_ros.doctor_environment import check_environment, ros_processes
from vla_ros.doctor_graph import judge
from vla_ros.doctor_robot import check_provider, load_contract
from vla_ros.finding import FAIL, OK, WARN
from vla_ros.robot import RobotDescription
from vla_ros.ros.parameters import PolicyNodeParameters

pytestmark = pytest.mark.ros
_ROBOT = RobotDescription.load(robot_config_path(tabletop.ROBOT))
_WIDE = {"max_joint_age_s": 10.0, "max_image_age_s": 60.0}  # tests that are not about rates must pass on a busy machine
_NODE = "/vla_policy"


class Cell:
    """A fake robot on a graph of its own, and the doctor's look at it."""

    def __init__(self, bundle, wait_until, **robot):
        import rclpy

        from vla_ros.ros.fake_robot import FakeRobot

        self.bundle, self._wait = bundle, wait_until
        self.robot = FakeRobot(_ROBOT, robot.pop("cameras", tabletop.CAMERAS), **robot)
        self.node = rclpy.create_node("vla_doctor_test", start_parameter_services=False)
        self.others = []

    def other_node(self, name):
        import rclpy

        self.others.append(rclpy.create_node(name, start_parameter_services=False))
        return self.others[-1]

    def look(self, *, use_sim_time=False, until=lambda facts: True, **parameters):
        """Findings of one look; looks again until the planted thing has been discovered."""
        from vla_ros.ros.graph_probe import look

        values = PolicyNodeParameters(**{"model": str(self.bundle), **_WIDE, **parameters})
        contract, about = load_contract(values)
        assert contract is not None, about
        for _ in range(10):
            facts = json.loads(json.dumps(look(self.node, _NODE, 0.7)))
            if until(facts) and any(sample["count"] for sample in facts["samples"].values()):
                break
        facts["use_sim_time"] = use_sim_time
        return judge(facts, values, contract)

    def close(self):
        for node in (*self.others, self.node):
            node.destroy_node()
        self.robot.close()


@pytest.fixture
def make_cell(context, tiny_bundle, wait_until):
    cells = []

    def make(**robot):
        cells.append(Cell(tiny_bundle, wait_until, **robot))
        return cells[-1]

    yield make
    for cell in cells:
        cell.close()


def one(findings, state, *words):
    """The only finding of this state whose text has all the words; every finding that is not ok has a remedy."""
    assert all(finding.remedy for finding in findings if finding.state != OK), findings
    text = [f for f in findings if f.state == state and all(w in f"{f.name} {f.found} {f.remedy}" for w in words)]
    assert len(text) == 1, (words, findings)
    return text[0]


def has_topics(*topics):
    return lambda facts: all(facts["samples"].get(f"/{topic}", {}).get("count") for topic in topics)


_ALL = ("joint_states", "front/image_raw", "wrist/image_raw")


def test_a_sound_cell_has_nothing_to_mend(make_cell):
    findings = make_cell().look(until=has_topics(*_ALL))
    assert not [finding for finding in findings if finding.state == FAIL], findings
    one(findings, WARN, "policy node", "vla run")  # not started yet
    assert {f.name.split()[0] for f in findings if f.state == OK} >= {"joint", "camera", "command", "clock"}


def test_wrong_joint_names(make_cell):
    cell = make_cell()
    names = [n.replace("elbow_joint", "elbow_jont") for n in _ROBOT.joint_names]
    cell.robot.alter_joints = lambda message: setattr(message, "name", names)
    finding = one(cell.look(), FAIL, "lacks elbow_joint")
    assert "elbow_jont" in finding.remedy and "letter by letter" in finding.remedy


def test_joint_names_with_a_prefix(make_cell):
    cell = make_cell()
    cell.robot.alter_joints = lambda message: setattr(message, "name", [f"left_{n}" for n in _ROBOT.joint_names])
    assert "prefix" in one(cell.look(), FAIL, "lacks", "left_").remedy


def test_joints_in_degrees(make_cell):
    cell = make_cell()
    degrees = np.degrees(_ROBOT.home).tolist()
    cell.robot.alter_joints = lambda message: setattr(message, "position", degrees)
    assert "degrees" in one(cell.look(), FAIL, "outside the limits", "elbow_joint").remedy


def test_no_joint_states_and_another_topic_that_has_them(make_cell):
    from sensor_msgs.msg import JointState

    cell = make_cell()
    cell.robot.run(lambda: cell.robot.node.destroy_publisher(cell.robot._joints))
    cell.robot.joints_on = False
    cell.other_node("driver").create_publisher(JointState, "left/joint_states", 1)
    finding = one(cell.look(until=lambda facts: "/left/joint_states" in facts["topics"]), FAIL, "nobody publishes", "joint states")
    assert "-r joint_states:=/left/joint_states" in finding.remedy


def test_a_missing_camera(make_cell):
    from sensor_msgs.msg import Image

    cell = make_cell(cameras=tabletop.CAMERAS[:1])
    cell.other_node("camera").create_publisher(Image, "hand_camera/color/image_raw", 1)
    finding = one(
        cell.look(until=lambda facts: "/hand_camera/color/image_raw" in facts["topics"]), FAIL, "camera wrist", "nobody publishes"
    )
    assert "cameras.topics" in finding.remedy and "/hand_camera/color/image_raw" in finding.remedy


def test_a_wrong_encoding(make_cell):
    cell = make_cell()
    cell.robot.alter_image = lambda camera, message: setattr(message, "encoding", "32FC1") if camera == "front" else None
    finding = one(cell.look(until=has_topics(*_ALL)), FAIL, "camera front", "32FC1")
    assert "rgb8" in finding.remedy and "depth" in finding.remedy


@pytest.mark.parametrize(
    ("height", "width", "words"),
    [(48, 64, ("64x48", "blurred", "or more")), (128, 384, ("384x128", "cut off", "as the policy was trained with"))],
    ids=["too small", "other sides"],
)
def test_a_wrong_camera_size(make_cell, height, width, words):
    def resize(camera, message):
        if camera == "front":
            message.height, message.width, message.step = height, width, 3 * width
            message.encoding, message.data = "rgb8", bytes(3 * width * height)

    cell = make_cell()
    cell.robot.alter_image = resize
    one(cell.look(until=has_topics(*_ALL)), WARN, "camera front", *words)


def test_compressed_where_raw_is_expected(make_cell):
    from sensor_msgs.msg import CompressedImage

    cell = make_cell(cameras=tabletop.CAMERAS[:1])
    cell.other_node("camera").create_publisher(CompressedImage, "wrist/image_raw", 1)
    finding = one(cell.look(until=lambda facts: "/wrist/image_raw" in facts["topics"]), FAIL, "camera wrist", "CompressedImage")
    assert "cameras.transport to compressed" in finding.remedy


def test_a_quality_of_service_that_never_connects(make_cell):
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from std_msgs.msg import String

    cell = make_cell()
    cell.other_node("keyboard").create_publisher(String, "instruction", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    finding = one(cell.look(until=lambda facts: len(facts["topics"]["/instruction"]["publishers"]) == 2), FAIL, "quality of service")
    assert "/keyboard publishes best effort" in finding.found and finding.remedy == "let /keyboard publish reliable"


def test_a_controller_that_wants_the_command_latched(make_cell):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from trajectory_msgs.msg import JointTrajectory

    cell, latched = make_cell(), QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    cell.other_node("controller").create_subscription(JointTrajectory, "command", lambda _: None, latched)
    finding = one(cell.look(until=lambda facts: len(facts["topics"]["/command"]["subscribers"]) == 2), FAIL, "quality of service")
    assert "transient local" in finding.found and "volatile" in finding.remedy


def test_two_publishers_on_the_command(make_cell):
    from trajectory_msgs.msg import JointTrajectory

    cell = make_cell()
    cell.other_node("teleop").create_publisher(JointTrajectory, "command", 1)
    finding = one(cell.look(until=lambda facts: facts["topics"]["/command"]["publishers"]), FAIL, "command", "/teleop")
    assert "obey both" in finding.remedy


def test_nobody_listens_to_the_command(make_cell):
    cell = make_cell()
    cell.robot.run(lambda: cell.robot.node.destroy_subscription(cell.robot.command_subscription))
    assert "controller" in one(cell.look(until=lambda facts: "/command" not in facts["topics"]), WARN, "command", "nobody listens").remedy


def test_a_controller_of_another_type(make_cell):
    from std_msgs.msg import Float64MultiArray

    cell = make_cell()
    cell.robot.run(lambda: cell.robot.node.destroy_subscription(cell.robot.command_subscription))
    cell.other_node("controller").create_subscription(Float64MultiArray, "command", lambda _: None, 1)

    def until(facts):
        return [s["type"] for s in facts["topics"].get("/command", {}).get("subscribers", [])] == ["std_msgs/msg/Float64MultiArray"]

    assert "command.interface to Float64MultiArray" in one(cell.look(until=until), FAIL, "command", "expects").remedy


def test_no_clock_with_use_sim_time(make_cell):
    finding = one(make_cell().look(use_sim_time=True), FAIL, "clock", "time stands still")
    assert "start the simulator" in finding.remedy and "use_sim_time to false" in finding.remedy


def test_two_sources_of_joint_states(make_cell):
    from sensor_msgs.msg import JointState

    cell = make_cell()
    cell.other_node("second_driver").create_publisher(JointState, "joint_states", 1)
    finding = one(cell.look(until=lambda facts: len(facts["topics"]["/joint_states"]["publishers"]) == 2), FAIL, "2 publishers")
    assert "/second_driver" in finding.found and "joint_state_publisher" in finding.remedy


def test_a_rate_that_is_too_low(make_cell):
    finding = one(make_cell(joint_rate_hz=4.0).look(max_joint_age_s=0.1), FAIL, "joint states", "Hz", "max_joint_age_s")
    assert "20 Hz or more" in finding.remedy


def test_clocks_that_do_not_agree(make_cell):
    cell = make_cell()
    cell.robot.alter_joints = lambda message: setattr(message.header.stamp, "sec", message.header.stamp.sec - 60)
    assert "NTP" in one(cell.look(), FAIL, "joint states", "s old").remedy


# ---- files ----


def contract_findings(**parameters):
    contract, findings = load_contract(PolicyNodeParameters(**parameters))
    assert contract is None
    return findings


def test_a_bundle_for_another_robot(tiny_bundle):
    finding = one(contract_findings(model=str(tiny_bundle), robot=str(robot_config_path("ur5e"))), FAIL, "tabletop_arm", "ur5e")
    assert "parameter robot" in finding.remedy


def test_a_bundle_with_another_hash(tiny_bundle, tmp_path):
    broken = shutil.copytree(tiny_bundle, tmp_path / "broken")
    with (broken / "policy.onnx").open("ab") as file:
        file.write(b"x")
    assert "copy or download the bundle again" in one(contract_findings(model=str(broken)), FAIL, "sha256").remedy


@pytest.fixture
def own_robot(tmp_path):
    for name in ("tabletop_arm.yaml", "tabletop_arm.urdf"):
        shutil.copy(robot_config_path("tabletop_arm").with_name(name), tmp_path)
    return tmp_path / "tabletop_arm.yaml"


def test_limits_that_are_missing_in_the_yaml(tiny_bundle, own_robot):
    description = yaml.safe_load(own_robot.read_text())
    del description["joint_limits"]["elbow_joint"]["max_acceleration"]
    own_robot.write_text(yaml.safe_dump(description))
    finding = one(contract_findings(model=str(tiny_bundle), robot=str(own_robot)), FAIL, "max_acceleration")
    assert "docs/own_robot.md" in finding.remedy or "joint_limits" in finding.remedy


def test_limits_outside_those_of_the_urdf(tiny_bundle, own_robot):
    description = yaml.safe_load(own_robot.read_text())
    description["joint_limits"]["elbow_joint"]["max_velocity"] = 99.0
    own_robot.write_text(yaml.safe_dump(description))
    contract, findings = load_contract(PolicyNodeParameters(model=str(tiny_bundle), robot=str(own_robot)))
    finding = one(findings, WARN, "limits", "elbow_joint 99")
    assert contract is not None and f"lower max_velocity in {own_robot}" in finding.remedy


def test_a_robot_that_is_described_nowhere(tiny_bundle, tmp_path):
    bundle = shutil.copytree(tiny_bundle, tmp_path / "other")
    text = (bundle / "manifest.yaml").read_text()
    (bundle / "manifest.yaml").write_text(text.replace("robot: tabletop_arm", "robot: nowhere"))
    assert "docs/own_robot.md" in one(contract_findings(model=str(bundle)), FAIL, "nowhere").remedy


def test_a_provider_that_is_not_installed():
    import onnxruntime

    missing = next(
        n
        for n, p in {"openvino": "OpenVINO", "tensorrt": "Tensorrt"}.items()
        if f"{p}ExecutionProvider" not in onnxruntime.get_available_providers()
    )
    finding = check_provider(missing, False, _child)
    assert finding.state == FAIL and "execution_provider" in finding.remedy and "cpu" in finding.found
    assert check_provider(missing, True, _child).state == WARN and check_provider("cpu", False, _child).state == OK


# ---- processes ----


@pytest.fixture
def other_process(wait_until):
    """A ROS process with an environment of its own."""
    processes = []

    def start(comment="", **environment):
        program = f"import rclpy, sys, time; print('up', flush=True); time.sleep(120)  # {comment}"
        values = {k: v for k, v in {**os.environ, **environment}.items() if v}
        processes.append(subprocess.Popen([sys.executable, "-c", program], env=values, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout.readline() == "up\n"
        return [process for process in ros_processes() if process.pid == processes[-1].pid]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("theirs", "mine", "state", "words"),
    [
        ({"ROS_DOMAIN_ID": "42"}, {"ROS_DOMAIN_ID": "7"}, FAIL, ("ROS_DOMAIN_ID=42", "this shell 7", "export ROS_DOMAIN_ID=42")),
        ({}, {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, FAIL, ("=rmw_fastrtps_cpp, this shell rmw_cyclonedds_cpp", "never meet")),
        ({"ROS_LOCALHOST_ONLY": "1"}, {}, WARN, ("localhost only", "the network")),
        ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, {}, FAIL, ("DISCOVERY_RANGE=OFF",)),
        ({}, {}, WARN, ("without a Fast DDS profile", "FASTRTPS_DEFAULT_PROFILES_FILE")),
    ],
    ids=["domain", "middleware", "localhost", "discovery off", "profile"],
)
def test_a_process_that_cannot_be_heard(other_process, theirs, mine, state, words):
    bare = dict.fromkeys(
        ("ROS_DOMAIN_ID", "RMW_IMPLEMENTATION", "ROS_LOCALHOST_ONLY", "ROS_AUTOMATIC_DISCOVERY_RANGE"), ""
    ) | dict.fromkeys(("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"), "")
    processes = other_process(**{**bare, **theirs})
    assert len(processes) == 1
    one(check_environment(processes, mine, alone=True), state, str(processes[0].pid), *words)


def test_another_domain_may_be_meant_where_nodes_are_visible(other_process):
    processes = other_process(ROS_DOMAIN_ID="42")
    findings = check_environment(processes, {"ROS_DOMAIN_ID": "7"}, alone=False)
    assert findings and not [finding for finding in findings if finding.state == FAIL]


def test_the_daemon_of_the_ros2_command_is_no_process_to_be_heard(other_process):
    assert other_process("from ros2cli.daemon.daemonize import main", ROS_DOMAIN_ID="42") == []
    assert len(other_process(ROS_DOMAIN_ID="42")) == 1


def test_no_process_no_finding():
    (finding,) = check_environment([], {"ROS_DOMAIN_ID": "3"}, alone=True)
    assert finding.state == OK and "domain 3" in finding.found


# ---- the command ----


def test_the_command_says_it_in_words(domain, tiny_bundle, tmp_path):
    report = tmp_path / "doctor.json"
    command = [sys.executable, "-m", "vla_ros.cli", "doctor", "--only", "robot", "--seconds", "0.5", "--model", str(tiny_bundle)]
    done = subprocess.run([*command, "--json", str(report)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    findings = json.loads(report.read_text())["findings"]
    assert all(finding["remedy"] for finding in findings if finding["state"] != OK)
    assert {f["name"] for f in findings if f["state"] == FAIL} >= {"joint states /joint_states", "camera front /front/image_raw"}
    assert any("start the robot's driver" in finding["remedy"] for finding in findings) and "joint states" in done.stdout


def test_parameters_come_from_a_file(tmp_path):
    from vla_ros.doctor_robot import read_parameter_file

    path = tmp_path / "params.yaml"
    path.write_text("/**:\n  vla_policy:\n    ros__parameters:\n      model: mine\n      cameras:\n        transport: compressed\n")
    assert read_parameter_file(path) == {"model": "mine", "cameras.transport": "compressed"}


def test_a_running_node_is_seen_with_its_parameters(make_rig):
    import rclpy

    from vla_ros.ros.graph_probe import look

    rig = make_rig()
    assert rig.configure() == "inactive"
    node = rclpy.create_node("vla_doctor_test", start_parameter_services=False)
    try:
        facts = look(node, _NODE, 0.5)
        rig.until(lambda: look(node, _NODE, 0.5)["lifecycle"] == "inactive", "the node answers", 60.0)
        facts = look(node, _NODE, 0.5)
    finally:
        node.destroy_node()
    assert facts["parameters"]["model"] == rig.node.parameters.model and facts["use_sim_time"] is False
    values = PolicyNodeParameters(model=rig.node.parameters.model, **_WIDE)
    findings = judge(facts, values, load_contract(values)[0])
    assert "activate" in one(findings, WARN, "policy node", "inactive").remedy
    assert not [f for f in findings if f.state == FAIL and "quality" in f.name]


def test_remapped_topics_are_followed():
    from vla_ros.doctor_graph import resolve_names

    types = {"/arm/states": "sensor_msgs/msg/JointState", "/ctrl/joint_trajectory": "trajectory_msgs/msg/JointTrajectory"}
    facts = {
        "node": "/left/vla_policy",
        "endpoints": {
            "/left/vla_policy": {
                "subscribes": {"/arm/states": types["/arm/states"], "/left/instruction": "std_msgs/msg/String"},
                "publishes": {"/ctrl/joint_trajectory": types["/ctrl/joint_trajectory"], "/left/vla_policy/plan": "std_msgs/msg/String"},
            },
            "/left/vla_policy_worker": {
                "subscribes": {"/left/front/image_raw": "sensor_msgs/msg/Image", "/usb/image": "sensor_msgs/msg/Image"}
            },
        },
    }
    manifest = type("Manifest", (), {"cameras": tabletop.CAMERAS})
    names = resolve_names(facts, PolicyNodeParameters(), manifest)
    assert (names.joint_states, names.command, names.instruction) == ("/arm/states", "/ctrl/joint_trajectory", "/left/instruction")
    assert names.cameras == {"front": "/left/front/image_raw", "wrist": "/usb/image"} and names.e_stop == "/left/e_stop"
