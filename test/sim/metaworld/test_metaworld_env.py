# SPDX-License-Identifier: Apache-2.0
"""The benchmark behind the tabletop's interface: what moves, what is seen, what counts, and what a policy never gets to know."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

pytest.importorskip("metaworld")

from vla_ros.closed_loop import observe
from vla_ros.core.embodiment import METAWORLD, METAWORLD_HORIZON_STEPS
from vla_ros.robot import Kinematics
from vla_ros.sim.metaworld import camera
from vla_ros.sim.metaworld.benchmark import make_benchmark, scene_seed
from vla_ros.sim.metaworld.env import MetaWorldEnv, action_towards, effort, gripper_position
from vla_ros.sim.metaworld.expert import ScriptedExpert
from vla_ros.sim.metaworld.tasks import MetaWorldTask


@pytest.fixture(scope="module")
def env():
    env = MetaWorldEnv("drawer-open-v3")
    yield env
    env.close()


@pytest.fixture(scope="module")
def expert(env):
    return ScriptedExpert(env)


def test_one_seed_is_one_scene_and_another_seed_another(env):
    env.reset(3)
    first, words = env.privileged.copy(), env.instruction
    env.reset(4)
    assert not np.array_equal(env.privileged, first)
    env.reset(3)
    np.testing.assert_array_equal(env.privileged, first)
    assert env.instruction == words


def test_tasks_do_not_share_the_scenes_of_a_seed():
    assert len({scene_seed(task, 7) for task in ("push-v3", "pick-place-v3", "reach-v3")}) == 3


def test_an_action_is_what_the_benchmark_does_and_no_more(env):
    env.reset(1)
    start = env.hand_target()
    env.step(np.array([*(start + [0.5, 0.0, 0.004]), 0.05]))
    np.testing.assert_allclose(env.hand_target() - start, [0.01, 0.0, 0.004], atol=1e-9)
    assert env.time_ns == 12_500_000


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.6, 1.0])
def test_effort_and_gripper_position_are_inverse(value):
    assert effort(gripper_position(value)) == pytest.approx(value)
    assert action_towards(np.zeros(3), np.array([0, 0, 0, gripper_position(value)]))[3] == pytest.approx(value)


@pytest.mark.parametrize("targets", [np.zeros(3), np.full(4, np.nan)])
def test_wrong_targets_are_refused(env, targets):
    with pytest.raises(ValueError, match="4 finite"):
        env.step(targets)


def test_the_tool_of_the_robot_description_is_the_hand(env):
    seen = env.reset(2)
    np.testing.assert_allclose(Kinematics(env.robot).fk(seen.joint_positions_J)[0], seen.joint_positions_J[:3], atol=1e-12)


def test_a_policy_is_told_nothing_that_its_camera_its_hand_and_its_fingers_do_not_tell(env):
    """Goal, object and everything else of the simulator's state may change as they like: what a policy gets besides the picture stays."""
    env.reset(5)
    before = observe(env, METAWORLD.cameras, env.instruction)
    assert set(before.images) == {"corner2"} and before.images["corner2"].shape == METAWORLD.cameras[0].shape
    assert before.joint_positions.shape == (4,)
    env.privileged += 1.0
    env.benchmark._target_pos += 0.1
    env.benchmark.model.body("drawer").pos[0] += 0.1
    mujoco.mj_forward(env.benchmark.model, env.benchmark.data)
    after = observe(env, METAWORLD.cameras, env.instruction)
    np.testing.assert_array_equal(after.joint_positions, before.joint_positions)
    assert not np.array_equal(after.images["corner2"], before.images["corner2"])  # the drawer is seen where it is


def test_the_window_is_cut_out_of_the_public_picture(env):
    env.reset(1)
    window = env.render("corner2")
    benchmark = make_benchmark("drawer-open-v3")
    benchmark.seed(scene_seed("drawer-open-v3", 1))
    model, data = benchmark.model, benchmark.data
    model.cam_pos[model.camera("corner2").id] = camera.POSITION_M
    model.vis.quality.offsamples = 0
    benchmark.reset()
    mujoco.mj_forward(model, data)
    renderer = mujoco.Renderer(model, camera.FULL_SIZE, camera.FULL_SIZE)
    renderer.update_scene(data, "corner2")
    renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
    whole = np.flip(renderer.render(), (0, 1))
    renderer.close()
    cut = whole[camera.WINDOW_TOP :, camera.WINDOW_LEFT :][: camera.WINDOW_SIZE, : camera.WINDOW_SIZE]
    difference = np.abs(cut.astype(int) - window)
    assert np.mean(difference > 2) < 0.01  # rounding at edges


def test_a_point_is_drawn_where_it_is_projected(env):
    env.reset(1)
    before = env.render("corner2").astype(int)
    model, site = env.benchmark.model, env.benchmark.model.site("goal").id
    uv = env.project("corner2", env.benchmark.data.site_xpos[site])
    model.site_rgba[site, 3] = 0.0
    try:
        changed = np.argwhere(np.abs(env.render("corner2") - before).max(axis=2) > 20)
    finally:
        model.site_rgba[site, 3] = 1.0
    np.testing.assert_allclose(changed.mean(axis=0)[::-1] / camera.WINDOW_SIZE, uv, atol=0.01)


def test_success_is_the_benchmarks_flag_within_its_horizon(env, expert):
    env.reset(1)
    for _ in range(METAWORLD_HORIZON_STEPS):
        env.act(expert.action())
        if env.success():
            break
    assert env.success() and env.time_ns < METAWORLD_HORIZON_STEPS * 12_500_000
    env.set_task(MetaWorldTask("drawer-close-v3"), "close the drawer")
    assert not env.success()


def test_what_comes_after_the_horizon_does_not_count(env, expert):
    env.reset(1)
    env._steps = METAWORLD_HORIZON_STEPS
    for _ in range(120):
        env.act(expert.action())
    assert not env.success()


def test_an_experts_chunk_is_what_it_then_does_and_leaves_the_scene_alone(env, expert):
    start = env.reset(2).joint_positions_J[:3]
    state = env.benchmark.data.qpos.copy()
    chunk_HD = expert.chunk(np.zeros((0, 4)))
    np.testing.assert_array_equal(env.benchmark.data.qpos, state)
    for action_D in chunk_HD:
        for _ in range(2):
            action = expert.action()
            env.act(action)
        np.testing.assert_allclose([*(env.hand_target() - start), gripper_position(action[3])], action_D, atol=1e-9)


def test_a_chunk_goes_on_from_its_committed_steps(env, expert):
    env.reset(2)
    committed_PD = np.array([[0.0, 0.01, 0.0, 0.05], [0.0, 0.02, 0.0, 0.05]])
    chunk_HD = expert.chunk(committed_PD)
    np.testing.assert_array_equal(chunk_HD[:2], committed_PD)
    assert np.abs(chunk_HD[2, :3] - committed_PD[1, :3]).max() <= 0.02 + 1e-9  # no farther than the target can go in 25 ms
