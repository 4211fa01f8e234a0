# SPDX-License-Identifier: Apache-2.0
"""Builds the tabletop in MuJoCo: the arm's URDF, a table, a pool of blocks and containers, two cameras.

The model is compiled once. A pool of bodies serves every scene: what a scene does not use waits behind the robot, out of sight,
and colours are set when a scene is laid out.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from vla_ros.robot.description import RobotDescription
from vla_ros.sim.patterns import add_patterns

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.10, 0.10),
    "green": (0.12, 0.60, 0.18),
    "blue": (0.10, 0.25, 0.80),
    "yellow": (0.90, 0.78, 0.10),
    "purple": (0.50, 0.15, 0.60),
}
BLOCK_KINDS = ("cube", "cylinder", "brick")
CONTAINER_KINDS = ("bowl", "pad")
KINDS = BLOCK_KINDS + CONTAINER_KINDS
POOL_PER_KIND = 2

# Half sizes, m. Every block passes between the fingers (84 mm) whichever way it lies.
BLOCK_HALF_SIZE: dict[str, tuple[float, float, float]] = {
    "cube": (0.020, 0.020, 0.020),
    "cylinder": (0.021, 0.021, 0.024),
    "brick": (0.032, 0.018, 0.015),
}
CONTAINER_RADIUS_M = 0.060
BOWL_HEIGHT_M = 0.028
PAD_HALF_HEIGHT_M = 0.003
BLOCK_MASS_KG = 0.06

SIDE_LINE_Y_M = 0.19  # tape on the table; beyond it is "the left side" (negative y) or "the right side", as the front camera sees it

TIMESTEP_S = 0.002
_FRICTION = [1.2, 0.02, 0.0005]

CAMERAS = ("front", "wrist")
CAMERA_SIZE = {"front": (256, 256), "wrist": (128, 128)}  # height, width
CAMERA_FOVY_DEG = {"front": 38.0, "wrist": 75.0}
CAMERA_FRAME = {"front": "front_camera_optical_frame", "wrist": "wrist_camera_optical_frame"}
FRONT_CAMERA_POSITION = (0.98, 0.0, 0.62)  # base_link, m: across the table, so that an operator's left is the picture's left
FRONT_CAMERA_TARGET = (0.32, 0.0, 0.05)


@dataclass(frozen=True, kw_only=True)
class SceneModel:
    """The compiled model and where its parts are."""

    model: mujoco.MjModel
    body_ids: dict[tuple[str, int], int]  # (kind, index in the pool) -> body
    joint_qpos: np.ndarray  # [J] addresses in qpos, description order
    joint_dof: np.ndarray  # [J] addresses in qvel
    mimic_qpos: int


def build_scene(robot: RobotDescription) -> SceneModel:
    """Compiles the scene around ``robot``."""
    spec = mujoco.MjSpec.from_file(str(robot.urdf_path))
    _set_options(spec)
    _add_surroundings(spec)
    _prepare_arm(spec, robot)
    for kind in KINDS:
        for index in range(POOL_PER_KIND):
            _add_object(spec, kind, index)
    add_patterns(spec)
    model = spec.compile()
    joints = [model.joint(name) for name in robot.joint_names]
    return SceneModel(
        model=model,
        body_ids={(k, i): model.body(f"{k}_{i}").id for k in KINDS for i in range(POOL_PER_KIND)},
        joint_qpos=np.array([j.qposadr[0] for j in joints]),
        joint_dof=np.array([j.dofadr[0] for j in joints]),
        mimic_qpos=int(model.joint("right_finger_joint").qposadr[0]),
    )


def _set_options(spec: mujoco.MjSpec) -> None:
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0
    spec.visual.quality.offsamples = 0
    spec.visual.quality.shadowsize = 0
    spec.visual.global_.offwidth = 640
    spec.visual.global_.offheight = 480
    spec.visual.map.znear = 0.02
    spec.visual.headlight.ambient = [0.35, 0.35, 0.35]
    spec.visual.headlight.diffuse = [0.30, 0.30, 0.30]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]


def _add_surroundings(spec: mujoco.MjSpec) -> None:
    world = spec.worldbody
    world.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[8, 8, 0.1], pos=[0, 0, -0.7], rgba=[0.45, 0.45, 0.47, 1])
    world.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.40, 0.50, 0.02], pos=[0.30, 0, -0.02], rgba=[0.62, 0.52, 0.40, 1], friction=_FRICTION)
    for name, y in (("left_line", -SIDE_LINE_Y_M), ("right_line", SIDE_LINE_Y_M)):
        world.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.40, 0.004, 0.0005], pos=[0.30, y, 0.0], rgba=[0.92, 0.92, 0.92, 1], contype=0, conaffinity=0)
    world.add_light(name="key", pos=[0.6, 0.5, 1.8], dir=[-0.2, -0.3, -1.0], diffuse=[0.55, 0.55, 0.55], specular=[0.1, 0.1, 0.1], castshadow=False)
    position, target = np.array(FRONT_CAMERA_POSITION), np.array(FRONT_CAMERA_TARGET)
    backward = (position - target) / np.linalg.norm(position - target)
    right = np.cross([0, 0, 1], backward)
    right /= np.linalg.norm(right)
    up = np.cross(backward, right)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, np.stack([right, up, backward], axis=1).ravel())
    world.add_camera(name="front", pos=position, quat=quat, fovy=CAMERA_FOVY_DEG["front"])


def _prepare_arm(spec: mujoco.MjSpec, robot: RobotDescription) -> None:
    """Adds servos, gravity compensation (as a robot's own controllers do), the finger coupling and the wrist camera."""
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0
    stiffness = {"shoulder_pan_joint": 900, "shoulder_lift_joint": 900, "elbow_joint": 700, "forearm_roll_joint": 250, "wrist_pitch_joint": 250, "wrist_roll_joint": 120}
    for joint in spec.joints:
        joint.armature = 0.02 if joint.name in stiffness else 0.05
    for name in robot.joint_names:
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        if name == robot.gripper_joint:
            actuator.set_to_position(kp=900, kv=40)
            actuator.forcelimited, actuator.forcerange = True, [-24, 24]
        else:
            kp = stiffness[name]
            actuator.set_to_position(kp=kp, kv=2.0 * np.sqrt(kp * 0.25))
    coupling = spec.add_equality(name="fingers", type=mujoco.mjtEq.mjEQ_JOINT, name1="right_finger_joint", name2=robot.gripper_joint, objtype=mujoco.mjtObj.mjOBJ_JOINT)
    coupling.data[:5] = [0, 1, 0, 0, 0]
    for side in ("left", "right"):
        for geom in spec.body(f"{side}_finger_link").geoms:
            geom.friction, geom.condim = [1.6, 0.02, 0.0005], 4
    optical = spec.body("wrist_camera_optical_frame")
    optical.add_camera(name="wrist", quat=[0, 1, 0, 0], fovy=CAMERA_FOVY_DEG["wrist"])  # MuJoCo's cameras look along -z


def _add_object(spec: mujoco.MjSpec, kind: str, index: int) -> None:
    body = spec.worldbody.add_body(name=f"{kind}_{index}", pos=parking_place(kind, index))
    body.add_freejoint()
    if kind in BLOCK_KINDS:
        half = BLOCK_HALF_SIZE[kind]
        shape = mujoco.mjtGeom.mjGEOM_CYLINDER if kind == "cylinder" else mujoco.mjtGeom.mjGEOM_BOX
        size = [half[0], half[2], 0] if kind == "cylinder" else list(half)
        body.add_geom(type=shape, size=size, mass=BLOCK_MASS_KG, friction=_FRICTION, condim=4, rgba=[1, 1, 1, 1])
        return
    floor_half = PAD_HALF_HEIGHT_M
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[CONTAINER_RADIUS_M, floor_half, 0], mass=0.4, friction=_FRICTION, rgba=[1, 1, 1, 1])
    if kind == "bowl":
        _add_bowl_wall(body)


def parking_place(kind: str, index: int) -> list[float]:
    """Where an unused body waits, m: behind the robot, outside every camera's view."""
    return [-5.0 - 0.3 * index, 0.3 * KINDS.index(kind), 0.0]


def _add_bowl_wall(body: mujoco.MjsBody) -> None:
    sides = 12
    half_height = BOWL_HEIGHT_M / 2
    half_width = CONTAINER_RADIUS_M * np.tan(np.pi / sides)
    for side in range(sides):
        angle = 2 * np.pi * side / sides
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.003, half_width, half_height], mass=0.01, friction=_FRICTION, rgba=[1, 1, 1, 1],
            pos=[CONTAINER_RADIUS_M * np.cos(angle), CONTAINER_RADIUS_M * np.sin(angle), half_height - PAD_HALF_HEIGHT_M],
            quat=[np.cos(angle / 2), 0, 0, np.sin(angle / 2)],
        )


def rest_height(kind: str) -> float:
    """Height of a body's origin when it lies on the table, m."""
    return BLOCK_HALF_SIZE[kind][2] if kind in BLOCK_KINDS else PAD_HALF_HEIGHT_M
