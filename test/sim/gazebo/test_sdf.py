# SPDX-License-Identifier: Apache-2.0
"""The Gazebo worlds say what MuJoCo's model says: masses, limits, shapes, colours, cameras, light. And the committed ones are up to date."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import mujoco
import numpy as np
import pytest

pytest.importorskip("mujoco")

from vla_ros.core.errors import ConfigError
from vla_ros.sim.gazebo import export, sdf, systems
from vla_ros.sim.gazebo.arm import read_links
from vla_ros.sim.gazebo.plan import ScenePlan, object_name
from vla_ros.sim.gazebo.xml import roll_pitch_yaw, rotation_of_quaternion, rotation_of_rpy
from vla_ros.sim.scene import BLOCK_HALF_SIZE, BLOCK_MASS_KG, CAMERA_SIZE

SEED = 3
LUMPED = {"hand_link": ("hand_link", "tool_link", "wrist_camera_link", "wrist_camera_optical_frame")}


@pytest.fixture(scope="module")
def plan():
    plan = ScenePlan(randomize_look=1.0)
    plan.reset(SEED, settle=False)
    yield plan
    plan.close()


@pytest.fixture(scope="module", params=sorted(sdf.DIALECTS))
def world(plan, request):
    return ET.fromstring(sdf.world_sdf(plan, request.param)).find("world")


def numbers(element: ET.Element, path: str) -> np.ndarray:
    return np.array([float(v) for v in element.find(path).text.split()])


def pose(element: ET.Element) -> tuple[np.ndarray, np.ndarray]:
    values = numbers(element, "pose")
    return values[:3], rotation_of_rpy(values[3:])


# ---- the committed files ----


@pytest.mark.parametrize("name", export.FILES.values())
def test_committed_worlds_are_up_to_date(name):
    text = export.export()[name]
    assert export.is_up_to_date(export.default_folder() / name, text), "run: vla sim export-sdf"


def test_a_changed_number_is_out_of_date_and_its_last_digits_are_not(tmp_path):
    (tmp_path / "world").write_text("<mass>0.35</mass>", encoding="utf-8")
    assert export.is_up_to_date(tmp_path / "world", "<mass>0.350000004</mass>")
    assert not export.is_up_to_date(tmp_path / "world", "<mass>0.351</mass>")
    assert not export.is_up_to_date(tmp_path / "world", "<mass>0.35</mass><mass>1</mass>")
    assert not export.is_up_to_date(tmp_path / "none", "<mass>0.35</mass>")


def test_the_command_writes_checks_and_refuses(tmp_path, capsys):
    assert export.main(["--output", str(tmp_path), "--check"]) == 1
    assert "vla sim export-sdf" in capsys.readouterr().err
    assert export.main(["--output", str(tmp_path)]) == 0
    assert export.main(["--output", str(tmp_path), "--check"]) == 0
    with pytest.raises(SystemExit) as stop:
        export.main(["--look", "2"])
    assert stop.value.code == 2


def test_an_unknown_dialect_is_refused_with_the_known_ones(plan):
    with pytest.raises(ConfigError, match="classic, sim"):
        sdf.world_sdf(plan, "harmonic")


# ---- the arm ----


def test_links_have_mujocos_masses_and_places(plan, world):
    arm = world.find("model[@name='arm']")
    zero = mujoco.MjData(plan.model)
    mujoco.mj_kinematics(plan.model, zero)
    for link in arm.findall("link"):
        name = link.get("name")
        bodies = [plan.model.body(n).id for n in LUMPED.get(name, (name,))]
        assert numbers(link, "inertial/mass") == pytest.approx(sum(plan.model.body_mass[b] for b in bodies))
        position, rotation = pose(link)
        np.testing.assert_allclose(position, zero.xpos[bodies[0]], atol=1e-6)
        np.testing.assert_allclose(rotation, zero.xmat[bodies[0]].reshape(3, 3), atol=1e-6)
        centre = sum(plan.model.body_mass[b] * zero.xipos[b] for b in bodies) / plan.model.body_mass[bodies].sum()
        np.testing.assert_allclose(position + rotation @ numbers(link, "inertial/pose")[:3], centre, atol=1e-6)


def test_merged_links_keep_their_moment_of_inertia(plan):
    """About the base's origin the sum over MuJoCo's bodies is the same as over the merged links."""
    zero = mujoco.MjData(plan.model)
    mujoco.mj_kinematics(plan.model, zero)
    mujoco.mj_comPos(plan.model, zero)

    def about_origin(mass, centre, tensor):
        return tensor + mass * (centre @ centre * np.eye(3) - np.outer(centre, centre))

    links = read_links(ET.parse(plan.robot.urdf_path).getroot()).values()
    merged = sum(about_origin(k.mass, k.position + k.rotation @ k.centre, k.rotation @ k.inertia @ k.rotation.T) for k in links)
    separate = np.zeros((3, 3))
    for b in range(1, 1 + plan.model.body("wrist_camera_optical_frame").id):
        axes = zero.ximat[b].reshape(3, 3)
        separate += about_origin(plan.model.body_mass[b], zero.xipos[b], axes @ np.diag(plan.model.body_inertia[b]) @ axes.T)
    np.testing.assert_allclose(merged, separate, rtol=1e-5, atol=1e-9)


def test_inertias_are_possible_ones(world):
    """The triangle inequality of principal moments; libsdformat refuses others."""
    for inertia in world.iter("inertia"):
        i = {part.tag: float(part.text) for part in inertia}
        tensor = np.array([[i["ixx"], i["ixy"], i["ixz"]], [i["ixy"], i["iyy"], i["iyz"]], [i["ixz"], i["iyz"], i["izz"]]])
        a, b, c = np.sort(np.linalg.eigvalsh(tensor))
        assert a > 0 and a + b >= c * (1 - 1e-6)


def test_joints_have_mujocos_limits_axes_and_servos(plan, world):
    arm, servos = world.find("model[@name='arm']"), plan.servos()
    joints = {j.get("name"): j for j in arm.findall("joint") if j.get("type") != "fixed"}
    assert set(joints) == set(servos) == {*plan.robot.joint_names, "right_finger_joint"}
    for name, joint in joints.items():
        number = plan.model.joint(name).id
        limits = [float(joint.find(f"axis/limit/{k}").text) for k in ("lower", "upper")]
        np.testing.assert_allclose(limits, plan.model.jnt_range[number])
        assert float(joint.find("axis/limit/effort").text) == plan.model.jnt_actfrcrange[number][1]
        np.testing.assert_allclose(numbers(joint, "axis/xyz"), plan.model.jnt_axis[number])
        assert float(joint.find("axis/dynamics/damping").text) == pytest.approx(servos[name].damping)


def test_both_fingers_together_are_as_strong_as_mujocos_one_actuator(plan):
    servos, gain = plan.servos(), plan.model.actuator("gripper_joint").gainprm[0]
    assert sum(servos[n].stiffness for n in ("gripper_joint", "right_finger_joint")) == pytest.approx(gain)


# ---- the scene ----


def test_objects_have_mujocos_shapes_colours_masses_and_places(plan, world):
    assert plan.objects()
    for ref, body in plan.objects().items():
        model = world.find(f"model[@name='{object_name(ref)}']")
        position, rotation = pose(model)
        np.testing.assert_allclose(position, plan.data.xpos[body], atol=1e-6)
        np.testing.assert_allclose(rotation, plan.data.xmat[body].reshape(3, 3), atol=1e-6)
        first, count = plan.model.body_geomadr[body], plan.model.body_geomnum[body]
        visuals = model.findall("link/visual")
        assert len(visuals) == len(model.findall("link/collision")) == count
        for number, visual in zip(range(first, first + count), visuals):
            np.testing.assert_allclose(numbers(visual, "material/diffuse"), plan.model.geom_rgba[number], atol=1e-6)
            np.testing.assert_allclose(numbers(visual, "material/ambient"), plan.model.geom_rgba[number], atol=1e-6)
            np.testing.assert_allclose(pose(visual)[0], plan.model.geom_pos[number], atol=1e-6)
            np.testing.assert_allclose(pose(visual)[1], rotation_of_quaternion(plan.model.geom_quat[number]), atol=1e-6)


@pytest.mark.parametrize("kind", BLOCK_HALF_SIZE)
def test_blocks_have_the_size_of_the_scene(kind):
    plan = ScenePlan()
    seed = next(s for s in range(50) if any(r.kind == kind for r in (plan.reset(s, settle=False), *plan.objects())[1:]))
    ref = next(r for r in plan.objects() if r.kind == kind)
    model = ET.fromstring(sdf.world_sdf(plan, "classic")).find(f"world/model[@name='{object_name(ref)}']")
    assert float(model.find("link/inertial/mass").text) == BLOCK_MASS_KG, seed
    half, collision = np.array(BLOCK_HALF_SIZE[kind]), model.find("link/collision/geometry")
    if kind == "cylinder":
        assert float(collision.find("cylinder/radius").text) == pytest.approx(half[0])
        assert float(collision.find("cylinder/length").text) == pytest.approx(2 * half[2])
    else:
        np.testing.assert_allclose(numbers(collision, "box/size"), 2 * half)


def test_table_lines_and_floor_are_there(plan, world):
    for name in ("table", "left_line", "right_line"):
        visual = world.find(f"model[@name='table']/link/visual[@name='{name}_visual']")
        number = plan.model.geom(name).id
        np.testing.assert_allclose(numbers(visual, "geometry/box/size"), 2 * plan.model.geom_size[number], atol=1e-6)
        np.testing.assert_allclose(numbers(visual, "material/diffuse"), plan.model.geom_rgba[number], atol=1e-6)
    assert world.find("model[@name='table']/link/collision[@name='left_line_collision']") is None
    assert world.find("model[@name='floor']/link/collision/geometry/plane") is not None


@pytest.mark.parametrize("camera", CAMERA_SIZE)
def test_cameras_see_a_point_where_mujocos_do(plan, world, camera):
    """Projects points by the SDF's numbers alone and compares them with MuJoCo's own projection."""
    sensor = next(s for s in world.iter("sensor") if s.get("name") == camera)
    position, rotation = pose(sensor)
    if camera == "wrist":
        hand = plan.model.body("hand_link").id
        base_from_hand = plan.data.xmat[hand].reshape(3, 3)
        position, rotation = plan.data.xpos[hand] + base_from_hand @ position, base_from_hand @ rotation
    width, height = (int(sensor.find(f"camera/image/{k}").text) for k in ("width", "height"))
    assert (height, width) == CAMERA_SIZE[camera]
    focal = 0.5 * width / np.tan(0.5 * float(sensor.find("camera/horizontal_fov").text))
    for point in ([0.30, 0.0, 0.0], [0.40, 0.15, 0.02], [0.25, -0.12, 0.05]):
        forward, left, up = rotation.T @ (np.array(point) - position)
        u, v = 0.5 - focal * left / forward / width, 0.5 - focal * up / forward / height
        np.testing.assert_allclose([u, v], plan.project(camera, np.array(point)), atol=1e-5)


def test_clip_planes_are_mujocos(plan, world):
    for clip in world.iter("clip"):
        scale = plan.model.stat.extent
        assert float(clip.find("near").text) == pytest.approx(plan.model.vis.map.znear * scale, rel=1e-5)
        assert float(clip.find("far").text) == pytest.approx(plan.model.vis.map.zfar * scale, rel=1e-5)


def test_light_is_the_scenes(plan, world):
    key = world.find("light[@name='key']")
    np.testing.assert_allclose(numbers(key, "diffuse")[:3], plan.model.light_diffuse[0], atol=1e-6)
    np.testing.assert_allclose(numbers(key, "direction"), plan.model.light_dir[0], atol=1e-6)
    np.testing.assert_allclose(pose(key)[0], plan.model.light_pos[0], atol=1e-6)
    np.testing.assert_allclose(numbers(world, "scene/ambient")[:3], plan.model.vis.headlight.ambient, atol=1e-6)


def test_spot_falls_off_as_mujocos():
    """OGRE's cone against MuJoCo's cos^10 where the table lies."""
    half = 0.5 * sdf._SPOT_OUTER_RAD
    for angle in np.deg2rad([0, 5, 10, 20, 30, 40]):
        cone = ((np.cos(angle) - np.cos(half)) / (1.0 - np.cos(half))) ** sdf._SPOT_FALLOFF
        assert cone == pytest.approx(np.cos(angle) ** 10, abs=0.05)


def test_another_seed_and_look_make_another_world(plan):
    first = sdf.world_sdf(plan, "classic")
    other = ScenePlan(randomize_look=0.0)
    other.reset(SEED, settle=False)
    assert first != sdf.world_sdf(other, "classic")


# ---- Gazebo Sim's systems ----


def test_every_joint_has_a_controller_that_starts_at_home(plan):
    world = ET.fromstring(sdf.world_sdf(plan, "sim")).find("world")
    plugins = [p for p in world.find("model[@name='arm']").findall("plugin") if p.get("name").endswith("JointPositionController")]
    found = {p.find("joint_name").text: p for p in plugins}
    assert set(found) == set(plan.servos())
    home = dict(zip(plan.robot.joint_names, plan.robot.home))
    for joint, plugin in found.items():
        assert plugin.find("topic").text == systems.position_topic(joint)
        assert float(plugin.find("initial_position").text) == pytest.approx(home.get(joint, plan.robot.gripper_open))


def test_roll_pitch_yaw_is_the_inverse_of_its_rotation():
    rng = np.random.default_rng(0)
    for rpy in [*rng.uniform(-3, 3, (50, 3)), [0.3, np.pi / 2, 0.0], [0.0, -np.pi / 2, 1.0]]:
        rotation = rotation_of_rpy(np.array(rpy))
        np.testing.assert_allclose(rotation_of_rpy(roll_pitch_yaw(rotation)), rotation, atol=1e-8)
