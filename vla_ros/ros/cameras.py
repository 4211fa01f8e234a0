# SPDX-License-Identifier: Apache-2.0
"""The worker's cameras: takes the newest message of each topic when an inference is due, converts and prepares it.

No executor delivers pictures: the newest message stays inside the middleware, where it costs no Python until it is wanted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from vla_ros.core.errors import InputError
from vla_ros.core.image import prepare_image
from vla_ros.core.observation import CameraSpec
from vla_ros.core.text import printable
from vla_ros.ros import qos
from vla_ros.ros.clock import PolledClock
from vla_ros.ros.compressed_images import compressed_to_rgb
from vla_ros.ros.cv_bridge_images import image_conversion
from vla_ros.ros.diagnostics import DropCounter
from vla_ros.ros.picture_loss import PictureLoss
from vla_ros.ros.polled import PolledSubscription
from vla_ros.ros.stamps import checked_stamp, stamp_to_ns
from vla_ros.ros.worker_process import WorkerConfig
from vla_ros.runtime.worker import CameraFrame

_MOVED = 0.05  # rad (or m): a picture that stays the same while a joint is this far from where it was is frozen
_BLACK = 8  # of 255: no pixel of a black picture is brighter; sensors with a capped lens stay below


@dataclass
class _Camera:
    spec: CameraSpec
    topic: PolledSubscription
    frame: CameraFrame | None = None
    frame_id: str | None = None
    changed_ns: int = 0
    joints_at_change_J: np.ndarray | None = None
    lit_ns: int = 0
    loss: PictureLoss = field(default_factory=PictureLoss)


class RosCameras:
    """``ImageSource`` of the worker loop. One thread only."""

    def __init__(self, node: Node, config: WorkerConfig, cameras: tuple[CameraSpec, ...]) -> None:
        """Subscribes; ``config.cameras`` names the topics in the order of ``cameras``."""
        self._node = node
        self._clock = PolledClock(node, config.use_sim_time, config.clock_offset_ns)
        self._config = config
        self.drops = DropCounter()
        self._is_compressed = config.transport == "compressed"
        self._message_type = CompressedImage if self._is_compressed else Image
        self._convert: Callable[[Any, int], np.ndarray]
        self._convert, why_not = (compressed_to_rgb, "") if self._is_compressed else image_conversion()
        if why_not:
            node.get_logger().info(why_not)
        self._joints_J: np.ndarray | None = None
        self._cameras = [
            _Camera(spec=spec, topic=PolledSubscription(node, self._message_type, topic.topic, qos.SENSOR))
            for spec, topic in zip(cameras, config.cameras, strict=True)
        ]

    def now_ns(self) -> int:
        """The node's time, as stamps are given in."""
        return self._clock.now_ns()

    def note_joints(self, positions_J: np.ndarray) -> None:
        """Takes where the joints are: a picture must change when the robot moves."""
        self._joints_J = positions_J

    def frames(self) -> dict[str, CameraFrame]:
        """The newest prepared picture of each camera that has sent one."""
        for camera in self._cameras:
            self._refresh(camera)
        return {c.spec.name: c.frame for c in self._cameras if c.frame is not None}

    def _refresh(self, camera: _Camera) -> None:
        name, now_ns = camera.spec.name, self.now_ns()
        camera.loss.looked(time.monotonic_ns())
        try:
            message = camera.topic.take()
            if message is None:
                return
            self._accept(camera, message, now_ns)
        except InputError as error:
            if self.drops.dropped(name, error.code):
                self._node.get_logger().warning(f"picture of camera '{name}' dropped ({error.code}): {printable(str(error))}")
            return
        if self.drops.accepted(name):
            self._node.get_logger().info(f"pictures of camera '{name}' are good again")

    def _accept(self, camera: _Camera, message: Any, now_ns: int) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._note_losses(camera, stamp_ns)
        measured_ns = checked_stamp(
            stamp_ns,
            self._clock.ros_ns(),
            max_age_ns=self._config.max_image_age_ns,
            max_future_ns=self._config.max_future_ns,
            waited_ns=camera.topic.waited_ns,
        )
        used_ns = self._clock.from_ros(measured_ns)
        if stamp_ns == 0:
            self.drops.counts[f"{camera.spec.name}.stamp_zero"] += 1
        image = prepare_image(self._convert(message, self._config.max_pixels), camera.spec.height, camera.spec.width)
        image = image.copy() if image.base is not None else image  # a view would be overwritten with its message
        self._check_frame_id(camera, message.header.frame_id)
        camera.frame = CameraFrame(image=image, stamp_ns=used_ns, is_frozen=self._is_frozen(camera, image, now_ns))

    def _note_losses(self, camera: _Camera, stamp_ns: int) -> None:
        name, was_losing = camera.spec.name, camera.loss.is_losing
        lost = camera.loss.arrived(stamp_ns)
        if lost:
            self.drops.counts[f"{name}.lost"] += lost
        if camera.loss.is_losing and not was_losing:
            self._node.get_logger().warning(
                f"camera '{name}' loses pictures: {camera.loss.share:.0%} of the last ones did not arrive, by its stamps of {1e9 / camera.loss.period_ns:.0f} Hz. "
                "Start its driver with the Fast DDS profile (vla doctor says how), or lower its rate or size"
            )
        if was_losing and not camera.loss.is_losing:
            self._node.get_logger().info(f"camera '{name}' loses no pictures any more")

    def _is_frozen(self, camera: _Camera, image: np.ndarray, now_ns: int) -> bool:
        """Whether the picture has stayed the same although the robot moved, or black, for too long."""
        if camera.frame is None or now_ns < camera.changed_ns or not np.array_equal(image, camera.frame.image):
            camera.changed_ns, camera.joints_at_change_J = now_ns, self._joints_J
        if camera.frame is None or now_ns < camera.lit_ns or image.max() > _BLACK:
            camera.lit_ns = now_ns
        still = now_ns - camera.changed_ns > self._config.frozen_timeout_ns and self._has_moved_since(camera.joints_at_change_J)
        black = now_ns - camera.lit_ns > self._config.frozen_timeout_ns
        was_frozen = camera.frame is not None and camera.frame.is_frozen
        if (still or black) and not was_frozen:
            self._node.get_logger().warning(
                f"camera '{camera.spec.name}' sends {'black pictures' if black else 'the same picture although the robot moves'}"
            )
        return still or black

    def _has_moved_since(self, joints_J: np.ndarray | None) -> bool:
        """Displacement, not the way travelled: a standing robot's encoders travel too."""
        return joints_J is not None and self._joints_J is not None and float(np.abs(self._joints_J - joints_J).max()) > _MOVED

    def _check_frame_id(self, camera: _Camera, frame_id: str) -> None:
        if frame_id != camera.frame_id:
            if camera.frame_id is not None or not frame_id:
                self._node.get_logger().warning(
                    f"camera '{camera.spec.name}' has the frame_id {frame_id[:80]!r} (before: {camera.frame_id!r}): check its driver"
                )
            camera.frame_id = frame_id
