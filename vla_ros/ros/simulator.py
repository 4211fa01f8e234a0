# SPDX-License-Identifier: Apache-2.0
"""The simulator as a ROS node ``vla_sim``: a robot's drivers, controllers and cameras around the embedded tabletop.

Three threads: physics keeps the wall clock, cameras draw in between, the main thread spins subscriptions and services.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Bool, Float64MultiArray, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros.core.embodiment import embodiment_of
from vla_ros.core.errors import InputError
from vla_ros.ros import qos
from vla_ros.ros.loop import PeriodicThread
from vla_ros.ros.parameter_server import ParameterServer
from vla_ros.ros.sim_messages import camera_info_message, image_message, joint_state_message, time_message
from vla_ros.ros.sim_parameters import SimParameters
from vla_ros.ros.sim_world import find_task, make_world
from vla_ros.ros.trajectory_follower import TrajectoryFollower

_TICK_NS = 10_000_000  # joint states at 100 Hz, as robots' drivers do
_POLL_NS = 5_000_000  # how often pictures of another simulator are looked for
_MAX_BEHIND_NS = 200_000_000  # what physics makes up for; more is dropped and lowers the real-time factor


class SimNode(Node):
    """Publishes joint states and cameras, obeys ``command``, judges ``~/task``. Call :meth:`start`, spin, then :meth:`close`."""

    def __init__(self, overrides: list[Any] | None = None, **kwargs: Any) -> None:
        super().__init__("vla_sim", parameter_overrides=overrides or [], **kwargs)
        self._server = ParameterServer(self, SimParameters)
        parameters = self._server.current
        rates = {"image_rate_hz": parameters.image_rate_hz, "realtime_factor": parameters.realtime_factor}
        self._world = make_world(parameters.simulator, environment=parameters.env, **rates)
        self._camera_names = [] if parameters.external_cameras else [camera.name for camera in embodiment_of(parameters.env).cameras]
        self._tick_ns = getattr(self._world, "tick_ns", _TICK_NS)
        self._names = self._world.robot.joint_names
        self._follower = TrajectoryFollower(
            self._names, self._world.robot.limits.acceleration, self._world.robot.home, parameters.command_timeout_s
        )
        self._closing = threading.Event()
        self._reported_success: bool | None = None
        self._measured_from = (0, time.monotonic_ns())
        self._behind_dropped = self._commands = self._commands_dropped = 0
        self._infos = {name: self._world.camera_info(name) for name in self._camera_names}
        self._make_interface(parameters.command_interface)
        self._begin_episode(parameters.task)
        self._physics_from = (0, 0)
        self._last_stamp_ns = self._followed_ns = 0
        self._physics = PeriodicThread(
            self._tick, self._tick_ns, name="vla_sim_physics", on_warning=self.get_logger().warning, on_error=self._tick_failed
        )
        self._cameras = threading.Thread(target=self._run_cameras, name="vla_sim_cameras", daemon=True)

    def _make_interface(self, command_interface: str) -> None:
        self._joint_publisher = self.create_publisher(JointState, "joint_states", qos.SENSOR_SOURCE)
        self._image_publishers = {n: self.create_publisher(Image, f"{n}/image_raw", qos.SENSOR_SOURCE) for n in self._camera_names}
        self._info_publishers = {n: self.create_publisher(CameraInfo, f"{n}/camera_info", qos.SENSOR_SOURCE) for n in self._camera_names}
        self._clock_publisher = self.create_publisher(Clock, "/clock", qos.SENSOR) if self._server.current.publish_clock else None
        self._success_publisher = self.create_publisher(Bool, "~/success", qos.LATCHED)
        self._instruction_publisher = self.create_publisher(String, "~/instruction", qos.LATCHED)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", qos.EVENTS)
        message_type = {"JointTrajectory": JointTrajectory, "Float64MultiArray": Float64MultiArray}[command_interface]
        self.create_subscription(message_type, "command", self._on_command, qos.COMMAND)
        self.create_subscription(String, "~/task", self._on_task, qos.COMMAND)
        self.create_service(Trigger, "~/reset", self._on_reset)
        # Timers run on the steady clock, so that they go on when simulated time does not.
        self.create_timer(0.5, self._publish_success)
        self.create_timer(1.0, self._publish_diagnostics)

    def start(self) -> None:
        """Starts physics and cameras."""
        self._physics_from = (self._world.elapsed_ns, time.monotonic_ns())
        self._physics.start()
        self._cameras.start()

    def close(self) -> None:
        """Stops both threads and frees the cameras."""
        self._closing.set()
        self._physics.stop()
        if self._cameras.is_alive():
            self._cameras.join(2.0)

    # ---- time ----

    def _now_ns(self) -> int:
        """The clock that stamps messages: simulated time where it is published, else the system's."""
        return self._world.elapsed_ns if self._clock_publisher is not None else self.get_clock().now().nanoseconds

    # ---- physics thread ----

    def _tick(self, monotonic_ns: int) -> None:
        """Brings physics up to wall time and reports the joints."""
        if self._world.runs_by_itself:
            self._follow()
            return
        start_sim, start_wall = self._physics_from
        goal = start_sim + int((monotonic_ns - start_wall) * self._server.current.realtime_factor)
        with self._world.lock:
            behind = goal - self._world.elapsed_ns
            if behind > _MAX_BEHIND_NS * max(1.0, self._server.current.realtime_factor):
                self._behind_dropped += 1
                self._physics_from = (self._world.elapsed_ns, monotonic_ns)
                behind = self._tick_ns
            for _ in range(behind // self._tick_ns):
                self._world.advance(self._follower.sample(self._now_ns()), self._tick_ns * 1e-9)
                self._publish_joints(self._joint_stamp_ns())
            achieved = self._world.success()
        if achieved != self._reported_success:
            self._publish_success()

    def _follow(self) -> None:
        """Commands a simulator that runs by itself, and reports its joints whenever its time has moved."""
        with self._world.lock:
            elapsed_ns = self._world.elapsed_ns
            if elapsed_ns == self._followed_ns:
                return
            if elapsed_ns < self._followed_ns:  # set back to zero: the command belongs to the time before
                self._follower.reset(self._world.robot.home)
            self._followed_ns = elapsed_ns
            now_ns = self._now_ns()
            self._world.advance(self._follower.sample(now_ns))
            self._publish_joints(now_ns)
            achieved = self._world.success()
        if achieved != self._reported_success:
            self._publish_success()

    def _joint_stamp_ns(self) -> int:
        """When this tick was due: joints that make up for 10 ms in no time would be a jump. Never ahead, never back."""
        now_ns = self._now_ns()
        if self._clock_publisher is None:
            start_sim, start_wall = self._physics_from
            due_ns = start_wall + int((self._world.elapsed_ns - start_sim) / self._server.current.realtime_factor)
            now_ns -= max(time.monotonic_ns() - due_ns, 0)
            now_ns = self._last_stamp_ns = max(now_ns, self._last_stamp_ns)
        return now_ns

    def _publish_joints(self, stamp_ns: int) -> None:
        stamp = time_message(stamp_ns)
        if self._clock_publisher is not None:
            self._clock_publisher.publish(Clock(clock=stamp))
        seen = self._world.observe(cameras=False)
        self._joint_publisher.publish(
            joint_state_message(self._names, seen.joint_positions_J, seen.joint_velocities_J, seen.joint_efforts_J, stamp)
        )

    def _tick_failed(self, error: Exception) -> None:
        if not self._closing.is_set():
            self.get_logger().error(f"physics step failed: {type(error).__name__}: {error}", throttle_duration_sec=5.0)

    # ---- camera thread ----

    def _run_cameras(self) -> None:
        period_ns = _POLL_NS if self._world.runs_by_itself else round(1e9 / self._server.current.image_rate_hz)
        due = self._world.elapsed_ns
        while not self._closing.is_set():
            due = min(due, self._world.elapsed_ns + period_ns)  # after a step back of Gazebo's time
            wait_ns = due - self._world.elapsed_ns
            if wait_ns > 0:
                self._closing.wait(min(wait_ns * 1e-9 / self._server.current.realtime_factor, 0.1))
                continue
            due = max(due + period_ns, self._world.elapsed_ns - period_ns)
            try:
                self._publish_images()
            except Exception as error:  # a lost picture must not end the thread
                self._tick_failed(error)
        self._world.close()

    def _publish_images(self) -> None:
        with self._world.lock:
            now_ns = self._now_ns()
            seen = [camera for camera in self._camera_names if self._world.aim(camera)]
            ages_ns = [self._world.picture_age_ns(camera) for camera in seen]
        for camera, age_ns in zip(seen, ages_ns):
            stamp = time_message(max(now_ns - age_ns, 0))
            info = self._infos[camera]
            self._image_publishers[camera].publish(image_message(self._world.draw(camera), stamp, info["frame_id"]))
            self._info_publishers[camera].publish(camera_info_message(info, stamp))

    # ---- subscriptions and services ----

    def _on_command(self, message: Any) -> None:
        self._commands += 1
        try:
            with self._world.lock:
                if isinstance(message, JointTrajectory):
                    self._follower.accept_trajectory(message, self._now_ns())
                else:
                    self._follower.accept_positions(message.data, self._now_ns())
        except InputError as error:
            self._commands_dropped += 1
            self.get_logger().warning(f"command dropped ({error.code}): {error}", throttle_duration_sec=1.0)

    def _on_task(self, message: String) -> None:
        with self._world.lock:
            self._judge(message.data)
        self._publish_success()

    def _judge(self, text: str) -> None:
        task, hint = find_task(self._world, text)
        if task is None:
            self.get_logger().warning(f"no task is known in {text[:80]!r}: success stays false. {hint}")
        self._world.set_task(task, text)
        self._instruction_publisher.publish(String(data=text))

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self._begin_episode("")
            response.success, response.message = True, self._world.instruction
        except Exception as error:  # a service must answer
            response.success, response.message = False, f"{type(error).__name__}: {error}"
        return response

    def _begin_episode(self, task: str) -> None:
        with self._world.lock:
            self._world.restart(self._server.current.seed)
            self._follower.reset(self._world.robot.home)
            if task:
                self._judge(task)
            else:
                self._instruction_publisher.publish(String(data=self._world.instruction))
        _, hint = find_task(self._world, self._world.instruction)
        self.get_logger().info(f"scene {self._server.current.seed}: judging {self._world.instruction!r}. {hint}")

    # ---- reports ----

    def _publish_success(self) -> None:
        achieved = self._world.success()
        if achieved and not self._reported_success:
            self.get_logger().info(f"success: {self._world.instruction!r}")
        self._reported_success = achieved
        self._success_publisher.publish(Bool(data=achieved))

    def _publish_diagnostics(self) -> None:
        sim_ns, wall_ns = self._world.elapsed_ns, time.monotonic_ns()
        factor = (sim_ns - self._measured_from[0]) / max(wall_ns - self._measured_from[1], 1)
        self._measured_from = (sim_ns, wall_ns)
        loop = self._physics.statistics()
        slow = factor < 0.95 * self._server.current.realtime_factor
        status = DiagnosticStatus(name=f"{self.get_name()}: simulation", hardware_id=self._world.simulator)
        status.level = DiagnosticStatus.WARN if slow else DiagnosticStatus.OK
        status.message = "slower than asked for" if slow else "running"
        values = {
            "real_time_factor": f"{factor:.3f}",
            "physics_lateness_p99_us": f"{loop.lateness_p99_us:.0f}",
            "physics_errors": loop.errors,
            "time_dropped": self._behind_dropped,
            "commands": self._commands,
            "commands_dropped": self._commands_dropped,
            "command_timed_out": self._follower.timed_out,
            "instruction": self._world.instruction,
        }
        status.values = [KeyValue(key=k, value=str(v)) for k, v in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = time_message(self._now_ns())
        self._diagnostics_publisher.publish(message)
