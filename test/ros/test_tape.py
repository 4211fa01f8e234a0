# SPDX-License-Identifier: Apache-2.0
"""The control loop's tape: complete, silent until wanted, and enough to repeat every tick bit for bit."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.command import Watch
from vla_ros.core.control import ControlLoop
from vla_ros.core.errors import InputError
from vla_ros.core.paths import robot_config_path
from vla_ros.core.safety import StatusCode
from vla_ros.core.states import ControlState
from vla_ros.robot import RobotDescription
from vla_ros.ros.parameters import PolicyNodeParameters
from vla_ros.ros.session import make_loop
from vla_ros.ros.tape import CALLS, TapedLoop, capture, plain_tick, replay_tick, restore

_ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))
_PARAMETERS = PolicyNodeParameters()
_PERIOD_NS = _PARAMETERS.period_ns


def chunk(loop, stamp_ns, way):
    steps = np.linspace(0.0, way, 6)[1:, None] * np.eye(len(_ROBOT.joint_names))[0]
    return ActionChunk(
        obs_stamp_ns=stamp_ns,
        generation=loop.generation,
        dt_ns=200_000_000,
        actions_HD=np.zeros((5, 2)),
        tokens_HD=np.zeros((5, 2), np.int32),
        confidence_HD=np.ones((5, 2), np.float32),
        joint_positions_HJ=loop_position(loop) + steps,
        terminate_H=np.zeros(5, bool),
    )


def loop_position(loop):
    return loop._guard.last[0]


class Drive:
    """Plays a robot with a taped loop: joints follow the command, the clock ticks."""

    def __init__(self):
        self.loop = TapedLoop(make_loop(_ROBOT, _PARAMETERS))
        self.now_ns = 1_000_000_000_000
        self.position_J = _ROBOT.home.copy()

    def tick(self, count=1, watch=None):
        for _ in range(count):
            self.now_ns += _PERIOD_NS
            self.loop.put_joints(self.now_ns, self.position_J)
            output = self.loop.step(self.now_ns, watch or Watch())
            self.position_J = output.positions_J if output.is_commanded else self.position_J

    def ready(self):
        self.tick(3)
        self.loop.activate(0)
        self.tick(3)
        return self

    def a_life(self):
        """Motion, a lost camera, a stop while moving, refusals, a resume, an end."""
        loop = self.loop
        loop.set_instruction("go")
        for way in (0.2, 0.25, -0.1):
            loop.put_chunk(chunk(loop, self.now_ns, way), self.now_ns)
            self.tick(17)
        self.tick(5, Watch(hold=StatusCode.IMAGE_LOST))
        self.tick(20)
        loop.put_chunk(chunk(loop, self.now_ns, 0.3), self.now_ns)
        self.tick(12)
        loop.stop()
        self.tick(40)
        with pytest.raises(InputError):
            loop.put_joints(self.now_ns, self.position_J * np.nan)
        loop.resume(0)
        loop.put_chunk(chunk(loop, self.now_ns, 0.1), self.now_ns)
        self.tick(25)
        loop.set_e_stop(True)
        self.tick(30)
        loop.deactivate()
        self.tick(5)


def on_disk(ticks):
    """As they are after a file."""
    return [json.loads(json.dumps(plain_tick(tick))) for tick in ticks]


def repeat(ticks):
    """Differences by tick number, from the first key on."""
    loop, differences = None, {}
    for tick in ticks:
        if loop is None and "key" in tick:
            loop = make_loop(_ROBOT, _PARAMETERS)
            restore(loop, tick["key"])
        if loop is not None and (difference := replay_tick(loop, tick)):
            differences[tick["tick"]] = difference
    assert loop is not None, "no key in the tape"
    return differences


def test_every_method_that_changes_the_loop_is_taped():
    public = {name for name, member in inspect.getmembers(ControlLoop, inspect.isfunction) if not name.startswith("_")}
    assert public == {*CALLS, "step"}


def test_nothing_is_kept_until_it_is_wanted():
    drive = Drive().ready()
    drive.a_life()
    assert drive.loop.take() == []


def test_a_life_is_repeated_bit_for_bit():
    drive = Drive().ready()
    drive.loop.wanted = True
    drive.tick()
    drive.a_life()
    ticks = on_disk(drive.loop.take())
    assert len(ticks) > 150 and "key" in ticks[0]
    states = {tick["output"]["fields"]["state"]["name"] for tick in ticks}
    assert {"ACTING", "HOLDING", "LATCHED", "INACTIVE"} <= states
    assert repeat(ticks) == {}


def test_a_tape_that_begins_before_activation_repeats_as_well():
    drive = Drive()
    drive.loop.wanted = True
    drive.tick()
    drive.ready().a_life()
    assert repeat(on_disk(drive.loop.take())) == {}


def test_a_tape_that_begins_in_motion_repeats_as_well():
    drive = Drive().ready()
    drive.loop.set_instruction("go")
    drive.loop.put_chunk(chunk(drive.loop, drive.now_ns, 0.2), drive.now_ns)
    drive.tick(5)
    drive.loop.wanted = True
    drive.tick()
    assert np.abs(drive.loop._guard.last[1]).max() > 0.01
    drive.tick(150)
    ticks = on_disk(drive.loop.take())
    assert len([tick for tick in ticks if "key" in tick]) == 3
    assert repeat(ticks) == {}


def test_one_bit_in_a_call_or_a_command_is_found():
    drive = Drive().ready()
    drive.loop.wanted = True
    drive.tick()
    drive.a_life()
    ticks = on_disk(drive.loop.take())
    moving = next(i for i, tick in enumerate(ticks) if tick["output"]["fields"]["velocities_J"]["data"][0] > 0.1)
    data = ticks[moving]["output"]["fields"]["positions_J"]["data"]
    data[0] = float(np.nextafter(data[0], 10.0))
    differences = repeat(ticks)
    assert list(differences) == [ticks[moving]["tick"]] and "positions_J[0]" in differences[ticks[moving]["tick"]]


def test_a_lost_call_is_found():
    drive = Drive().ready()
    drive.loop.wanted = True
    drive.tick()
    drive.a_life()
    ticks = on_disk(drive.loop.take())
    (stop,) = [tick for tick in ticks if any(call[0] == "stop" for call in tick["calls"])]
    stop["calls"] = [call for call in stop["calls"] if call[0] != "stop"]
    assert min(repeat(ticks)) == stop["tick"]


def test_a_key_holds_the_whole_state():
    drive = Drive().ready()
    drive.loop.set_instruction("go")
    drive.loop.set_e_stop(True)
    drive.tick(60)
    key = json.loads(json.dumps(capture(drive.loop._loop)))
    other = make_loop(_ROBOT, _PARAMETERS)
    restore(other, key)
    assert json.dumps(capture(other)) == json.dumps(key)
    assert other.state is ControlState.LATCHED and other.instruction == "go"


def test_a_state_that_cannot_be_written_ends_the_tape_and_not_the_loop():
    drive = Drive().ready()
    drive.loop._loop.something_new = object()
    drive.loop.wanted = True
    drive.tick(3)
    assert "object" in drive.loop.failure and not drive.loop.wanted
    assert drive.loop.state is ControlState.IDLE
