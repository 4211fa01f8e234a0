# SPDX-License-Identifier: Apache-2.0
"""What the operator page keeps: whose stop it is, pictures with their age, and what the node said. And the words of its stop line."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace as Message

import cv2
import numpy as np
import pytest

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.errors import InputError
from vla_ros.ros.console import web_socket
from vla_ros.ros.console.e_stop import EStopLedger
from vla_ros.ros.console.pictures import MAX_SIDE, PictureStore, age_by_stamp_s, encode
from vla_ros.ros.console.seen import MAX_HISTORY, Seen, dimensions
from vla_ros.ros.plain import to_plain


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


# ---- whose stop it is ----


@pytest.fixture
def ledger(clock):
    return EStopLedger(clock)


def press(ledger, pressed):
    """As the topic does it: what is sent comes back."""
    ledger.sends(pressed)
    ledger.heard(pressed)


def test_what_was_pressed_here_may_be_released_here(ledger):
    press(ledger, True)
    assert ledger.pressed_here and ledger.pressed_elsewhere is None
    assert ledger.may_release(other_publishers=1)
    press(ledger, False)
    assert not ledger.pressed_here and not ledger.may_release(other_publishers=1)


@pytest.mark.parametrize("first", ["here", "elsewhere"])
def test_a_button_on_the_robot_is_never_released_from_here(ledger, first):
    if first == "here":
        press(ledger, True)
    ledger.heard(True)
    press(ledger, True)
    with pytest.raises(InputError, match="release it there"):
        ledger.may_release(other_publishers=1)
    ledger.heard(False)
    assert ledger.may_release(other_publishers=1)


def test_messages_that_cross_are_told_apart(ledger):
    ledger.sends(True)
    ledger.heard(False)  # somebody's release overtakes the press
    ledger.heard(True)
    assert ledger.pressed_here and ledger.pressed_elsewhere is False


def test_an_echo_that_was_lost_does_not_hide_a_press(ledger, clock):
    ledger.sends(True)
    clock.now_s += 2.0
    ledger.heard(True)
    assert ledger.pressed_elsewhere


def test_a_stop_from_before_this_page_belongs_to_others_while_there_are_any(ledger):
    ledger.found_pressed()
    press(ledger, True)
    with pytest.raises(InputError):
        ledger.may_release(other_publishers=1)
    assert ledger.may_release(other_publishers=0)  # whoever pressed is gone


# ---- pictures ----


def test_only_newer_pictures_are_given_and_with_their_age(clock):
    store = PictureStore(clock)
    store.add("front")
    assert store.newer({}, 0.0) == {} and store.to_dict()["front"]["age_s"] is None
    store.put("front", np.zeros((4, 6, 3), np.uint8), age_s=0.25)
    clock.now_s += 1.0
    (shown,) = store.newer({}, 0.0).values()
    assert shown.number == 1 and shown.age_s == pytest.approx(1.25)
    assert store.newer({"front": 1}, 0.0) == {}
    assert store.newer({"front": 7}, 0.0)  # the console was started anew, its numbers too


def test_a_message_that_cannot_be_shown_does_not_make_the_last_picture_young(clock):
    store = PictureStore(clock)
    store.put("front", np.zeros((4, 6, 3), np.uint8), age_s=0.0)
    clock.now_s += 3.0
    store.fail("front", "unknown encoding")
    assert store.to_dict()["front"] == {"number": 1, "age_s": 3.0, "error": "unknown encoding"}


def test_pictures_are_wanted_while_somebody_asks(clock):
    store = PictureStore(clock)
    assert not store.is_wanted()
    store.newer({}, 0.0)
    assert store.is_wanted()
    clock.now_s += 5.0
    assert not store.is_wanted()


@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (2000, 100), (1, 1)])
def test_pictures_keep_colour_and_shape(shape):
    image = np.zeros((*shape, 3), np.uint8)
    image[...] = (200, 30, 60)
    shown = cv2.imdecode(np.frombuffer(encode(image), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    scale = min(1.0, MAX_SIDE / max(shape))
    assert shown.shape[:2] == tuple(max(round(side * scale), 1) for side in shape)
    assert np.abs(shown.astype(int) - (200, 30, 60)).max() < 8


@pytest.mark.parametrize(("stamp_s", "age_s"), [(0, 0.0), (995, 5.0), (1001, 0.0), (1000 - 90_000, 0.0)])
def test_a_stamp_counts_where_it_is_of_the_same_clock(stamp_s, age_s):
    assert age_by_stamp_s(stamp_s * 10**9, 1000 * 10**9) == pytest.approx(age_s)


# ---- what the node said ----


def status(code, state="acting", level=0, **values):
    pairs = {"code": code, "state": state, **values}
    return Message(level=bytes([level]), message=f"{code}.", values=[Message(key=k, value=v) for k, v in pairs.items()])


def test_a_node_that_was_not_heard_is_silent(clock):
    seen = Seen("/left/vla_policy", clock)
    assert seen.is_silent() and seen.to_dict()["node"] == {"name": "/left/vla_policy", "age_s": None, "silent_after_s": 3.0}
    seen.put_status(status("ACTING", also="JOINTS_FROZEN ACTING"))
    assert not seen.is_silent() and seen.to_dict()["status"]["also"] == ["JOINTS_FROZEN"]
    clock.now_s += 3.5
    assert seen.is_silent() and seen.to_dict()["node"]["age_s"] == 3.5


def test_history_keeps_the_newest_instructions_and_what_came_of_them(clock):
    seen = Seen("/vla_policy", clock)
    for number in range(MAX_HISTORY + 5):
        seen.put_instruction(Message(data=f"task {number} "))
    seen.put_instruction(Message(data="task 24"))
    seen.put_status(status("TASK_DONE", "idle", task_done="True"))
    history = seen.to_dict()["history"]
    assert [entry["text"] for entry in history[:2]] == ["task 24", "task 23"] and len(history) == MAX_HISTORY
    assert [entry["outcome"] for entry in history[:2]] == ["done", ""]
    seen.put_instruction(Message(data=""))
    assert seen.to_dict()["instruction"] == "" and len(seen.to_dict()["history"]) == MAX_HISTORY


def test_a_new_instruction_forgets_the_old_plan(clock):
    seen = Seen("/vla_policy", clock)
    seen.put_instruction(Message(data="one"))
    seen.put_plan(Message(data="reach x=0.4 m"))
    assert seen.to_dict()["plan"] == "reach x=0.4 m"
    seen.put_instruction(Message(data="two"))
    assert seen.to_dict()["plan"] == ""


def test_actions_carry_names_and_units_and_stay_json(clock):
    seen = Seen("/vla_policy", clock)
    seen.put_action(Message(data=[0.5, float("nan")], layout=Message(dim=[Message(label="terminate[1],x[m]")])))
    action = seen.to_dict()["action"]
    assert action["dims"] == [{"name": "terminate", "unit": ""}, {"name": "x", "unit": "m"}] and action["values"] == [0.5, None]
    json.dumps(seen.to_dict(), allow_nan=False)


@pytest.mark.parametrize("label", ["", "x", "x[m],y[m],z[m]", "x[m]y[m]"])
def test_a_label_that_does_not_fit_becomes_numbers(label):
    assert [dim["name"] for dim in dimensions(label, 2)] == ["0", "1"]


def chunk(committed=0):
    confidence_HD = np.array([[0.1, 0.2], [0.9, 0.8], [0.7, 0.95]], np.float32)
    zeros_HD = np.zeros((3, 2))
    return ActionChunk(
        obs_stamp_ns=0,
        generation=1,
        dt_ns=10**8,
        actions_HD=zeros_HD,
        tokens_HD=zeros_HD.astype(np.int32),
        confidence_HD=confidence_HD,
        joint_positions_HJ=zeros_HD,
        terminate_H=np.zeros(3, bool),
        inference_ns=25_000_000,
        committed=committed,
    )


def test_confidence_is_of_the_steps_that_the_policy_chose(clock):
    seen = Seen("/vla_policy", clock)
    seen.put_decision(Message(data=json.dumps({"answer": to_plain(chunk(committed=1))})))
    decision = seen.to_dict()["decision"]
    assert decision["by_dim"] == [0.7, 0.8] and decision["lowest"] == 0.7 and decision["inference_ms"] == 25.0
    assert decision["mean"] == pytest.approx((0.9 + 0.8 + 0.7 + 0.95) / 4, abs=1e-4)
    seen.put_decision(Message(data=json.dumps({"answer": "DecodeError: no action"})))
    assert seen.to_dict()["decision"] == {"number": 2, "error": "DecodeError: no action", "age_s": 0.0}


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"answer": {"type": "Nonsense", "fields": {}}}'])
def test_a_decision_of_another_release_is_passed_over(clock, text):
    seen = Seen("/vla_policy", clock)
    seen.put_decision(Message(data=text))
    assert seen.to_dict()["decision"] == {"age_s": None}


def test_figures_of_other_nodes_are_passed_over(clock):
    seen = Seen("/left/vla_policy", clock)
    entries = [("vla_policy: control thread", "rate_hz", "50.0"), ("vla_sim: control thread", "rate_hz", "9.0")]
    seen.put_diagnostics(Message(status=[Message(name=n, values=[Message(key=k, value=v)]) for n, k, v in entries]))
    assert seen.to_dict()["figures"]["control_rate_hz"] == "50.0"


# ---- the words of the stop line ----


def frame(word, opcode=0x1, fin=True, mask=b"\x01\x02\x03\x04", length=None):
    body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(word)) if mask else word
    head = bytes([(0x80 if fin else 0) | opcode, (0x80 if mask else 0) | (len(word) if length is None else length)])
    return head + mask + body


def test_words_are_read_and_pings_are_answered():
    sink = io.BytesIO()
    source = io.BytesIO(frame(b"here?", 0x9) + frame(b"", 0xA) + frame("stöp".encode()) + frame(b"", 0x8) + frame(b"later"))
    assert web_socket.read_word(source, sink) == "stöp"
    assert sink.getvalue() == b"\x8a\x05here?"
    assert web_socket.read_word(source, sink) is None


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"\x81",
        frame(b"stop")[:-1],
        frame(b"stop", mask=b""),
        frame(b"stop", fin=False),
        frame(b"stop", 0x2),
        frame(b"stop", length=126),
    ],
)
def test_what_is_no_word_ends_the_line(bad):
    assert web_socket.read_word(io.BytesIO(bad), io.BytesIO()) is None


def test_the_handshake_is_the_protocols_own_example():
    headers = {"Upgrade": "websocket", "Connection": "keep-alive, Upgrade", "Sec-WebSocket-Version": "13"}
    assert web_socket.accept_key({**headers, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    for wrong in ({}, {"Sec-WebSocket-Key": "short"}, {"Sec-WebSocket-Key": "*" * 24}):
        assert web_socket.accept_key({**headers, **wrong}) is None
    assert web_socket.accept_key({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}) is None
