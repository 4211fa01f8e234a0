# SPDX-License-Identifier: Apache-2.0
"""What configuring and activating refuse, and with which words (FAULTS rows 39 to 44, 46, 49, 53, 55, 57)."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.ros


def errors_of(rig, capfd, words):
    """Configures, which must be refused with ``words`` in the log, and leave nothing behind."""
    assert rig.configure() == "unconfigured"
    log = capfd.readouterr().err
    assert "cannot configure" in log and words in log, log
    assert "Traceback" not in log
    assert rig.node.session is None
    return log


@pytest.fixture
def broken(tiny_bundle, tmp_path):
    """A copy of the bundle that a test may damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "broken")


def test_row_39_a_missing_model_names_the_ones_there_are(make_rig, capfd):
    errors_of(make_rig(model="no_such_model"), capfd, "no policy bundle 'no_such_model'")


def test_row_40_a_file_cut_short_is_refused_with_its_hash(make_rig, broken, capfd):
    path = broken / "policy.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    errors_of(make_rig(broken), capfd, "sha256")


def test_row_41_shapes_that_differ_are_refused_by_the_inference_process(make_rig, broken, capfd):
    manifest = yaml.safe_load((broken / "manifest.yaml").read_text())
    manifest["cameras"][0]["height"] = 96
    (broken / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    log = errors_of(make_rig(broken), capfd, "do not fit the manifest")
    assert "[1, 96, 128, 3]" in log and "[1, 128, 128, 3]" in log


def test_row_43_a_missing_gpu_is_refused_unless_the_cpu_is_allowed(make_rig, capfd):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the provider")
    errors_of(make_rig(execution_provider="cuda"), capfd, "execution_provider 'cuda'")
    allowed = make_rig(execution_provider="cuda", allow_cpu=True)
    assert allowed.configure() == "inactive"
    assert allowed.node.session.link.provider == "cpu"


def test_a_robot_that_does_not_fit_the_bundle_is_refused(make_rig, broken, capfd):
    manifest = yaml.safe_load((broken / "manifest.yaml").read_text())
    manifest["robot"] = "other_arm"
    (broken / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    errors_of(make_rig(broken), capfd, "other_arm")


def test_a_command_interface_that_is_not_installed_is_refused(make_rig, capfd):
    try:
        import control_msgs  # noqa: F401
    except ImportError:
        errors_of(make_rig(command__interface="JointJog"), capfd, "control_msgs")
    else:
        pytest.skip("control_msgs is installed")


def test_wrong_numbers_of_topics_are_refused(make_rig, capfd):
    errors_of(make_rig(cameras__topics=["only_one"]), capfd, "cameras.topics names 1 topics")


def test_after_a_refusal_the_node_can_be_configured_again(make_rig, tiny_bundle):
    from rclpy.parameter import Parameter

    rig = make_rig(model="no_such_model")
    assert rig.configure() == "unconfigured"
    assert rig.run(lambda: rig.node.set_parameters([Parameter("model", value=str(tiny_bundle))]))[0].successful
    assert rig.configure() == "inactive"


def test_row_46_nan_logits_are_rejected_and_latch(make_rig, make_bundle, tmp_path):
    rig = make_rig(make_bundle(tmp_path / "nan", action_D=(np.nan,) * 6))
    assert rig.configure() == "inactive" and rig.activate() == "active"
    rig.robot.instruct("go")
    rig.until_code("CHUNKS_REJECTED")
    assert rig.robot.speed() < 1e-6 and rig.robot.state == "latched"


def test_a_policy_that_says_done_ends_the_task(make_rig, make_bundle, tmp_path):
    rig = make_rig(make_bundle(tmp_path / "done", action_D=(1.0, 0.0, 0.05, 0.0, 0.0, 0.042)))
    assert rig.configure() == "inactive" and rig.activate() == "active"
    rig.robot.instruct("go")
    rig.until_code("TASK_DONE")
    rig.until_at_rest()


def test_row_53_a_node_begins_inactive_and_an_older_instruction_does_not_move_it(make_rig):
    rig = make_rig()
    rig.robot.instruct("go")
    assert rig.configure() == "inactive" and rig.activate() == "active"
    rig.until_code("IDLE")
    assert all(np.array_equal(c.position_J, rig.robot.commands[0].position_J) for c in rig.robot.commands)


def test_activation_without_joint_states_is_refused(make_rig, capfd):
    rig = make_rig()
    rig.robot.joints_on = False
    assert rig.configure() == "inactive"
    rig.run(rig.node.trigger_activate)
    assert rig.node.label == "inactive"
    assert "joint" in capfd.readouterr().err


def test_row_55_activation_without_a_listener_is_refused_where_asked(make_rig, capfd):
    rig = make_rig(command__require_subscriber=True)
    assert rig.configure() == "inactive"
    rig.robot.run(lambda: rig.robot.node.destroy_subscription(rig.robot.command_subscription))
    rig.until(lambda: rig.node.interface.command_subscribers() == 0, "nobody listens")
    rig.run(rig.node.trigger_activate)
    assert rig.node.label == "inactive" and "nobody subscribes" in capfd.readouterr().err


def test_cleanup_frees_the_worker_and_the_shared_memory(make_rig):
    from pathlib import Path

    rig = make_rig()
    assert rig.configure() == "inactive"
    pid, name = rig.node.session.worker.pid, rig.node.session.link.name
    assert list(Path("/dev/shm").glob(f"{name}*"))
    rig.run(rig.node.trigger_cleanup)
    assert rig.node.label == "unconfigured"
    assert not Path(f"/proc/{pid}").exists() and not list(Path("/dev/shm").glob(f"{name}*"))
    assert rig.configure() == "inactive"


@pytest.mark.parametrize(
    "name, value", [("control_rate_hz", 0.0), ("inference.threads", 0), ("command.interface", "Wrench"), ("max_joint_age_s", -1.0)]
)
def test_row_57_bad_values_at_the_start_are_named_with_their_range(context, name, value):
    from rclpy.parameter import Parameter

    from vla_ros.core.errors import ConfigError
    from vla_ros.ros.policy_node import PolicyNode

    with pytest.raises(ConfigError, match=name):
        PolicyNode([Parameter(name, value=value)])


@pytest.mark.parametrize("interface", ["Float64MultiArray", "TwistStamped"])
def test_other_command_interfaces_are_published_where_asked(make_rig, interface):
    from geometry_msgs.msg import TwistStamped
    from std_msgs.msg import Float64MultiArray

    kind, seen = {"Float64MultiArray": Float64MultiArray, "TwistStamped": TwistStamped}[interface], []
    rig = make_rig(command__interface=interface)
    # A topic has one type in one process.
    rig.robot.run(lambda: rig.robot.node.destroy_subscription(rig.robot.command_subscription))
    rig.robot.node.create_subscription(kind, "command", seen.append, 10)
    assert rig.configure() == "inactive"
    rig.run(rig.node.trigger_activate)
    rig.until(lambda: len(seen) > 3, f"{interface} is published")
    if kind is Float64MultiArray:
        np.testing.assert_allclose(seen[-1].data, rig.description.home, atol=1e-6)
    else:
        assert seen[-1].header.frame_id == "base_link" and seen[-1].twist.linear.x == pytest.approx(0.0, abs=1e-6)


def test_compressed_pictures_are_decoded_and_corrupt_ones_dropped(make_rig):
    """Rows 19 and 20 over DDS: the same node on ``<camera>/image_raw/compressed``."""
    import cv2
    from sensor_msgs.msg import CompressedImage

    rig = make_rig(cameras__transport="compressed")
    publishers = {n: rig.robot.node.create_publisher(CompressedImage, f"{n}/image_raw/compressed", 1) for n in ("front", "wrist")}
    damage = []

    def compress(name, message):
        picture = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        data = cv2.imencode(".jpg", picture)[1].tobytes()
        packed = CompressedImage(format="jpeg", data=data[: len(data) // 2] if damage else data)
        packed.header = message.header
        publishers[name].publish(packed)

    rig.robot.alter_image = compress
    rig.start()
    damage.append(True)
    rig.until_code("IMAGE_LOST")
    rig.until(lambda: rig.node.session.link.figures().get("image_dropped.front.image_corrupt"), "the drop is counted")
    damage.clear()
    rig.until_code("ACTING")


def test_row_44_a_worker_that_dies_again_and_again_is_given_up(make_rig):
    import os
    import signal

    rig = make_rig()
    assert rig.configure() == "inactive" and rig.activate() == "active"
    session = rig.node.session
    for _ in range(6):  # idle, so that no answer comes in between
        pid = rig.until(lambda: session.worker.exit_code is None and session.worker.pid, "a worker runs")
        os.kill(pid, signal.SIGKILL)
        rig.until(lambda p=pid: session.gave_up or session.worker.pid != p, "it is replaced")
    rig.until(lambda: session.gave_up, "it is given up")
    rig.until_code("INFERENCE_FAILED")
    rig.run(rig.node.trigger_deactivate)
    rig.run(rig.node.trigger_cleanup)
    assert rig.configure() == "inactive", "a person can begin anew"


def test_row_24_a_changed_frame_id_is_a_warning(make_rig, capfd):
    rig = make_rig()
    rig.start()

    def rename(name, message):
        message.header.frame_id = "elsewhere"

    count = len(rig.robot.tokens)
    rig.robot.alter_image = rename
    rig.until(lambda: len(rig.robot.tokens) > count + 3, "inference goes on")
    assert "frame_id 'elsewhere'" in capfd.readouterr().err
