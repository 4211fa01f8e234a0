# SPDX-License-Identifier: Apache-2.0
"""Status and diagnostics say the worst thing first, and drops once an edge."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vla_ros.core.safety import StatusCode
from vla_ros.core.states import ControlState

pytestmark = pytest.mark.ros


def output(code, warnings=()):
    return SimpleNamespace(code=code, warnings=warnings, state=ControlState.ACTING, task_done=False, generation=3)


def values(status):
    return {pair.key: pair.value for pair in status.values}


@pytest.mark.parametrize(
    "code, warnings, extra, expected",
    [
        (StatusCode.ACTING, (), (), StatusCode.ACTING),
        (StatusCode.ACTING, (StatusCode.JOINTS_FROZEN,), (), StatusCode.JOINTS_FROZEN),
        (StatusCode.ACTING, (StatusCode.JOINTS_FROZEN,), (StatusCode.SECOND_COMMANDER,), StatusCode.SECOND_COMMANDER),
        (StatusCode.E_STOP, (), (StatusCode.SECOND_COMMANDER,), StatusCode.E_STOP),
        (StatusCode.IMAGE_LOST, (), (StatusCode.NO_SUBSCRIBER,), StatusCode.IMAGE_LOST),
    ],
)
def test_the_most_severe_code_is_the_status_and_the_loops_own_wins_a_tie(code, warnings, extra, expected):
    from vla_ros.ros.diagnostics import status_message

    status = status_message("node", output(code, warnings), extra, "arm")
    assert values(status)["code"] == expected.name and status.message == expected.sentence
    assert status.level == bytes([expected.level.value])
    assert values(status)["control_code"] == code.name


def test_an_unconfigured_node_is_inactive():
    from vla_ros.ros.diagnostics import Figures, diagnostics_message, status_message

    status = status_message("node", None, (), "")
    assert values(status) == {"code": "INACTIVE"}
    message = diagnostics_message("node", status, Figures(loop=None, drops={}, counts={}, worker={}, bundle={}), 1_000_000_001)
    assert [s.name for s in message.status] == ["node: control", "node: control thread", "node: inference", "node: messages"]
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (1, 1)


def test_drops_are_an_edge_once_until_a_good_message_or_another_reason():
    from vla_ros.ros.diagnostics import DropCounter

    drops = DropCounter(quiet_s=0.0)
    assert [drops.dropped("front", "a") for _ in range(3)] == [True, False, False]
    assert drops.dropped("front", "b") and drops.dropped("wrist", "b")
    assert drops.accepted("front") and not drops.accepted("front")
    assert drops.dropped("front", "b")
    assert drops.counts == {"front.a": 3, "front.b": 2, "wrist.b": 1}


def test_a_flickering_source_is_said_once_in_a_while_and_counted_always():
    from vla_ros.ros.diagnostics import DropCounter

    now = [0.0]
    drops, said = DropCounter(quiet_s=5.0, now_s=lambda: now[0]), []
    for step in range(100):
        now[0] = 0.1 * step
        said.append((drops.dropped("front", "a"), drops.accepted("front")))
    assert [i for i, s in enumerate(said) if s != (False, False)] == [0, 50]
    assert said[50] == (True, True) and drops.counts["front.a"] == 100
