# SPDX-License-Identifier: Apache-2.0
"""The camera ``corner2`` as public datasets and policies of Meta-World use it, and the window of its picture that is published here.

Public pictures are 480 x 480 from (0.75, 0.075, 0.7) m, turned by half a turn, since the camera hangs upside down. Their rims show the
floor, the wall and the arm's foot. What is rendered here is a window of 256 x 256 of these pixels (a camera's region of interest), in
which everything that the hand can reach lies; without shadows and reflections, which cost a software renderer ten times the rest.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from vla_ros.sim.rendering import new_renderer

CAMERA = "corner2"
FRAME = "corner2_optical_frame"
POSITION_M = (0.75, 0.075, 0.7)
FULL_SIZE = 480  # pixels of the public picture, both ways
WINDOW_LEFT, WINDOW_TOP, WINDOW_SIZE = 170, 130, 256
_FOVY_DEG = 60.0
FOCAL_PIXELS = 0.5 * FULL_SIZE / np.tan(np.deg2rad(0.5 * _FOVY_DEG))


class WindowCamera:
    """Renders one model's camera, aimed by ``aim_camera``. For one thread: it owns an OpenGL context."""

    def __init__(self, model: mujoco.MjModel) -> None:
        model.vis.quality.offsamples = 0
        self._renderer = new_renderer(model, WINDOW_SIZE, WINDOW_SIZE)

    def aim(self, data: mujoco.MjData) -> None:
        """Copies what is seen now."""
        self._renderer.update_scene(data, CAMERA)
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False

    def draw(self) -> np.ndarray:
        """Draws what was aimed at, uint8 [256, 256, 3]."""
        return np.ascontiguousarray(self._renderer.render()[::-1, ::-1])

    def close(self) -> None:
        """Frees the context."""
        self._renderer.close()


def aim_camera(model: mujoco.MjModel) -> None:
    """Puts the camera where the public pictures are taken from and narrows it to the window; shows from the next ``mj_forward`` on."""
    camera = model.camera(CAMERA).id
    model.cam_pos[camera] = POSITION_M
    model.cam_sensorsize[camera] = model.cam_resolution[camera] = [WINDOW_SIZE, WINDOW_SIZE]
    x, y = (WINDOW_SIZE - 1) / 2 - _principal_point() + 0.5
    model.cam_intrinsic[camera] = [FOCAL_PIXELS, FOCAL_PIXELS, -x, -y]


def camera_info() -> dict[str, Any]:
    """Pinhole intrinsics of the window in pixels: width, height, fx, fy, cx, cy, frame_id."""
    cx, cy = _principal_point()
    return {"width": WINDOW_SIZE, "height": WINDOW_SIZE, "fx": FOCAL_PIXELS, "fy": FOCAL_PIXELS, "cx": cx, "cy": cy, "frame_id": FRAME}


def project(model: mujoco.MjModel, data: mujoco.MjData, point: np.ndarray) -> np.ndarray:
    """Where ``point`` (world, m, [3]) appears in the window, [2], 0..1 with u right and v down."""
    camera, (cx, cy) = model.camera(CAMERA).id, _principal_point()
    x, y, z = data.cam_xmat[camera].reshape(3, 3).T @ (np.asarray(point) - data.cam_xpos[camera])
    return np.array([cx + FOCAL_PIXELS * x / z, cy - FOCAL_PIXELS * y / z]) / WINDOW_SIZE


def _principal_point() -> np.ndarray:
    """Where the optical axis meets the window, [2] pixels from its upper left corner."""
    return np.array([0.5 * FULL_SIZE - WINDOW_LEFT, 0.5 * FULL_SIZE - WINDOW_TOP])
