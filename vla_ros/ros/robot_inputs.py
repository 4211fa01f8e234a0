# SPDX-License-Identifier: Apache-2.0
"""Joint states, instructions and the emergency stop, taken by the control thread itself once a period.

Of joint states and instructions the newest wins, whatever their rate; of emergency stops each counts. None waits for an executor.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, String

from vla_ros.core.control import ControlLoop
from vla_ros.core.errors import InputError
from vla_ros.core.safety import StatusCode
from vla_ros.ros import qos
from vla_ros.ros.clock import PolledClock
from vla_ros.ros.diagnostics import DropCounter
from vla_ros.ros.joint_states import JointSample, JointStateReader
from vla_ros.ros.polled import PolledSubscription
from vla_ros.ros.stamps import checked_stamp, stamp_to_ns

_NEVER_NS = 3_600_000_000_000  # the age of what never came: an hour
_JOINTS, _INSTRUCTION, _E_STOP = "joint_states", "instruction", "e_stop"


class RobotInputs:
    """What comes from the robot and from a person. :meth:`apply` belongs to the control thread.

    Attributes:
        sample: the last joint state that the control loop accepted.
        drops: what was dropped, by topic and reason.
        e_stop_waited_ns: how long the last emergency stop had waited here when it was taken: at most one period.
    """

    def __init__(
        self,
        node: Node,
        joint_names: tuple[str, ...],
        clock: PolledClock,
        *,
        max_age_ns: int,
        max_future_ns: int,
        drops: DropCounter,
        say: Callable[[str], None],
    ) -> None:
        """Subscribes to ``joint_states``, ``instruction`` and ``e_stop``.

        Args:
            node: whose namespace and remapping apply.
            joint_names: order of every array.
            clock: of the control thread.
            max_age_ns: older joint states are dropped.
            max_future_ns: as are those stamped further ahead.
            drops: counts what is dropped.
            say: takes one sentence on every edge between good and bad; must not block.
        """
        self._joints = PolledSubscription(node, JointState, _JOINTS, qos.SENSOR)
        self._instructions = PolledSubscription(node, String, _INSTRUCTION, qos.COMMAND, raw=True)
        self._e_stops = PolledSubscription(node, Bool, _E_STOP, qos.E_STOP)
        self._clock = clock
        self._clock_steps = 0
        self._reader = JointStateReader(joint_names)
        self._limits = {"max_age_ns": max_age_ns, "max_future_ns": max_future_ns}
        self._say = say
        self._received_ns: int | None = None
        self.drops = drops
        self.sample: JointSample | None = None
        self.e_stop_waited_ns = 0

    @property
    def joint_age_ns(self) -> int:
        """Since the last accepted joint state, monotonic clock; an hour if none has come. Any thread."""
        received_ns = self._received_ns
        return _NEVER_NS if received_ns is None else time.monotonic_ns() - received_ns

    def apply(self, loop: ControlLoop, now_ns: int) -> None:
        """Gives the loop what is new.

        Args:
            loop: the control loop.
            now_ns: the clock's time.
        """
        self._guarded(_E_STOP, self._take_e_stops, loop)
        self._guarded(_JOINTS, self._take_joints, loop)
        self._guarded(_INSTRUCTION, self._take_instruction, loop)

    def close(self) -> None:
        """Unsubscribes; the control thread must have ended."""
        self._joints.close()
        self._instructions.close()
        self._e_stops.close()

    def _take_e_stops(self, loop: ControlLoop) -> bool:
        for count in range(qos.E_STOP.depth):  # a flood must not keep the period
            message = self._e_stops.take()
            if message is None:
                return count > 0
            loop.set_e_stop(message.data)
            self.e_stop_waited_ns = self._e_stops.waited_ns
        return True

    def _tell_clock_step(self) -> None:
        if self._clock.steps != self._clock_steps:
            self._clock_steps = self._clock.steps
            self.drops.counts["clock.stepped"] += 1
            self._say("the system's clock was set: control goes on by the monotonic one")

    def _take_joints(self, loop: ControlLoop) -> bool:
        message = self._joints.take()
        if message is None:
            return False
        stamp_ns = stamp_to_ns(message.header.stamp)
        measured_ns = checked_stamp(stamp_ns, self._clock.ros_ns(), waited_ns=self._joints.waited_ns, **self._limits)
        self._tell_clock_step()
        sample = self._reader.read(message, self._clock.from_ros(measured_ns))
        loop.put_joints(sample.stamp_ns, sample.positions_J)
        if stamp_ns == 0:
            self.drops.counts[f"{_JOINTS}.stamp_zero"] += 1
        self.sample, self._received_ns = sample, time.monotonic_ns()
        return True

    def _take_instruction(self, loop: ControlLoop) -> bool:
        raw = self._instructions.take()
        if raw is None:
            return False
        try:
            text = decode_string(raw)
        except InputError:
            loop.refuse_instruction(loop.generation, StatusCode.INSTRUCTION_INVALID)
            raise
        if not loop.set_instruction(text):
            raise InputError("nothing is active: activate the node, then send the instruction again", code="instruction_inactive")
        return True

    def _guarded(self, topic: str, take: Callable[..., bool], *arguments: object) -> None:
        """Counts what is dropped and whatever else goes wrong: the period goes on."""
        try:
            if take(*arguments) and self.drops.accepted(topic):
                self._say(f"{topic} is good again")
        except InputError as error:
            if self.drops.dropped(topic, error.code):
                self._say(f"{topic} dropped ({error.code}): {error}")
        except Exception as error:  # one bad message must not cost the period its command
            if self.drops.dropped(topic, "exception"):
                self._say(f"{topic} dropped: {type(error).__name__}: {error}")


def decode_string(raw: bytes) -> str:
    """Reads a serialized std_msgs/String strictly. rclpy replaces what is no UTF-8 and cuts at a NUL, both in silence.

    Raises:
        InputError: instruction_not_utf8 or instruction_damaged.
    """
    if len(raw) < 8:  # encapsulation header and length, OMG DDSI-RTPS 10.2 and DDS-XTypes 7.4.1
        raise InputError(f"instruction has {len(raw)} bytes: expected a serialized std_msgs/String", code="instruction_damaged")
    length = int.from_bytes(raw[4:8], "little" if raw[1] & 1 else "big")
    if not 0 < length <= len(raw) - 8:
        raise InputError(f"instruction claims {length} bytes of {len(raw) - 8}", code="instruction_damaged")
    try:
        return bytes(raw[8 : 8 + length - 1]).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"instruction is not UTF-8 at byte {error.start}: send readable text", code="instruction_not_utf8") from error
