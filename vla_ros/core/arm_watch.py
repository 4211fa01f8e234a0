# SPDX-License-Identifier: Apache-2.0
"""Does the arm do what is commanded: are its measurements alive, and does it stay where it was left? Axes: J joints in the robot's order."""

from __future__ import annotations

import numpy as np

from vla_ros.core.safety import StatusCode


class ArmWatch:
    """Compares measurements with commands, once a period. One thread only.

    Args:
        frozen: notices measurements that stay the same.
        standstill: notices an arm that leaves the place where it rests.
    """

    def __init__(self, frozen: FrozenWatch, standstill: StandstillWatch) -> None:
        self._frozen = frozen
        self._standstill = standstill
        self._is_frozen = False
        self.was_moved = False

    def start_again(self, command_J: np.ndarray) -> None:
        """The command begins anew at the measurement: nobody has moved the arm since."""
        self.was_moved = False
        self._standstill.is_elsewhere(None, command_J)

    def finds_moved(self, measured_J: np.ndarray | None, command_J: np.ndarray, *, is_followed: bool, rests: bool) -> bool:
        """Whether the arm was moved by somebody else, told once. An arm that was moved never jumps back: nothing may be commanded until it starts again.

        Args:
            measured_J: the last measurement, None before the first.
            command_J: the last command.
            is_followed: the command moves with a chunk.
            rests: the command stands still and the measurement is from after it came to rest.
        """
        self._is_frozen = self._frozen.is_frozen(measured_J if is_followed else None, command_J)
        is_elsewhere = self._standstill.is_elsewhere(measured_J if rests else None, command_J)
        is_news = is_elsewhere and not self.was_moved
        self.was_moved |= is_elsewhere
        return is_news

    def warnings(self, code: StatusCode) -> tuple[StatusCode, ...]:
        """What is to be said beside ``code``."""
        found = ((StatusCode.JOINTS_FROZEN, self._is_frozen), (StatusCode.ARM_MOVED, self.was_moved))
        return tuple(warning for warning, is_so in found if is_so and warning is not code)


class FrozenWatch:
    """Notices that measurements stay bit for bit the same although the command goes somewhere else. Call once a period.

    Args:
        displacement: how far the command must have gone since the measurement last changed, rad or m.
        periods: for how many periods it must have been that far away.
    """

    def __init__(self, displacement: float, periods: int) -> None:
        self._displacement = displacement
        self._periods = periods
        self._measured_J: np.ndarray | None = None
        self._command_J: np.ndarray | None = None
        self._count = 0

    def is_frozen(self, measured_J: np.ndarray | None, command_J: np.ndarray) -> bool:
        """Whether they are; a ``measured_J`` of None means that nothing is commanded to move."""
        if measured_J is None or self._measured_J is None or not np.array_equal(measured_J, self._measured_J):
            self._measured_J, self._command_J, self._count = measured_J, command_J, 0
            return False
        self._count += bool(np.abs(command_J - self._command_J).max() > self._displacement)
        return self._count > self._periods


class StandstillWatch:
    """Notices that an arm at rest is not where it was left: pushed, carried, or sunk without power. Call once a period.

    A servo still settles when its command has come to rest, and a weak one hangs below its command: after ``periods`` the arm may stay where
    it is then, up to four times the slack away from its command.

    Args:
        slack: how far it may move, rad or m.
        periods: how long it may settle.
    """

    def __init__(self, slack: float, periods: int) -> None:
        self._slack = slack
        self._periods = periods
        self._left_J: np.ndarray | None = None
        self._count = 0

    def is_elsewhere(self, measured_J: np.ndarray | None, command_J: np.ndarray) -> bool:
        """Whether it is; a ``measured_J`` of None means that the command is not at rest, or that nothing is known."""
        if measured_J is None:
            self._left_J, self._count = None, 0
            return False
        self._count += 1
        if self._count <= self._periods:
            return False
        if self._left_J is None:
            self._left_J = measured_J
        has_moved = np.abs(measured_J - self._left_J).max() > self._slack
        return bool(has_moved or np.abs(measured_J - command_J).max() > 4.0 * self._slack)
