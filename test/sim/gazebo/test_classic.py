# SPDX-License-Identifier: Apache-2.0
"""The tabletop in a real Gazebo Classic 11, in lockstep, with rendered cameras, beside MuJoCo. ``make gazebo-test`` sets it up."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

pytest.importorskip("zmq", reason="needs pyzmq (extra gazebo)")

from vla_ros.closed_loop import ClosedLoop, EpisodeSpec
from vla_ros.core.paths import bundle_dir
from vla_ros.core.tabletop import CAMERAS
from vla_ros.expert_policy import ExpertPolicy
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.gazebo.classic_transport import GazeboError
from vla_ros.sim.gazebo.env import GazeboTabletop
from vla_ros.sim.tasks import FAMILIES

pytestmark = [pytest.mark.gazebo, pytest.mark.slow]
SEED = 7


@pytest.fixture(scope="module")
def gazebo():
    env = GazeboTabletop()
    yield env
    env.close()


@pytest.fixture(scope="module")
def mujoco():
    env = TabletopEnv()
    yield env
    env.close()


@pytest.fixture
def both(gazebo, mujoco):
    gazebo.reset(SEED)
    mujoco.reset(SEED)
    for _ in range(10):  # as long as Gazebo's scene settles
        mujoco.step(mujoco.robot.home)
    return gazebo, mujoco


def test_the_scene_of_a_seed_is_mujocos(both):
    gazebo, mujoco = both
    assert (gazebo.task, gazebo.instruction) == (mujoco.task, mujoco.instruction)
    ours, theirs = gazebo.world_state().objects, mujoco.world_state().objects
    assert set(ours) == set(theirs)
    for ref, state in ours.items():
        np.testing.assert_allclose(state.position, theirs[ref].position, atol=1e-3)
        assert state.yaw == pytest.approx(theirs[ref].yaw, abs=0.01)
        assert state.speed < 0.01 and not state.touched_by
    assert set(gazebo.feasible_tasks()) == set(mujoco.feasible_tasks())


def test_the_cameras_show_what_mujocos_show(both):
    """Front: the same lamps, so the same picture but for the edges. Wrist: MuJoCo's headlight goes with the camera, which no world can say."""
    gazebo, mujoco = both
    ours, theirs = gazebo.observe().images, mujoco.observe().images
    for camera, mean_levels, wrong in (("front", 5.0, 0.02), ("wrist", 25.0, 0.05)):
        difference = np.abs(ours[camera].astype(float) - theirs[camera]).max(axis=2)
        assert difference.mean() < mean_levels, camera
        assert (difference > 64).mean() < wrong, f"{camera}: something stands elsewhere or is missing"


def test_the_arm_follows_as_mujocos_does(both):
    """A motion inside the joints' limits; the lag of both servos is the same to a hundredth of a radian."""
    gazebo, mujoco = both
    swing = np.array([0.3, 0.2, -0.2, 0.2, 0.3, 0.3, -0.015])
    worst = np.zeros(7)
    for period in range(100):
        target = gazebo.robot.home + swing * (1 - np.cos(period * 0.04)) / 2
        gazebo.step(target)
        mujoco.step(target)
        ours, theirs = (env.observe(cameras=False) for env in both)
        worst = np.maximum(worst, np.abs(ours.joint_positions_J - theirs.joint_positions_J))
    assert worst[:6].max() < 0.015 and worst[6] < 0.001, worst
    np.testing.assert_allclose(ours.joint_velocities_J, theirs.joint_velocities_J, atol=0.1)


def test_time_goes_on_by_steps_and_pictures_belong_to_their_instant(gazebo):
    gazebo.reset(SEED)
    for _ in range(20):
        before = gazebo.time_ns
        gazebo.step(gazebo.robot.home)
        assert 20_000_000 <= gazebo.time_ns - before <= 24_000_000  # one step more where a message was lost
        seen = gazebo.observe()
        assert seen.stamp_ns <= gazebo.time_ns < seen.stamp_ns + 46_000_000
        assert set(seen.images) == {camera.name for camera in CAMERAS}


def test_targets_that_are_no_numbers_are_refused(gazebo):
    gazebo.reset(SEED)
    with pytest.raises(ValueError, match="7 finite joint targets"):
        gazebo.step(np.full(7, np.nan))
    with pytest.raises(ValueError, match="7 finite joint targets"):
        gazebo.step(np.zeros(6))


@pytest.mark.parametrize(("seed", "family"), list(enumerate(FAMILIES)))
def test_the_expert_succeeds_by_gazebos_ground_truth(gazebo, seed, family):
    loop = ClosedLoop(env=gazebo, policy=ExpertPolicy(gazebo), cameras=())
    result = loop.run(EpisodeSpec(seed=seed, family=family))
    assert result.family == family and result.success, result.reason


def test_an_arm_that_rests_succeeds_in_nothing(gazebo):
    gazebo.reset(2, family="pick")
    for _ in range(60):
        gazebo.step(gazebo.robot.home)
    assert not gazebo.success()


def test_the_shipped_policy_acts_from_gazebos_pictures(gazebo):
    """Trained in MuJoCo alone. At the rates of docs/gazebo.md (87 % of all, stack 65 %) a round of five has two failures or more in 11 of 100 runs,
    so two mean two rounds more. This fails once in 300 runs at those rates, and in 74 of 100 for a policy that succeeds half of the time.
    """
    pytest.importorskip("onnxruntime")
    from vla_ros.runtime.bundle import load_bundle
    from vla_ros.runtime.policy import Policy

    bundle = load_bundle(bundle_dir("tabletop"))
    loop = ClosedLoop(env=gazebo, policy=Policy(bundle, gazebo.robot), cameras=bundle.manifest.cameras)

    def rounds(first: int, last: int):
        return [loop.run(EpisodeSpec(seed=5 * number + k, family=family)) for number in range(first, last) for k, family in enumerate(FAMILIES)]

    results = rounds(0, 1)
    if sum(result.success for result in results) < 4:
        results += rounds(1, 3)
    needed = 4 if len(results) == 5 else 10
    assert sum(result.success for result in results) >= needed, [(r.instruction, r.reason) for r in results]


def test_a_server_that_dies_is_named():
    env = GazeboTabletop()
    try:
        env.reset(SEED)
        os.kill(env._server.pid, signal.SIGKILL)
        with pytest.raises(GazeboError, match="ended"):
            for _ in range(5):
                env.step(env.robot.home)
    finally:
        env.close()
