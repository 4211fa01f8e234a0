# SPDX-License-Identifier: Apache-2.0
"""The tabletop as an environment: physics, cameras, success. Faster than real time when nobody makes it wait.

Not thread-safe, and the cameras must be used in the thread that made the environment (they own an OpenGL context).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np

from vla_ros.core.paths import share_dir
from vla_ros.robot.description import RobotDescription
from vla_ros.robot.kinematics import Kinematics
from vla_ros.sim import scene as scene_module
from vla_ros.sim.layout import Look, Placement
from vla_ros.sim.patterns import wear_pattern
from vla_ros.sim.rendering import new_renderer
from vla_ros.sim.success import SuccessCheck
from vla_ros.sim.tasks import FAMILIES, NEW_FAMILIES, ObjectRef, Task, all_tasks, phrasings, sample_task
from vla_ros.sim.variations import NONE, VARIATIONS, vary_layout, vary_look
from vla_ros.sim.world import ObjectState, WorldState, is_feasible

CONTROL_PERIOD_S = 0.02
_SETTLE_STEPS = 100
_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class SimObservation:
    """What a robot's drivers would report.

    Attributes:
        stamp_ns: simulated time of the pictures and of the joints.
        images: rgb8 pictures by camera name, each uint8 [height, width, 3].
        joint_positions_J: rad, the gripper in m; order of the description.
        joint_velocities_J: per second.
        joint_efforts_J: N m, the gripper in N.
    """

    stamp_ns: int
    images: dict[str, np.ndarray] = field(default_factory=dict)
    joint_positions_J: np.ndarray
    joint_velocities_J: np.ndarray
    joint_efforts_J: np.ndarray


class TabletopEnv:
    """A six-joint arm, blocks, a bowl and pads; one instruction at a time."""

    def __init__(self, *, randomize_look: float = 1.0) -> None:
        self.robot = RobotDescription.load(share_dir() / "config" / "robots" / "tabletop_arm.yaml")
        self._scene = scene_module.build_scene(self.robot)
        self._model = self._scene.model
        self._data = mujoco.MjData(self._model)
        self._kinematics = Kinematics(self.robot)
        self._randomize_look = randomize_look
        self._nominal_camera = (self._model.cam_pos.copy(), self._model.cam_quat.copy())
        self._renderers: dict[str, mujoco.Renderer] = {}
        self._placements: list[Placement] = []
        self._fingers = [self._model.body(f"{side}_finger_link").id for side in ("left", "right")]
        self._check: SuccessCheck | None = None
        self.task: Task | None = None
        self.instruction = ""

    # ---- episodes ----

    def reset(
        self, seed: int, task: Task | None = None, split: str = "seen", family: str | None = None, settle: bool = True, variation: str = NONE
    ) -> SimObservation:
        """Lays out the scene of ``seed`` with the arm at home, draws a task unless one is given, and lets everything settle.

        Raises:
            ValueError: a variation that is none of ``sim.variations.VARIATIONS``.
        """
        if variation not in VARIATIONS:
            raise ValueError(f"variation is {variation!r}: valid are {', '.join(VARIATIONS)}")
        rng = np.random.default_rng([seed, 0])
        while True:
            self._lay_out(vary_layout(rng, variation), rng, settle, variation)
            families = (family,) if family in NEW_FAMILIES else FAMILIES
            drawn = None if task is not None else sample_task(rng, self.feasible_tasks(families), split, family)
            if task is not None or drawn is not None:
                break
        if drawn is not None:
            self.set_task(drawn[0], drawn[1])
        else:
            self.set_task(task, phrasings(task)[0])
        return self.observe(cameras=False)

    def set_task(self, task: Task | None, instruction: str = "") -> None:
        """Starts judging ``task`` from the present state on."""
        self.task, self.instruction = task, instruction
        self._check = SuccessCheck(task, self.world_state()) if task is not None else None

    def feasible_tasks(self, families: Sequence[str] = FAMILIES) -> list[Task]:
        """The tasks of ``families`` that words can name in this scene and that the arm can do from the present state."""
        world = self.world_state()
        return [t for t in all_tasks(world.objects, families) if is_feasible(t, world)]

    def success(self) -> bool:
        """Whether the present task has been achieved (and, where it must hold, has held for half a second)."""
        return self._check is not None and self._check.achieved

    # ---- motion ----

    def step(self, joint_targets_J: np.ndarray) -> None:
        """Advances 20 ms with the servos at ``joint_targets_J`` (rad, the gripper in m).

        Raises:
            ValueError: a wrong number of targets, or one that is not finite.
        """
        targets = np.asarray(joint_targets_J, dtype=np.float64)
        if targets.shape != self.robot.home.shape or not np.isfinite(targets).all():
            raise ValueError(f"expected {len(self.robot.home)} finite joint targets, got {joint_targets_J}")
        limits = self.robot.limits
        self._data.ctrl[:] = np.clip(targets, limits.position_min, limits.position_max)
        mujoco.mj_step(self._model, self._data, nstep=round(CONTROL_PERIOD_S / scene_module.TIMESTEP_S))
        if self._check is not None:
            self._check.update(self.world_state(), CONTROL_PERIOD_S)

    def place_arm(self, joint_positions_J: np.ndarray) -> None:
        """Puts the arm there at rest, without moving through the space between."""
        self._data.qpos[self._scene.joint_qpos] = joint_positions_J
        self._data.qpos[self._scene.mimic_qpos] = joint_positions_J[-1]
        self._data.qvel[:] = 0.0
        self._data.ctrl[:] = joint_positions_J
        mujoco.mj_forward(self._model, self._data)

    def place_object(self, ref: ObjectRef, position: Sequence[float], yaw: float) -> None:
        """Puts an object there, upright and at rest; call before :meth:`place_arm`, which brings everything up to date."""
        placement = next(p for p in self._placements if p.ref == ref)
        self._set_pose(self._scene.body_ids[ref.kind, placement.slot], position, yaw)

    # ---- sensing ----

    @property
    def time_ns(self) -> int:
        return round(self._data.time / scene_module.TIMESTEP_S) * round(scene_module.TIMESTEP_S * _NS)

    def observe(self, cameras: bool = True) -> SimObservation:
        """Reads the joints, and renders both cameras unless told not to."""
        return SimObservation(
            stamp_ns=self.time_ns,
            images={name: self.render(name) for name in scene_module.CAMERAS} if cameras else {},
            joint_positions_J=self._data.qpos[self._scene.joint_qpos].copy(),
            joint_velocities_J=self._data.qvel[self._scene.joint_dof].copy(),
            joint_efforts_J=self._data.actuator_force.copy(),
        )

    def render(self, camera: str) -> np.ndarray:
        """Returns ``camera``'s picture, uint8 [height, width, 3]."""
        if camera not in self._renderers:
            height, width = scene_module.CAMERA_SIZE[camera]
            self._renderers[camera] = new_renderer(self._model, height, width)
        renderer = self._renderers[camera]
        renderer.update_scene(self._data, camera)
        return renderer.render().copy()

    def visible_shares(self, camera: str) -> dict[ObjectRef, float]:
        """Returns how much of ``camera``'s picture shows each object, as a share of its pixels; what something else hides does not count."""
        key = f"{camera} bodies"
        if key not in self._renderers:
            height, width = scene_module.CAMERA_SIZE[camera]
            self._renderers[key] = new_renderer(self._model, height // 2, width // 2)
            self._renderers[key].enable_segmentation_rendering()
        renderer = self._renderers[key]
        renderer.update_scene(self._data, camera)
        geom_HW, type_HW = np.moveaxis(renderer.render(), -1, 0)
        bodies = self._model.geom_bodyid[geom_HW[type_HW == mujoco.mjtObj.mjOBJ_GEOM]]
        pixels = np.bincount(bodies, minlength=self._model.nbody)
        return {p.ref: float(pixels[self._scene.body_ids[p.ref.kind, p.slot]] / geom_HW.size) for p in self._placements}

    def camera_info(self, camera: str) -> dict[str, Any]:
        """Returns the pinhole intrinsics in pixels: width, height, fx, fy, cx, cy, frame_id."""
        height, width = scene_module.CAMERA_SIZE[camera]
        focal = 0.5 * height / np.tan(0.5 * np.deg2rad(scene_module.CAMERA_FOVY_DEG[camera]))
        return {"width": width, "height": height, "fx": focal, "fy": focal, "cx": width / 2, "cy": height / 2, "frame_id": scene_module.CAMERA_FRAME[camera]}

    def project(self, camera: str, point: np.ndarray) -> np.ndarray:
        """Returns where ``point`` (base_link, m, [3]) appears in ``camera``'s picture, [2], 0..1 with u right and v down."""
        info, camera_id = self.camera_info(camera), self._model.camera(camera).id
        rotation = self._data.cam_xmat[camera_id].reshape(3, 3)
        x, y, z = rotation.T @ (np.asarray(point) - self._data.cam_xpos[camera_id])
        return np.array([(info["cx"] - info["fx"] * x / z) / info["width"], (info["cy"] + info["fy"] * y / z) / info["height"]])

    def world_state(self) -> WorldState:
        """The simulator's ground truth, for the expert and the success check; never for the policy."""
        joints = self._data.qpos[self._scene.joint_qpos]
        tool, _ = self._kinematics.fk(joints)
        touched = self._touched_by_fingers()
        objects = {}
        for placement in self._placements:
            body = self._scene.body_ids[placement.ref.kind, placement.slot]
            x_axis = self._data.xmat[body].reshape(3, 3)[:2, 0]
            objects[placement.ref] = ObjectState(
                position=self._data.xpos[body].copy(),
                yaw=float(np.arctan2(x_axis[1], x_axis[0])),
                speed=float(np.linalg.norm(self._data.cvel[body][3:])),
                touched_by=frozenset(f for f, bodies in touched.items() if body in bodies),
            )
        return WorldState(tool=tool, tool_yaw=self._kinematics.tool_yaw(joints), gripper=float(joints[-1]), objects=objects)

    def touch_forces(self) -> np.ndarray:
        """Normal forces of all contacts of each finger together, N, float64 [2] (left, right)."""
        forces, wrench = np.zeros(len(self._fingers)), np.zeros(6)
        bodies = self._model.geom_bodyid[self._data.contact.geom]  # [contacts, 2]
        for contact, pair in enumerate(bodies):
            if touching := [finger for finger, body in enumerate(self._fingers) if body in pair]:
                mujoco.mj_contactForce(self._model, self._data, contact, wrench)
                forces[touching] += wrench[0]
        return forces

    def close(self) -> None:
        """Frees the cameras."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    # ---- inside ----

    def _touched_by_fingers(self) -> dict[int, set[int]]:
        bodies = self._model.geom_bodyid[self._data.contact.geom]  # [contacts, 2]
        touched = {}
        for finger, body in enumerate(self._fingers):
            rows = bodies[(bodies == body).any(axis=1)]
            touched[finger] = set(rows[rows != body].tolist())
        return touched

    def _lay_out(self, placements: list[Placement], rng: np.random.Generator, settle: bool, variation: str) -> None:
        mujoco.mj_resetData(self._model, self._data)
        self._placements = placements
        for body in self._scene.body_ids.values():
            self._model.body_gravcomp[body] = 1.0  # what waits behind the robot floats, which costs no contacts
        for placement in placements:
            body = self._scene.body_ids[placement.ref.kind, placement.slot]
            self._model.body_gravcomp[body] = 0.0
            self._set_pose(body, [placement.x, placement.y, scene_module.rest_height(placement.ref.kind) + 0.0005], placement.yaw)
        self._dress(vary_look(rng, [p.ref for p in placements], self._randomize_look, variation))
        self.place_arm(self.robot.home)
        if settle:
            mujoco.mj_step(self._model, self._data, nstep=_SETTLE_STEPS)
        self._data.time = 0.0

    def _set_pose(self, body: int, position: Sequence[float], yaw: float) -> None:
        address = self._model.jnt_qposadr[self._model.body_jntadr[body]]
        self._data.qpos[address : address + 7] = [*position, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]

    def _dress(self, look: Look) -> None:
        model = self._model
        for placement in self._placements:
            body = self._scene.body_ids[placement.ref.kind, placement.slot]
            model.geom_rgba[model.geom_bodyid == body, :3] = look.colours[placement.ref]
        model.geom("table").rgba[:3] = look.table
        model.geom("floor").rgba[:3] = look.floor
        wear_pattern(model, look.pattern)
        model.light_pos[0] = look.light_position
        model.light_diffuse[0] = look.light_strength
        model.vis.headlight.ambient[:] = look.ambient
        front = model.camera("front").id
        model.cam_pos[front] = self._nominal_camera[0][front] + look.camera_shift
        turn = np.zeros(4)
        mujoco.mju_euler2Quat(turn, look.camera_turn, "xyz")
        mujoco.mju_mulQuat(model.cam_quat[front], self._nominal_camera[1][front], turn)
