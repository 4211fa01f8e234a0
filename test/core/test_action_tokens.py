# SPDX-License-Identifier: Apache-2.0
"""The codec's properties, RT-2's worked example and the hazards seen in the field."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.action import ActionDim, ActionSpec
from vla_ros.core.action_tokens import ActionTokenizer
from vla_ros.core.errors import ActionError, ConfigError, DecodeError
from vla_ros.core.tabletop import ACTION_SPEC

FIRST = 512
TOKENS = ActionTokenizer(ACTION_SPEC, FIRST)


def one_dim(low, high, num_bins=256):
    dim = ActionDim(name="x", kind="translation", unit="m", frame="base_link", relative=True, low=low, high=high, num_bins=num_bins)
    return ActionTokenizer(ActionSpec(dims=(dim,), horizon=1, dt_s=0.1), 0)


@st.composite
def bounded_value(draw):
    low = draw(st.floats(-1e3, 1e3))
    width = draw(st.floats(1e-2, 1e3))
    high = low + width
    value = low + draw(st.floats(0.0, 1.0)) * width
    return low, high, min(value, high), draw(st.integers(2, 4096))


@given(bounded_value())
def test_round_trip_error_is_at_most_half_a_bin(case):
    low, high, value, num_bins = case
    codec = one_dim(low, high, num_bins)
    decoded = codec.decode(codec.encode(np.array([[value]])))[0, 0]
    rounding = 8 * np.finfo(float).eps * max(abs(low), abs(high))  # a few operations on numbers of this size
    assert abs(decoded - value) <= 0.5 * (high - low) / num_bins + rounding


@given(st.lists(st.integers(FIRST, FIRST + 255), min_size=30, max_size=30))
def test_every_token_survives_decoding_and_encoding(ids):
    tokens = np.array(ids, dtype=np.int32).reshape(5, 6)
    np.testing.assert_array_equal(TOKENS.encode(TOKENS.decode(tokens)), tokens)


@given(st.lists(st.floats(-0.25, 0.25), min_size=2, max_size=50))
def test_encoding_keeps_the_order(values):
    codec = one_dim(-0.25, 0.25)
    values = np.sort(values)
    assert (np.diff(codec.actions_to_bins(values[:, None])[:, 0]) >= 0).all()


def test_decoding_is_unbiased():
    codec = one_dim(-1.0, 1.0)
    values = np.linspace(-1.0, 1.0, 256 * 64, endpoint=False)[:, None]
    error = codec.bins_to_actions(codec.actions_to_bins(values)) - values
    assert abs(error.mean()) < 1e-4  # truncation without centres would give half a bin: 4e-3


def test_bounds_belong_to_the_outer_bins():
    assert TOKENS.encode(np.tile(ACTION_SPEC.low_D, (5, 1))).tolist() == [[FIRST] * 6] * 5
    assert TOKENS.encode(np.tile(ACTION_SPEC.high_D, (5, 1))).tolist() == [[FIRST + 255] * 6] * 5


def test_rt2_worked_example():
    """`1 128 124 136 121 158 111 255` of arXiv 2307.15818: terminate, three translations, three rotations, gripper."""
    names = ["terminate", "dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
    kinds = ["terminate"] + ["translation"] * 3 + ["rotation"] * 3 + ["gripper"]
    bounds = [(0.0, 256.0)] + [(-1.0, 1.0)] * 7
    dims = tuple(
        ActionDim(name=n, kind=k, unit="1", frame="", relative=True, low=low, high=high) for n, k, (low, high) in zip(names, kinds, bounds)
    )
    codec = ActionTokenizer(ActionSpec(dims=dims, horizon=1, dt_s=0.3), 0)
    tokens = np.array([[int(word) for word in "1 128 124 136 121 158 111 255".split()]])
    actions = codec.decode(tokens)
    np.testing.assert_allclose(actions[0, 1:], (np.array([128, 124, 136, 121, 158, 111, 255]) + 0.5) / 128 - 1)
    assert actions[0, 0] == 1.5  # bin 1 of width one
    np.testing.assert_array_equal(codec.encode(actions), tokens)


def rt2_codec(names):
    """RT-2's dimensions with the ranges that RT-1's data have: m, rad, and -1 (open) to 1 (closed)."""
    ranges = {"terminate": (0.0, 256.0), "pos": (-1.0, 1.0), "rot": (-np.pi / 2, np.pi / 2), "gripper_extension": (-1.0, 1.0)}
    kinds = {"terminate": "terminate", "pos": "translation", "rot": "rotation", "gripper_extension": "gripper"}
    keys = [name.removesuffix(name[-2:]) if name[-2:] in ("_x", "_y", "_z") else name for name in names]
    dims = tuple(
        ActionDim(name=n, kind=kinds[k], unit="1", frame="", relative=True, low=ranges[k][0], high=ranges[k][1]) for n, k in zip(names, keys)
    )
    return ActionTokenizer(ActionSpec(dims=dims, horizon=1, dt_s=0.3), 0)


RT2_FORM = "terminate pos_x pos_y pos_z rot_x rot_y rot_z gripper_extension".split()


def test_rt2_action_string():
    """`1 128 91 241 5 101 127 217` of RT-2's figure: eight words, each in its dimension's range, and the same string again."""
    codec = rt2_codec(RT2_FORM)
    bins = codec.text_to_bins("1 128 91 241 5 101 127 217")
    assert bins.tolist() == [1, 128, 91, 241, 5, 101, 127, 217]
    assert codec.bins_to_text(bins) == "1 128 91 241 5 101 127 217"
    action = codec.bins_to_actions(bins)
    expected_m = [128.5 / 128 - 1, 91.5 / 128 - 1, 241.5 / 128 - 1]  # centres: 0.0039, -0.285, 0.887
    expected_rad = [np.pi / 2 * (index / 128 - 1) for index in (5.5, 101.5, 127.5)]
    np.testing.assert_allclose(action, [1.5, *expected_m, *expected_rad, 217.5 / 128 - 1], rtol=0, atol=1e-12)
    codec.spec.validate_values(action)
    np.testing.assert_array_equal(codec.actions_to_bins(action), bins)


def test_rt2_string_as_the_paper_prints_it_has_one_number_less_than_its_form():
    """Section 3.2 prints `1 128 91 241 5 101 127` for a form of eight words. Seven numbers are no action of eight dimensions."""
    printed = "1 128 91 241 5 101 127"
    with pytest.raises(DecodeError, match="has 8 numbers.*got 7"):
        rt2_codec(RT2_FORM).text_to_bins(printed)
    seven = rt2_codec(RT2_FORM[:7])
    assert seven.bins_to_text(seven.text_to_bins(printed)) == printed


@pytest.mark.parametrize("word", ["256", "-1", "1.5", "x", "+3", "1_0", "٣"])
def test_a_word_that_is_no_bin_is_refused(word):
    with pytest.raises(DecodeError, match="is no bin"):
        rt2_codec(RT2_FORM).text_to_bins(f"1 128 91 241 5 101 127 {word}")


@given(st.lists(st.integers(0, 255), min_size=8, max_size=8))
def test_every_action_string_survives_reading_and_writing(bins):
    codec = rt2_codec(RT2_FORM)
    assert codec.text_to_bins(codec.bins_to_text(np.array(bins))).tolist() == bins


@pytest.mark.parametrize("bins", [[1] * 7, [1] * 7 + [256], [-1] + [1] * 7, [1.0] * 8])
def test_bins_that_are_no_action_are_not_written(bins):
    with pytest.raises(DecodeError):
        rt2_codec(RT2_FORM).bins_to_text(np.array(bins))


@pytest.mark.parametrize("token", [FIRST - 1, FIRST + 256, 0, -1, 31743, 2**31 - 1])
def test_a_word_is_never_clipped_to_a_motion(token):
    """OpenVLA decodes every id below its action range to +0.996 of full speed."""
    tokens = np.full((5, 6), FIRST)
    tokens[2, 3] = token
    with pytest.raises(DecodeError, match=rf"{token} at \[2, 3\].*\[512, 768\)"):
        TOKENS.decode(tokens)


@pytest.mark.parametrize("tokens", [np.full((4, 6), FIRST), np.full((30,), FIRST), np.full((5, 6), float(FIRST)), np.full((5, 6), np.nan)])
def test_tokens_of_a_wrong_shape_or_type_are_refused(tokens):
    with pytest.raises(DecodeError):
        TOKENS.decode(tokens)


@pytest.mark.parametrize("value", [0.2500001, -0.26, np.nan, np.inf, -np.inf])
def test_an_action_out_of_bounds_is_refused(value):
    actions = np.zeros((5, 6))
    actions[1, 2] = value
    with pytest.raises(ActionError, match="'y'"):
        TOKENS.encode(actions)


def test_clip_moves_values_to_the_outer_bins_but_not_nan():
    actions = np.zeros((5, 6))
    actions[0, 1:3] = [9.0, -9.0]
    assert TOKENS.encode(actions, clip=True)[0, 1:3].tolist() == [FIRST + 255, FIRST]
    assert actions[0, 1] == 9.0  # the input is not written to
    actions[0, 1] = np.nan
    with pytest.raises(ActionError):
        TOKENS.encode(actions, clip=True)


def test_specifications_that_mean_nothing_are_refused():
    dim = dict(name="x", kind="translation", unit="m", frame="base_link", relative=True, low=-1.0, high=1.0)
    for change in ({"low": 2.0}, {"high": np.inf}, {"kind": "speed"}, {"num_bins": 1}, {"name": ""}):
        with pytest.raises(ConfigError):
            ActionDim(**{**dim, **change})
    x = ActionDim(**dim)
    other_bins = ActionDim(**{**dim, "name": "y", "num_bins": 128})
    for change in ({"dims": ()}, {"dims": (x, x)}, {"horizon": 0}, {"dt_s": 0.0}, {"dims": (x, other_bins)}):
        with pytest.raises(ConfigError):
            ActionSpec(**{"dims": (x,), "horizon": 1, "dt_s": 0.1, **change})


def test_specification_survives_a_dictionary():
    assert ActionSpec.from_dict(ACTION_SPEC.to_dict()) == ACTION_SPEC
    assert ACTION_SPEC.num_tokens == 30 and ACTION_SPEC.dt_ns == 200_000_000 and ACTION_SPEC.index("yaw") == 4
    with pytest.raises(ConfigError, match="gripper"):
        ACTION_SPEC.index("roll")
