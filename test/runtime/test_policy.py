# SPDX-License-Identifier: Apache-2.0
"""Observation in, chunk out: decoding, waypoints, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.core import tabletop
from vla_ros.core.chunk import Reference
from vla_ros.core.errors import ConfigError, DecodeError, InputError, InstructionTooLong
from vla_ros.core.observation import Observation
from vla_ros.robot import Kinematics
from vla_ros.runtime.bundle import load_bundle
from vla_ros.runtime.policy import Policy, neighbourhood_probability

FIRST = 300


def still_bins():
    return np.tile(np.array([0, 128, 128, 128, 128, 255]), (5, 1))


def observe(robot, text="go", value=0, **changes):
    images = {c.name: np.full(c.shape, value, np.uint8) for c in tabletop.CAMERAS}
    stamps = {"front": 2000, "wrist": 1000}
    facts = {"images": images, "image_stamp_ns": stamps, "joint_positions": robot.home.copy(), "joint_stamp_ns": 1500}
    return Observation(**{**facts, "instruction": text, "generation": 7, **changes})


@pytest.fixture
def make_policy(bundle_writer, robot):
    return lambda *args, **kwargs: Policy(load_bundle(bundle_writer(*args, **kwargs)), robot)


def test_a_chunk_carries_stamp_generation_and_tokens(make_policy, robot):
    chunk = make_policy().infer(observe(robot))
    assert (chunk.obs_stamp_ns, chunk.generation, chunk.dt_ns) == (1000, 7, 200_000_000)
    np.testing.assert_array_equal(chunk.tokens_HD, still_bins() + FIRST)
    chunk.validate(7)
    assert chunk.inference_ns > 0 and not chunk.terminate_H.any()


def test_standing_still_stays_within_half_a_bin(make_policy, robot):
    chunk = make_policy().infer(observe(robot))
    kinematics = Kinematics(robot)
    start, _ = kinematics.fk(robot.home)
    half_bin_m = 0.5 / 256 / 2
    for waypoint in chunk.joint_positions_HJ:
        assert np.abs(kinematics.fk(waypoint)[0] - start).max() < half_bin_m + 1e-4  # the tolerance of the inverse kinematics
    np.testing.assert_allclose(chunk.joint_positions_HJ[:, 6], 0.042, atol=0.042 / 512 + 1e-12)


def test_relative_actions_become_absolute_waypoints(make_policy, robot):
    bins = still_bins()
    bins[:, 1] = 128 + 8 * np.arange(1, 6)
    bins[:, 4] = 170
    chunk = make_policy(bins).infer(observe(robot))
    kinematics = Kinematics(robot)
    start, _ = kinematics.fk(robot.home)
    xs = [kinematics.fk(q)[0][0] for q in chunk.joint_positions_HJ]
    np.testing.assert_allclose(xs, start[0] + chunk.actions_HD[:, 1], atol=2e-4)
    np.testing.assert_allclose([kinematics.tool_yaw(q) for q in chunk.joint_positions_HJ], chunk.actions_HD[:, 4], atol=2e-3)


def test_targets_are_clipped_to_the_workspace(make_policy, robot):
    bins = still_bins()
    bins[:, 3] = 0  # 0.25 m down, below the table
    chunk = make_policy(bins).infer(observe(robot))
    kinematics = Kinematics(robot)
    assert min(kinematics.fk(q)[0][2] for q in chunk.joint_positions_HJ) > robot.workspace_min[2] - 2e-4


def test_terminate_above_half(make_policy, robot):
    bins = still_bins()
    bins[3:, 0] = 255
    assert make_policy(bins).infer(observe(robot)).terminate_H.tolist() == [False, False, False, True, True]


def test_confidence_is_the_mass_of_the_bin_and_its_neighbours(make_policy, robot):
    expected = (np.exp(10) + 2 * np.exp(5)) / (np.exp(10) + 2 * np.exp(5) + 253)
    np.testing.assert_allclose(make_policy().infer(observe(robot)).confidence_HD[:, 1:5], expected, rtol=1e-6)


@pytest.mark.parametrize("chosen, expected", [(0, 2 / 4), (1, 3 / 4), (3, 2 / 4)])
def test_neighbourhood_at_the_edges(chosen, expected):
    assert neighbourhood_probability(np.zeros((1, 4), np.float32), np.array([chosen]))[0] == pytest.approx(expected)


def test_the_picture_reaches_the_graph(make_policy, robot):
    assert (make_policy().infer(observe(robot, value=255)).tokens_HD == FIRST + 200).all()


def test_the_plan_is_told_in_words(make_policy, robot):
    plan = make_policy().infer(observe(robot)).plan
    assert plan.split(" ")[0] in "abcd" and "x=" in plan and "m" in plan


def test_committed_steps_keep_their_tokens(make_policy, robot):
    prefix = np.full((5, 6), -1)
    prefix[0] = FIRST + np.array([0, 140, 128, 128, 128, 255])
    chunk = make_policy().infer(observe(robot), prefix)
    np.testing.assert_array_equal(chunk.tokens_HD[0], prefix[0])
    np.testing.assert_array_equal(chunk.tokens_HD[1:], still_bins()[1:] + FIRST)
    assert (chunk.confidence_HD[0] == 1.0).all()


def moved(robot, dx_m=0.0, dyaw=0.0, gripper=0.042):
    kinematics = Kinematics(robot)
    xyz, _ = kinematics.fk(robot.home)
    joints = kinematics.ik(xyz + [dx_m, 0.0, 0.0], kinematics.tool_yaw(robot.home) + dyaw, robot.home)
    joints[-1] = gripper
    return joints


@pytest.mark.parametrize("delay_ms, steps", [(0, 1), (199, 1), (200, 2), (450, 3), (5000, 3)])
def test_what_goes_on_until_the_answer_is_committed(make_policy, robot, delay_ms, steps):
    """The steps that are over by then, and the one under way; two stay free however late it is."""
    policy, observation = make_policy(), observe(robot)
    reference = Reference.at_rest(0, moved(robot, 0.05, 0.2, 0.01))
    prefix = policy.commit(observation, reference, observation.stamp_ns + delay_ms * 1_000_000)
    assert (prefix[:steps] >= FIRST).all() and (prefix[steps:] == -1).all()
    action = policy.manifest.action
    half_bin = (action.high_D - action.low_D) / 512
    chunk = policy.infer(observation, prefix)
    expected = np.array([0.0, 0.05, 0.0, 0.0, 0.2, 0.01])
    assert (np.abs(chunk.actions_HD[:steps] - expected) <= half_bin + 1e-4).all()
    assert chunk.committed == steps


def test_a_committed_step_is_where_the_reference_is_when_it_is_due(make_policy, robot):
    policy, observation = make_policy(), observe(robot)
    start, end = robot.home, moved(robot, 0.1)
    knots_ns = (observation.stamp_ns, observation.stamp_ns + 400_000_000)
    reference = Reference(knots_ns=knots_ns, positions_KJ=np.stack([start, end]), velocities_KJ=np.stack([(end - start) / 0.4] * 2))
    chunk = policy.infer(observation, policy.commit(observation, reference, observation.stamp_ns))
    kinematics = Kinematics(robot)
    halfway, _ = kinematics.fk((start + end) / 2)
    assert np.abs(kinematics.fk(chunk.joint_positions_HJ[0])[0] - halfway).max() < 0.5 / 512 + 1e-4


@pytest.mark.parametrize("token", [FIRST - 1, FIRST + 256, 0, -2])
def test_a_prefix_outside_the_action_vocabulary_is_refused(make_policy, robot, token):
    with pytest.raises(DecodeError, match="vocabulary"):
        make_policy().infer(observe(robot), np.full((5, 6), token))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(make_policy, robot, value):
    logits = np.zeros((30, 256), np.float32)
    logits[17, 3] = value
    with pytest.raises(DecodeError, match="finite"):
        make_policy(logits_NB=logits).infer(observe(robot))


def test_a_long_instruction_is_refused_with_the_limit(make_policy, robot):
    policy = make_policy()
    policy.infer(observe(robot, "x" * 23))
    with pytest.raises(InstructionTooLong, match="24") as error:
        policy.infer(observe(robot, "x" * 24))
    assert (error.value.length, error.value.limit, error.value.code) == (25, 24, "instruction_too_long")


def test_an_observation_that_does_not_fit_is_refused(make_policy, robot):
    policy = make_policy()
    with pytest.raises(InputError, match="wrist"):
        policy.infer(observe(robot, images={"front": np.zeros((128, 128, 3), np.uint8)}))
    with pytest.raises(InputError, match="finite"):
        policy.infer(observe(robot, joint_positions=np.full(7, np.nan)))


def test_proprio_is_in_the_manifests_order(make_policy, robot):
    policy = make_policy()
    xyz, _ = Kinematics(robot).fk(robot.home)
    np.testing.assert_allclose(policy.proprio(robot.home)[0], [*robot.home, *xyz, Kinematics(robot).tool_yaw(robot.home)], rtol=1e-6)


def set_robot(manifest):
    manifest["robot"] = "other_arm"


def set_joint(manifest):
    manifest["proprio"][2]["name"] = "knee_joint"


def set_frame(manifest):
    manifest["action"]["dims"][1]["frame"] = "world"


def set_roll(manifest):
    manifest["action"]["dims"][4]["name"] = "roll"


@pytest.mark.parametrize("change, text", [(set_robot, "other_arm"), (set_joint, "knee_joint"), (set_frame, "world"), (set_roll, "roll")])
def test_a_bundle_for_another_robot_is_refused(make_policy, change, text):
    with pytest.raises(ConfigError, match=text):
        make_policy(change=change)
