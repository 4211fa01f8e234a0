# SPDX-License-Identifier: Apache-2.0
"""A Gazebo world of one planned scene, for Gazebo Classic 11 and for Gazebo Sim.

The arm comes from the URDF; table, objects, cameras, light and colours from the compiled MuJoCo scene.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

import mujoco
import numpy as np

from vla_ros.core.errors import ConfigError
from vla_ros.sim.gazebo.arm import add_friction, add_material, arm_model
from vla_ros.sim.gazebo.plan import ScenePlan, gazebo_camera_pose, object_name
from vla_ros.sim.gazebo.systems import add_arm_systems, add_camera_topics, add_finger_contacts, add_world_systems
from vla_ros.sim.gazebo.xml import add, add_inertial, add_pose, rotation_of_quaternion, write
from vla_ros.sim.scene import CAMERA_FOVY_DEG, CAMERA_SIZE

WORLD_NAME = "tabletop"
DIALECTS = {"classic": "1.6", "sim": "1.9"}  # SDFormat versions
TIMESTEP_S = 0.002  # as in MuJoCo
IMAGE_RATE_HZ = 15.0
# MuJoCo's spot falls off with the tenth power of the angle's cosine; this cone is within 0.04 of it up to 40 degrees.
_SPOT_OUTER_RAD, _SPOT_FALLOFF = 1.75, 3.3
_HAND = "hand_link"  # carries the wrist camera
_STATIC = ("floor", "table")
_FAR_M = 20.0


def world_sdf(plan: ScenePlan, dialect: str, image_rate_hz: float = IMAGE_RATE_HZ, max_realtime_factor: float = 1.0) -> str:
    """The world as text.

    Args:
        plan: a scene that has been laid out with ``reset``.
        dialect: ``classic`` (Gazebo Classic 11) or ``sim`` (Gazebo Sim: Fortress, Harmonic, Ionic and newer).
        image_rate_hz: pictures of each camera a second of simulated time.
        max_realtime_factor: how much faster than the wall clock it may run.

    Raises:
        ConfigError: an unknown dialect.
    """
    if dialect not in DIALECTS:
        raise ConfigError(f"no SDF dialect '{dialect}'; there are {', '.join(DIALECTS)}")
    root = ET.Element("sdf", version=DIALECTS[dialect])
    world = add(root, "world", name=WORLD_NAME)
    _add_physics(world, dialect, max_realtime_factor)
    _add_light(world, plan)
    _add_static(world, plan.model)
    arm = arm_model(plan)
    _add_camera(arm.find(f"link[@name='{_HAND}']"), plan, "wrist", dialect, image_rate_hz)
    world.append(arm)
    front = add(world, "model", name="front_camera")
    add(front, "static", True)
    _add_camera(add(front, "link", name="link"), plan, "front", dialect, image_rate_hz)
    for ref, body in plan.objects().items():
        world.append(object_model(plan, body, object_name(ref)))
    if dialect == "sim":
        add_world_systems(world)
        add_arm_systems(arm, plan)
        add_finger_contacts(arm)
    else:
        _add_start(world, plan)
    return write(root)


def _add_physics(world: ET.Element, dialect: str, max_realtime_factor: float) -> None:
    physics = add(world, "physics", name="default", type="ode")
    add(physics, "max_step_size", TIMESTEP_S)
    add(physics, "real_time_factor", max_realtime_factor)
    add(physics, "real_time_update_rate", round(max_realtime_factor / TIMESTEP_S))
    if dialect == "classic":
        add(physics, "ode/solver/type", "quick")
        add(physics, "ode/solver/iters", 100)
        add(physics, "ode/solver/sor", 1.3)
        for name, value in (("cfm", 0.0), ("erp", 0.2), ("contact_max_correcting_vel", 0.1), ("contact_surface_layer", 0.0002)):
            add(physics, f"ode/constraints/{name}", value)


def _add_light(world: ET.Element, plan: ScenePlan) -> None:
    """The scene's lamp, and in place of MuJoCo's headlight a lamp that shines along the front camera's view."""
    model = plan.model
    scene = add(world, "scene")
    add(scene, "ambient", [*model.vis.headlight.ambient, 1.0])
    add(scene, "background", [0.0, 0.0, 0.0, 1.0])
    add(scene, "grid", False)
    add(scene, "shadows", False)
    key = _lamp(world, "key", "spot", model.light_diffuse[0], model.light_specular[0], model.light_dir[0])
    add_pose(key, model.light_pos[0])
    for name, value in (("inner_angle", 0.0), ("outer_angle", _SPOT_OUTER_RAD), ("falloff", _SPOT_FALLOFF)):
        add(key, f"spot/{name}", value)
    position, rotation = gazebo_camera_pose(model, plan.data, "front")
    headlight = _lamp(world, "headlight", "directional", model.vis.headlight.diffuse, model.vis.headlight.specular, rotation[:, 0])
    add_pose(headlight, position)


def _lamp(world: ET.Element, name: str, kind: str, diffuse: np.ndarray, specular: np.ndarray, direction: np.ndarray) -> ET.Element:
    lamp = add(world, "light", name=name, type=kind)
    add(lamp, "diffuse", [*diffuse, 1.0])
    add(lamp, "specular", [*specular, 1.0])
    add(lamp, "direction", direction)
    add(lamp, "cast_shadows", False)
    for key, value in (("range", _FAR_M), ("constant", 1.0), ("linear", 0.0), ("quadratic", 0.0)):
        add(lamp, f"attenuation/{key}", value)
    return lamp


def _add_static(world: ET.Element, model: mujoco.MjModel) -> None:
    """Floor, table and the lines on it: the geoms of MuJoCo's world body."""
    for body in _STATIC:
        element = add(world, "model", name=body)
        add(element, "static", True)
        link = add(element, "link", name="link")
        for number in range(model.body_geomadr[0], model.body_geomadr[0] + model.body_geomnum[0]):
            is_floor = model.geom_type[number] == mujoco.mjtGeom.mjGEOM_PLANE
            if is_floor == (body == "floor"):
                _add_geom(link, model, number, model.geom(number).name)


def object_model(plan: ScenePlan, body: int, name: str) -> ET.Element:
    """A block or container where it stands in the plan."""
    model = plan.model
    element = ET.Element("model", name=name)
    add_pose(element, plan.data.xpos[body], plan.data.xmat[body].reshape(3, 3))
    link = add(element, "link", name="link")
    axes = rotation_of_quaternion(model.body_iquat[body])
    add_inertial(link, float(model.body_mass[body]), model.body_ipos[body], axes @ np.diag(model.body_inertia[body]) @ axes.T)
    first = model.body_geomadr[body]
    for number in range(first, first + model.body_geomnum[body]):
        _add_geom(link, model, number, f"part_{number - first}")
    return element


def _add_geom(link: ET.Element, model: mujoco.MjModel, number: int, name: str) -> None:
    tags = ("visual", "collision") if model.geom_contype[number] else ("visual",)
    for tag in tags:
        part = add(link, tag, name=f"{name}_{tag}")
        add_pose(part, model.geom_pos[number], rotation_of_quaternion(model.geom_quat[number]))
        _add_shape(part, model.geom_type[number], model.geom_size[number])
        if tag == "visual":
            add_material(part, model.geom_rgba[number])
        else:
            add_friction(part, float(model.geom_friction[number][0]))


def _add_shape(part: ET.Element, kind: int, size: np.ndarray) -> None:
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        add(part, "geometry/box/size", 2.0 * size)
    elif kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        add(part, "geometry/cylinder/radius", size[0])
        add(part, "geometry/cylinder/length", 2.0 * size[1])
    elif kind == mujoco.mjtGeom.mjGEOM_PLANE:
        add(part, "geometry/plane/normal", [0.0, 0.0, 1.0])
        add(part, "geometry/plane/size", 2.0 * size[:2])
    else:
        raise ConfigError(f"the scene has a geom of type {kind}: export-sdf knows box, cylinder and plane")


def _add_camera(link: ET.Element, plan: ScenePlan, name: str, dialect: str, rate_hz: float) -> None:
    position, rotation = gazebo_camera_pose(plan.model, plan.data, name)
    if name == "wrist":  # fixed to the hand
        hand = plan.model.body(_HAND).id
        hand_from_base = plan.data.xmat[hand].reshape(3, 3).T
        position, rotation = hand_from_base @ (position - plan.data.xpos[hand]), hand_from_base @ rotation
    sensor = add(link, "sensor", name=name, type="camera")
    add_pose(sensor, position, rotation)
    add(sensor, "always_on", True)
    add(sensor, "update_rate", rate_hz)
    height, width = CAMERA_SIZE[name]
    camera = add(sensor, "camera", name=name)
    vertical = np.deg2rad(CAMERA_FOVY_DEG[name])
    add(camera, "horizontal_fov", 2.0 * np.arctan(np.tan(vertical / 2) * width / height))
    for key, value in (("width", width), ("height", height), ("format", "R8G8B8")):
        add(camera, f"image/{key}", value)
    visual, extent = plan.model.vis.map, plan.model.stat.extent  # MuJoCo's planes are in units of the scene's extent
    for key, value in (("near", visual.znear * extent), ("far", visual.zfar * extent)):
        add(camera, f"clip/{key}", value)
    if dialect == "sim":
        add_camera_topics(sensor, name)


def _add_start(world: ET.Element, plan: ScenePlan) -> None:
    """Gazebo Classic's way to begin with the arm at home: the world poses of its links."""
    state = add(world, "state", world_name=WORLD_NAME)
    for name in ("sim_time", "real_time", "wall_time"):
        add(state, name, "0 0")
    add(state, "iterations", 0)
    model = add(state, "model", name="arm")
    add_pose(model, np.zeros(3))
    for link in world.findall("model[@name='arm']/link"):
        body = plan.model.body(link.get("name")).id
        element = add(model, "link", name=link.get("name"))
        add_pose(element, plan.data.xpos[body], plan.data.xmat[body].reshape(3, 3))
